from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._training.array_pipelines import in_order
from fmlayers.features import History
from fmlayers.runs.folder import DivergenceError
from fmlayers.runs.memory import memory_errors

BATCH_SIZE = 8192
# A batch sums the histories of all its users and items, so larger batches cost less.
BATCH_SIZE_WITH_HISTORIES = 32_768
_REMEDY = (
    "The weights are too large, and the run must be trained again with a lower "
    "`learning_rate`, or a number in the inputs is too large."
)


def batch_size_of(model: keras.Model) -> int:
    """Returns the rows per batch for the predictions of a model."""
    # Elsewhere, the rows of all histories of a batch are in memory at the same time.
    is_tensorflow = keras.backend.backend() == "tensorflow"
    if is_tensorflow and any(isinstance(each, History) for each in model.features):
        return BATCH_SIZE_WITH_HISTORIES
    return BATCH_SIZE


def predict(
    model: keras.Model,
    inputs: dict[str, npt.NDArray[Any]],
    batch_size: int | None = None,
) -> npt.NDArray[np.float32]:
    """Returns the predictions of a model, `(rows,)`.

    Args:
        model: The model.
        inputs: Dict of arrays. They may have no rows.
        batch_size: Optional positive integer, rows per batch. Defaults to
            `batch_size_of(model)`.

    Raises:
        DivergenceError: If a prediction is NaN or infinite.
    """
    if len(next(iter(inputs.values()))) == 0:
        return np.empty(0, np.float32)
    if batch_size is None:
        batch_size = batch_size_of(model)
    with memory_errors("Predict fewer rows at a time."):
        if keras.backend.backend() == "tensorflow":
            ratings = model.predict(in_order(inputs, batch_size), verbose=0)
        else:
            ratings = model.predict(inputs, batch_size=batch_size, verbose=0)
    flat: npt.NDArray[np.float32] = np.asarray(ratings, np.float32)[:, 0]
    broken = ~np.isfinite(flat)
    if broken.any():
        raise DivergenceError(
            "The predictions of the model must be finite. Received: "
            f"{flat[broken][0]} for row {broken.argmax() + 1:,} of {len(flat):,}. "
            f"{_REMEDY}"
        )
    return flat


def probabilities(
    model: keras.Model, inputs: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    """Returns the probabilities of the label 1, the sigmoids of a model's scores."""
    scores = predict(model, inputs).astype(np.float64)
    # The form in tanh does not overflow.
    return (0.5 + 0.5 * np.tanh(0.5 * scores)).astype(np.float32)


def check_scores(*arrays: npt.ArrayLike) -> None:
    """Checks scores, or terms of scores.

    Raises:
        DivergenceError: If one is NaN or infinite.
    """
    for array in arrays:
        if not np.isfinite(array).all():
            raise DivergenceError(
                "The scores of the model must be finite. Received: a score of NaN or "
                f"infinity. {_REMEDY}"
            )
