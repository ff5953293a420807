from typing import Any

import keras
from keras import ops

from fmlayers._types import Tensor

_LEAST = -1.0 + 1e-6  # keeps the logarithm of rounded predictions finite


@keras.saving.register_keras_serializable(package="fmlayers")
class SquaredLogError(keras.losses.Loss):
    """Squared error of the logarithms, for counts and other long-tailed targets.

        loss = (ln(1 + y_pred) - ln(1 + y_true))^2

    Unlike `keras.losses.MeanSquaredLogarithmicError`, it has a gradient at predictions
    of 0 and below. With a `RatingScaler(transform="log1p")`, it is the squared error of
    the scores.

    Args:
        reduction: Same as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: Optional name. Defaults to `"squared_log_error"`.
        dtype: Optional dtype of the computation. Defaults to Keras' `floatx()`.

    Call arguments:
        y_true: Targets of at least 0, of shape `(batch,)` or `(batch, 1)`.
        y_pred: Predictions greater than -1, of either shape.
        sample_weight: Optional weights of the rows, of shape `(batch,)`.

    Example:

    >>> loss = fmlayers.losses.SquaredLogError()
    >>> counts, predictions = np.array([0.0, 9.0]), np.array([0.0, 99.0])
    >>> print(f"{float(loss(counts, predictions)):.4f}")  # (ln 10)^2 / 2
    2.6509
    """

    def __init__(
        self,
        reduction: str = "sum_over_batch_size",
        name: str | None = "squared_log_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        predicted = ops.reshape(ops.convert_to_tensor(y_pred), (-1,))
        targets = ops.reshape(ops.cast(y_true, predicted.dtype), (-1,))
        logarithm = ops.log1p(ops.maximum(predicted, _LEAST))
        return ops.square(logarithm - ops.log1p(targets))
