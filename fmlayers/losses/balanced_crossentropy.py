import math
from typing import Any

import keras
from keras import ops

from fmlayers._checks import positive
from fmlayers._types import Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class BalancedCrossentropy(keras.losses.BinaryCrossentropy):
    """Cross-entropy that weights the label 1, and whose scores stay calibrated.

        loss = w^y (-y ln p - (1 - y) ln(1 - p)),  p = sigmoid(score + ln w)

    A weight w of the label 1 multiplies the odds that a model learns by w. The loss
    adds ln w to the score, so that the model learns this shift for free: sigmoid(score)
    is the probability of the label 1, as without weights.

    Args:
        positive_weight: Positive float, the weight w of the label 1. Defaults to 1.
        reduction: Same as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: Optional name. Defaults to `"balanced_crossentropy"`.
        dtype: Optional dtype of the computation. Defaults to Keras' `floatx()`.

    Call arguments:
        y_true: Labels of shape `(batch,)` or `(batch, 1)`.
        y_pred: Raw scores, of either shape.
        sample_weight: Optional weights of the rows, of shape `(batch,)`.

    Raises:
        ValueError: If `positive_weight` is not positive.

    Example:

    >>> loss = fmlayers.losses.BalancedCrossentropy(positive_weight=3.0)
    >>> labels, scores = np.array([1.0, 0.0]), np.log([1 / 3, 1 / 3])
    >>> print(f"{float(loss(labels, scores)):.4f}")  # (3 ln 2 + ln 2) / 2
    1.3863

    References:
        King, G. and Zeng, L. (2001). Logistic Regression in Rare Events Data. Political
        Analysis 9(2), section 4.1 (prior correction).
    """

    def __init__(
        self,
        positive_weight: float = 1.0,
        reduction: str = "sum_over_batch_size",
        name: str | None = "balanced_crossentropy",
        dtype: Any = None,
    ) -> None:
        positive_weight = positive("positive_weight", positive_weight)
        super().__init__(from_logits=True, reduction=reduction, name=name, dtype=dtype)
        self.positive_weight = positive_weight

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        scores = ops.reshape(ops.convert_to_tensor(y_pred), (-1,))
        labels = ops.reshape(ops.cast(y_true, scores.dtype), (-1,))
        scores = scores + math.log(self.positive_weight)
        of_positives = self.positive_weight * labels * ops.softplus(-scores)
        return of_positives + (1.0 - labels) * ops.softplus(scores)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "positive_weight": self.positive_weight}
        for name in ("from_logits", "label_smoothing", "axis"):
            config.pop(name, None)
        return config
