from typing import Any

import keras
from keras import ops

from fmlayers._checks import integer
from fmlayers._types import Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class BPR(keras.losses.Loss):
    """Bayesian personalized ranking (BPR): positives should score above negatives.

        loss = mean over pairs (i, j) with y_i > y_j of -ln sigmoid(score_i - score_j)

    The rows of a batch consist of groups of `group_size` consecutive rows. Pairs are
    formed within a group, for example between an item that a user rated and
    `group_size - 1` sampled negatives. The loss depends only on differences of scores:
    the model needs no scaler, and terms shared by a group (the bias, the user's
    first-order weight) get no gradient.

    Args:
        group_size: Integer of at least 2, the number of rows per group. Defaults to 2.
        reduction: Reduction over the groups, same as in `keras.losses.Loss`. Defaults
            to `"sum_over_batch_size"`.
        name: Optional name. Defaults to `"bpr"`.
        dtype: Optional dtype of the computation. Defaults to Keras' `floatx()`.

    Call arguments:
        y_true: Labels of shape `(groups * group_size,)` or `(groups * group_size, 1)`.
        y_pred: Raw scores, of either shape.
        sample_weight: Optional weights of the rows, of either shape. The weight of a
            group is the mean of its rows' weights.

    Raises:
        ValueError: If `group_size` is less than 2.

    Example:

    >>> loss = fmlayers.losses.BPR(group_size=3)
    >>> labels, scores = np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0])
    >>> print(f"{float(loss(labels, scores)):.4f}")  # ln 2, as if chosen at random
    0.6931

    References:
        Rendle, S., Freudenthaler, C., Gantner, Z. and Schmidt-Thieme, L. (2009). BPR:
        Bayesian Personalized Ranking from Implicit Feedback. UAI, section 4.1
        (BPR-OPT; its regularization is the `l2` of the layers).
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

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        if sample_weight is not None:
            of_groups = ops.reshape(sample_weight, (-1, self.group_size))
            sample_weight = ops.mean(of_groups, axis=1)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_pred = ops.convert_to_tensor(y_pred)
        labels = ops.reshape(ops.cast(y_true, y_pred.dtype), (-1, self.group_size))
        scores = ops.reshape(y_pred, (-1, self.group_size))
        above = labels[:, :, None] > labels[:, None, :]  # (groups, i, j)
        margins = scores[:, :, None] - scores[:, None, :]
        # Masked before softplus: the difference of two infinite scores is NaN.
        margins = ops.where(above, margins, 0.0)
        losses = ops.where(above, ops.softplus(-margins), 0.0)
        pairs = ops.sum(ops.cast(above, losses.dtype), axis=(1, 2))
        return ops.sum(losses, axis=(1, 2)) / ops.maximum(pairs, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "group_size": self.group_size}
