from typing import Any

import keras
from keras import ops

from fmlayers._checks import integer
from fmlayers._types import Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class BPR(keras.losses.Loss):
    """Bayesian personalized ranking: what was chosen scores above what was not.

        loss = mean over pairs (i, j) with y_i > y_j of -ln sigmoid(score_i - score_j)

    The rows of a batch come in groups of `group_size` that are compared among
    themselves, such as one item that a user rated and `group_size` - 1 drawn from
    those that the user did not, as `fmlayers.runs.SampledBatches` makes them.
    Only differences count: the model needs no scaler, and what a group has in common
    (b, the user's own first-order weight) learns nothing.

    Args:
        group_size: Integer, at least 2. Defaults to 2.
        reduction: As of `keras.losses.Loss`, over groups. Sample weights, one a row,
            are not supported.
        name: Optional name.
        dtype: Optional dtype of the computation.

    Call arguments:
        y_true: Labels, `(groups * group_size,)` or with one more axis of size 1.
        y_pred: Raw scores, likewise.

    Raises:
        ValueError: If `group_size` is less than 2.

    Example:

    >>> loss = fmlayers.losses.BPR(group_size=3)
    >>> labels, scores = np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0])
    >>> print(f"{float(loss(labels, scores)):.4f}")  # ln 2: no better than chance
    0.6931

    References:
        Rendle, S., Freudenthaler, C., Gantner, Z. and Schmidt-Thieme, L. (2009). BPR:
        Bayesian Personalized Ranking from Implicit Feedback. UAI, section 4.1
        (BPR-OPT, without the prior, which is the layers' `l2`).
    """

    def __init__(
        self,
        group_size: int = 2,
        reduction: str = "sum_over_batch_size",
        name: str | None = "bpr",
        dtype: Any = None,
    ) -> None:
        rule = "an integer of at least 2"
        group_size = integer("group_size", group_size, rule, least=2)
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.group_size = group_size

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_pred = ops.convert_to_tensor(y_pred)
        labels = ops.reshape(ops.cast(y_true, y_pred.dtype), (-1, self.group_size))
        scores = ops.reshape(y_pred, (-1, self.group_size))
        above = labels[:, :, None] > labels[:, None, :]  # (groups, i, j)
        margins = scores[:, :, None] - scores[:, None, :]
        # Infinite scores, whose difference is NaN, are compared only where they count.
        margins = ops.where(above, margins, 0.0)
        losses = ops.where(above, ops.softplus(-margins), 0.0)
        pairs = ops.sum(ops.cast(above, losses.dtype), axis=(1, 2))
        return ops.sum(losses, axis=(1, 2)) / ops.maximum(pairs, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "group_size": self.group_size}
