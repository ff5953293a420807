from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from fmlayers._types import ADAGRAD_RATE
from fmlayers.optimizers._rows import RowWise


@keras.saving.register_keras_serializable(package="fmlayers")
class Adagrad(RowWise, keras.optimizers.Adagrad):
    """Adagrad for embedding tables, with sparse updates.

        a_t = a_{t-1} + g_t^2
        w_t = w_{t-1} - learning_rate * g_t / sqrt(a_t + epsilon)

    where g_t is the gradient of a row, summed over its occurrences in the batch. On
    TensorFlow, the gradient of an embedding lookup has a separate slice for each
    occurrence of an id. `keras.optimizers.Adagrad` squares and applies these slices
    one by one, so with duplicate ids its results differ from those on JAX and PyTorch
    and from the paper. The results of this optimizer are the same on all backends.

    On TensorFlow, and on JAX in subclasses of `ScoringModel`, the cost of a step
    depends on the number of ids in the batch, not on the number of rows in the table.
    Clipping, `weight_decay` and `loss_scale_factor` apply to the summed gradients of
    the rows in the batch; `weight_decay` leaves other rows unchanged. Otherwise, and
    with `gradient_accumulation_steps`, the gradients are dense and the step is that of
    Keras.

    With `row_wise=True`, a row of a table has one accumulator instead of one per
    dimension:

        a_t = a_{t-1} + mean(g_t^2)

    where the mean is over the row. The optimizer then takes 1 / dim of the memory, and
    a step reads and writes less of it. This is the default of FBGEMM and TorchRec for
    large tables.

    Args:
        learning_rate: Float or schedule. Defaults to 0.05, as in `fmlayers train` for
            ratings. (With Keras' default of 0.001, a row hardly changes in an epoch.)
        initial_accumulator_value: Non-negative float, a_0. While the accumulated
            squared gradient is small compared to it, the steps are about those of
            gradient descent. The gradient of a row is a mean over the batch, and its
            square is about 1 / batch_size^2, so Keras' default of 0.1 is too large.
            Defaults to 1e-7.
        epsilon: Small float, for numerical stability. Defaults to 1e-7.
        row_wise: Boolean, whether each row has one accumulator. Applies to all
            variables of at least two dimensions, whose rows are along the first; the
            others, such as biases, have one per number. The same learning rate suits
            both. Defaults to `False`.
        **kwargs: Further arguments of `keras.optimizers.Adagrad`.

    Raises:
        ValueError: If `use_ema` is true, or if a saved state with another value of
            `row_wise` is loaded.

    Example:

    >>> optimizer = fmlayers.optimizers.Adagrad(clipnorm=1.0)

    References:
        Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive Subgradient Methods
        for Online Learning and Stochastic Optimization. JMLR 12, figure 1
        (diagonal).
        Mudigere, D. et al. (2022). Software-Hardware Co-design for Fast and Scalable
        Training of Deep Learning Recommendation Models. ISCA (row-wise).
    """

    moves_idle_rows = False
    squares = ("accumulator",)

    def __init__(
        self,
        learning_rate: Any = ADAGRAD_RATE,
        initial_accumulator_value: float = 1e-7,
        *args: Any,
        row_wise: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            initial_accumulator_value,
            *args,
            row_wise=row_wise,
            **kwargs,
        )

    def _slots(self, variable: Any) -> list[Any]:
        return [self._accumulators[self._get_variable_index(variable)]]

    def _changes(
        self, gradient: Any, slots: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        rate = ops.cast(learning_rate, gradient.dtype)
        total = slots[0] + self._square(gradient)
        move = -rate * gradient / ops.sqrt(total + self.epsilon)
        # As a difference, which depends on the rows read: otherwise XLA may write
        # before it reads, and then copies the whole table.
        return [move, total - slots[0]]
