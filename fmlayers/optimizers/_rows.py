"""What the optimizers share: steps over the rows of the batch, on TensorFlow.

There a looked-up row's gradient is a slice an occurrence (`tf.IndexedSlices`): an id
that is twice in a batch has two. The other backends' gradients are as long as the
table, and so are their steps: Keras' own, but for narrow dtypes.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from fmlayers._checks import plain

SMALL_TABLE = 8192  # rows
NARROW = ("float16", "bfloat16")


class RowWise(keras.optimizers.Optimizer):
    """Mixin, in front of a Keras optimizer, that steps, clips and decays by rows.

    Duplicates are summed before anything else is done. In a table of at most 8192
    rows, or as many as the batch has ids, a step over all rows is faster than to look
    for duplicates; rows that are not in the batch stay as they are in it, too.

    Gradients of float16 and bfloat16 variables are unscaled, clipped and made into
    steps in float32: 0.999 is 1 in bfloat16, and 256 squared is infinite in float16.
    """

    # Whether a gradient of 0 moves a row, so that rows not in the batch must be told
    # from those with such a gradient.
    moves_idle_rows: bool
    loss_scale_factor: float | None

    def __init__(self, *args: Any, use_ema: bool = False, **kwargs: Any) -> None:
        if use_ema:
            raise ValueError(
                "`use_ema` must be False: averaging the weights costs a whole table a "
                "step. Received: use_ema=True."
            )
        # Keras refuses NumPy's learning rates, and saves no other of its numbers.
        kwargs = {name: plain(value) for name, value in kwargs.items()}
        super().__init__(*map(plain, args), use_ema=use_ema, **kwargs)

    @abstractmethod
    def _slots(self, variable: Any) -> list[Any]:
        """Returns the optimizer's variables that are shaped like `variable`."""

    @abstractmethod
    def _changes(
        self, gradient: Any, slots: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        """Returns what to add to the variable and to its slots.

        Args:
            gradient: Float tensor, rows of a gradient.
            slots: The same rows of the slots.
            learning_rate: Float scalar.
        """

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._writers: dict[int, Any] = {}
        if keras.backend.backend() != "tensorflow":
            return
        import tensorflow as tf

        for index, variable in enumerate(variables):
            rows = variable.shape[0] if variable.shape else 0
            if rows > SMALL_TABLE:
                # Scratch, not state: no file has it. A float, of which every device
                # can scatter and gather; whole up to 2**24 ids in a batch.
                with tf.init_scope():
                    scratch = tf.Variable(tf.zeros((rows,)), trainable=False)
                self._writers[index] = scratch

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        scale = self.loss_scale_factor
        # What is accumulated over steps has to be of the variables' dtype.
        if not self.gradient_accumulation_steps:
            grads = [_map_values(_widened, g) for g in grads]
        if scale is None or keras.backend.backend() != "tensorflow":
            super().apply(grads, trainable_variables)
            return
        # Keras divides the gradients by a float, which slices do not know.
        grads = [_map_values(lambda values: values / scale, g) for g in grads]
        self.loss_scale_factor = None
        try:
            super().apply(grads, trainable_variables)
        finally:
            self.loss_scale_factor = scale

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = _map_values(_widened, gradient)
        decay = self._decay(gradient, variable, learning_rate)
        if is_sliced(gradient):
            if variable.shape[0] > max(gradient.indices.shape[0] or 0, SMALL_TABLE):
                self._step_rows(gradient, variable, learning_rate, decay)
            else:
                self._step_table(gradient, variable, learning_rate, decay)
        elif keras.backend.standardize_dtype(variable.dtype) in NARROW:
            self._step_whole(gradient, variable, learning_rate, decay)
        else:
            if decay is not None:
                self.assign_sub(variable, decay * variable)
            super().update_step(gradient, variable, learning_rate)

    def _decay(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Returns the share that a step takes off, `None` where Keras takes it."""
        if keras.backend.backend() != "tensorflow" or self.weight_decay is None:
            return None
        if not self._use_weight_decay(variable):
            return None
        return ops.cast(learning_rate, gradient.dtype) * self.weight_decay

    def _step_whole(
        self,
        gradient: Any,
        variable: Any,
        learning_rate: Any,
        decay: Any,
        touched: Any = None,
    ) -> None:
        variables = [variable, *self._slots(variable)]
        values = [ops.cast(v, gradient.dtype) for v in variables]
        changes = self._changes(gradient, values[1:], learning_rate)
        if decay is not None:
            changes[0] -= decay * values[0]
        for each, change in zip(variables, changes, strict=True):
            if touched is not None:
                change = ops.where(_as_rows(touched, change), change, 0)
            self.assign_add(each, change)

    def _step_table(
        self, gradient: Any, variable: Any, learning_rate: Any, decay: Any
    ) -> None:
        import tensorflow as tf

        indices, rows = gradient.indices, variable.shape[0]
        total = tf.math.unsorted_segment_sum(gradient.values, indices, rows)
        touched = None
        if decay is not None or self.moves_idle_rows:
            ones = tf.ones_like(indices)
            touched = tf.math.unsorted_segment_sum(ones, indices, rows) > 0
        self._step_whole(total, variable, learning_rate, decay, touched)

    def _step_rows(
        self, gradient: Any, variable: Any, learning_rate: Any, decay: Any
    ) -> None:
        import tensorflow as tf

        # Each occurrence of an id writes its place into the id's row of the scratch;
        # whichever is read back then stands for all: no sort, no pass over the table.
        indices = gradient.indices
        writers = self._writers[self._get_variable_index(variable)]
        places = tf.range(tf.size(indices), dtype=tf.float32)
        writers.scatter_update(tf.IndexedSlices(places, indices))
        chosen = tf.gather(writers, indices)
        first = chosen == places
        total = tf.math.unsorted_segment_sum(
            gradient.values, tf.cast(chosen, tf.int32), tf.size(indices)
        )
        variables = [variable, *self._slots(variable)]
        slots = [_gathered(v, indices, total.dtype) for v in variables[1:]]
        changes = self._changes(total, slots, learning_rate)
        if decay is not None:
            changes[0] -= decay * _gathered(variable, indices, total.dtype)
        for each, change in zip(variables, changes, strict=True):
            change = tf.where(_as_rows(first, change), change, 0)
            self.assign_add(each, tf.IndexedSlices(change, indices))

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        clips = self.clipnorm or self.clipvalue or self.global_clipnorm
        if not clips or keras.backend.backend() != "tensorflow":
            return list(super()._clip_gradients(grads))
        grads = [sum_rows(g) if is_sliced(g) else g for g in grads]
        values = [g.values if is_sliced(g) else g for g in grads]
        clipped = super()._clip_gradients(values)
        return [
            _map_values(lambda _, found=found: found, g)
            for g, found in zip(grads, clipped, strict=True)
        ]

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # On TensorFlow `update_step` decays, which knows the rows.
        if keras.backend.backend() != "tensorflow":
            super()._apply_weight_decay(variables)


def is_sliced(gradient: Any) -> bool:
    """Tells whether a gradient is one of rows, which exist on TensorFlow alone."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def sum_rows(gradient: Any) -> Any:
    """Moves the sum over a row's occurrences to one of them, and zeros the others.

    The number of slices stays what it was: XLA compiles static shapes alone.
    """
    import tensorflow as tf

    order = tf.argsort(gradient.indices)
    indices = tf.gather(gradient.indices, order)
    values = tf.gather(gradient.values, order)
    first = tf.concat([tf.ones_like(indices[:1], bool), indices[1:] != indices[:-1]], 0)
    run = tf.cumsum(tf.cast(first, tf.int32)) - 1
    sums = tf.math.unsorted_segment_sum(values, run, tf.size(indices))
    values = tf.where(_as_rows(first, values), tf.gather(sums, run), 0)
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def _widened(values: Any) -> Any:
    """Returns gradients of a narrow dtype as float32, in which a step is taken."""
    dtype = keras.backend.standardize_dtype(values.dtype)
    return ops.cast(values, "float32") if dtype in NARROW else values


def _map_values(function: Callable[..., Any], gradient: Any) -> Any:
    if gradient is None or not is_sliced(gradient):
        return gradient if gradient is None else function(gradient)
    import tensorflow as tf

    values = function(gradient.values)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def _as_rows(flags: Any, like: Any) -> Any:
    """Returns flags of rows with as many axes as the rows have."""
    import tensorflow as tf

    shape = tf.concat([tf.shape(flags), tf.ones(tf.rank(like) - 1, tf.int32)], 0)
    return tf.reshape(flags, shape)


def _gathered(variable: Any, indices: Any, dtype: Any) -> Any:
    import tensorflow as tf

    # A plain read would keep a reference to the table and make the scatter copy it.
    table = variable.value if isinstance(variable, keras.Variable) else variable
    return tf.cast(tf.gather(table, indices), dtype)
