from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers.data.pipelines import in_order


def predict(
    model: keras.Model, inputs: dict[str, npt.NDArray[Any]], batch_size: int = 8192
) -> npt.NDArray[np.float32]:
    """Returns the predictions of a model, `(rows,)`. `inputs` may have no rows."""
    if len(next(iter(inputs.values()))) == 0:
        return np.empty(0, np.float32)
    if keras.backend.backend() == "tensorflow":
        ratings = model.predict(in_order(inputs, batch_size), verbose=0)
    else:
        ratings = model.predict(inputs, batch_size=batch_size, verbose=0)
    flat: npt.NDArray[np.float32] = np.asarray(ratings, np.float32)[:, 0]
    return flat


def probabilities(
    model: keras.Model, inputs: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    """Returns the probabilities of the label 1, the sigmoids of a model's scores."""
    scores = predict(model, inputs).astype(np.float64)
    # The form in tanh does not overflow.
    return (0.5 + 0.5 * np.tanh(0.5 * scores)).astype(np.float32)
