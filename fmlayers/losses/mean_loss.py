from typing import Any

import keras
from keras import ops

from fmlayers._types import Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class MeanLoss(keras.metrics.Mean):
    """Metric of the weighted mean of a loss over all rows.

        mean = sum_i w_i loss_i / sum_i w_i

    The loss that Keras reports is a mean over batches, includes regularization, and is
    not divided by the weights. Pass the metric to `compile(weighted_metrics=...)`.

    Args:
        loss: The `keras.losses.Loss`. Of a `BPR`, the mean is over the groups.
        root: Boolean, whether the result is the square root of the mean. Defaults to
            `False`.
        name: Optional name. Defaults to `"mean_loss"`.
        dtype: Optional dtype of the computation.

    Example:

    >>> metric = fmlayers.losses.MeanLoss(keras.losses.MeanSquaredError(), root=True)
    >>> targets, predictions = np.zeros((2, 1)), np.array([[3.0], [1.0]])
    >>> metric.update_state(targets, predictions, sample_weight=np.array([1.0, 3.0]))
    >>> print(f"{float(metric.result()):.4f}")  # the root of (1 * 9 + 3 * 1) / 4
    1.7321
    """

    def __init__(
        self,
        loss: keras.losses.Loss,
        *,
        root: bool = False,
        name: str | None = "mean_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.root = root
        self.loss = type(loss).from_config({**loss.get_config(), "reduction": "none"})

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        values = self.loss(y_true, y_pred)
        if sample_weight is not None:
            size = getattr(self.loss, "group_size", 1)
            sample_weight = ops.mean(ops.reshape(sample_weight, (-1, size)), axis=1)
        super().update_state(values, sample_weight)

    def result(self) -> Tensor:
        mean = super().result()
        return ops.sqrt(mean) if self.root else mean

    def get_config(self) -> dict[str, Any]:
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**super().get_config(), "loss": loss, "root": self.root}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MeanLoss":
        config = dict(config)
        loss = keras.saving.deserialize_keras_object(config.pop("loss"))
        return cls(loss, **config)
