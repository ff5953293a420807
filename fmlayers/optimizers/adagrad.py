from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from fmlayers._types import ADAGRAD_RATE
from fmlayers.optimizers._rows import RowWise


@keras.saving.register_keras_serializable(package="fmlayers")
class Adagrad(RowWise, keras.optimizers.Adagrad):
    """Adagrad that sums a row's gradients before it squares them.

        a_t = a_{t-1} + g_t^2
        w_t = w_{t-1} - learning_rate * g_t / sqrt(a_t + epsilon)

    where g_t is the whole gradient of a row in the batch. On TensorFlow a looked-up
    row has one gradient an occurrence; Keras' own Adagrad squares and applies each
    alone there, hence differs from JAX and PyTorch, and from the paper, wherever
    an id is twice in a batch. This one costs as much as the batch has ids, not as the
    table has rows. Clipping, `weight_decay` and `loss_scale_factor` see the summed
    gradients of the rows in the batch, and `weight_decay` shrinks no other rows. With
    `gradient_accumulation_steps` gradients are as long as the table, and so is the
    step; as on the other backends, where it is Keras' own.

    Args:
        learning_rate: Float or schedule. Defaults to 0.05, `fmlayers train`'s for
            ratings; Keras' 0.001 hardly moves a row in an epoch.
        initial_accumulator_value: Float, a_0, at least 0: the squared gradient
            below which the step is about that of plain gradient descent. A row's
            gradient is a mean over the batch, of a square of about 1 / batch_size^2,
            next to which Keras' 0.1 stands still. Defaults to 1e-7.
        epsilon: Float, keeps the root from 0. Defaults to 1e-7.
        **kwargs: Arguments of `keras.optimizers.Adagrad`.

    Raises:
        ValueError: If `use_ema` is true.

    Example:

    >>> optimizer = fmlayers.optimizers.Adagrad(clipnorm=1.0)

    References:
        Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive Subgradient Methods
        for Online Learning and Stochastic Optimization. JMLR 12, figure 1
        (diagonal).
    """

    moves_idle_rows = False

    def __init__(
        self,
        learning_rate: Any = ADAGRAD_RATE,
        initial_accumulator_value: float = 1e-7,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, initial_accumulator_value, *args, **kwargs)

    def _slots(self, variable: Any) -> list[Any]:
        return [self._accumulators[self._get_variable_index(variable)]]

    def _changes(
        self, gradient: Any, slots: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        rate = ops.cast(learning_rate, gradient.dtype)
        total = slots[0] + ops.square(gradient)
        move = -rate * gradient / ops.sqrt(total + self.epsilon)
        # As a difference: a change that does not need the rows that were read lets XLA
        # write before it reads, and hence copy the whole table.
        return [move, total - slots[0]]
