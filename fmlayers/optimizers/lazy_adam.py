from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from fmlayers.optimizers._rows import RowWise


@keras.saving.register_keras_serializable(package="fmlayers")
class LazyAdam(RowWise, keras.optimizers.Adam):
    """Adam for embedding tables, which updates only the rows in the batch.

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t
        v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        w_t = w_{t-1} - learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
                        * m_t / (sqrt(v_t) + epsilon)

    for the rows that the batch looks up, where g_t is the gradient of a row, summed
    over its occurrences, and t is the number of all steps. `keras.optimizers.Adam`
    updates every row of a table at each step, since the moments decay even with a
    gradient of zero. Here, a row that is not in the batch keeps its value and its
    moments, and the cost of a step depends on the number of ids in the batch. Both
    agree on the first step, and if each batch contains every row of the table.

    This applies to the gradients of embedding lookups on TensorFlow, and on JAX in
    subclasses of `ScoringModel`. Other variables, other models on JAX, PyTorch and
    `gradient_accumulation_steps` use the step of Keras. Clipping, `weight_decay` and
    `loss_scale_factor` apply to the summed gradients of the rows in the batch;
    `weight_decay` leaves other rows unchanged.

    With `row_wise=True`, a row of a table has one second moment instead of one per
    dimension, of the mean of g_t^2 over the row. The first moment stays elementwise.

    Args:
        learning_rate: Float or schedule. Defaults to 0.003, since a rare row takes few
            steps. (`fmlayers train`, with early stopping, uses 0.001.)
        row_wise: Boolean, whether each row has one second moment. Applies to all
            variables of at least two dimensions, whose rows are along the first; the
            others, such as biases, have one per number. The same learning rate suits
            both. Defaults to `False`.
        **kwargs: Further arguments of `keras.optimizers.Adam`.

    Raises:
        ValueError: If `use_ema` is true, or if a saved state with another value of
            `row_wise` is loaded.

    Example:

    >>> optimizer = fmlayers.optimizers.LazyAdam(clipnorm=1.0)

    References:
        Kingma, D. P. and Ba, J. (2015). Adam: A Method for Stochastic
        Optimization. ICLR, algorithm 1 (in the more efficient form at the end of
        section 2).
    """

    moves_idle_rows = True
    squares = ("velocity", "velocity_hat")

    def __init__(
        self,
        learning_rate: Any = 0.003,
        *args: Any,
        row_wise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, *args, row_wise=row_wise, **kwargs)

    def _slots(self, variable: Any) -> list[Any]:
        index = self._get_variable_index(variable)
        slots = [self._momentums[index], self._velocities[index]]
        return [*slots, self._velocity_hats[index]] if self.amsgrad else slots

    def _changes(
        self, gradient: Any, slots: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        step = ops.cast(self.iterations + 1, gradient.dtype)
        rate = ops.cast(learning_rate, gradient.dtype)
        scale = ops.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        m, v = slots[:2]
        changes = [
            (1.0 - self.beta_1) * (gradient - m),
            (1.0 - self.beta_2) * (self._square(gradient) - v),
        ]
        square = v + changes[1]
        if self.amsgrad:
            highest = ops.maximum(slots[2], square)
            changes.append(highest - slots[2])
            square = highest
        move = -(rate * scale) * (m + changes[0]) / (ops.sqrt(square) + self.epsilon)
        return [move, *changes]
