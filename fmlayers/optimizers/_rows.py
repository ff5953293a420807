"""Sparse updates on TensorFlow, shared by the optimizers.

On TensorFlow, the gradient of an embedding lookup is a `tf.IndexedSlices` with one
slice per occurrence of an id. On the other backends gradients are dense, and the
optimizers use the step of Keras, except for float16 and bfloat16 variables.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from fmlayers._checks import plain
from fmlayers.optimizers._joined_slots import joined_slots

MAX_DENSE_ROWS = 8192  # tables up to this size get dense steps
NARROW_DTYPES = ("float16", "bfloat16")


class RowWise(keras.optimizers.Optimizer):
    """Mixin that adds sparse updates, clipping and weight decay to a Keras optimizer.

    List it before the Keras optimizer among the base classes.

    The gradients of duplicate ids are summed first. For a table of at most 8192 rows,
    or no more rows than ids in the batch, a dense step is faster than a search for
    duplicates. Even then, rows that are not in the batch stay unchanged.

    Gradients of float16 and bfloat16 variables are unscaled, clipped and applied in
    float32: 0.999 rounds to 1 in bfloat16, and 256 squared overflows in float16.
    """

    # Whether a gradient of 0 changes a row. If so, a dense step must distinguish rows
    # with such a gradient from rows that are not in the batch.
    moves_idle_rows: bool
    loss_scale_factor: float | None

    def __init__(self, *args: Any, use_ema: bool = False, **kwargs: Any) -> None:
        if use_ema:
            raise ValueError(
                "`use_ema` must be False, since averaging the weights would update the "
                "whole table at each step. Received: use_ema=True."
            )
        # Keras rejects NumPy's numbers as a learning rate and cannot save others.
        kwargs = {name: plain(value) for name, value in kwargs.items()}
        super().__init__(*map(plain, args), use_ema=use_ema, **kwargs)

    @abstractmethod
    def _slots(self, variable: Any) -> list[Any]:
        """Returns the optimizer's variables (slots) for a model variable."""

    @abstractmethod
    def _changes(
        self, gradient: Any, slots: Sequence[Any], learning_rate: Any
    ) -> list[Any]:
        """Returns the increments of the variable and of its slots.

        Args:
            gradient: Float tensor of shape `(rows, ...)`, the gradient of some rows.
            slots: The same rows of the slots.
            learning_rate: Float scalar.

        Returns:
            A list of tensors shaped like `gradient`: the increment of the variable,
            followed by those of the slots.
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
            if rows > MAX_DENSE_ROWS:
                # Scratch space, which is not saved. Every device can scatter and
                # gather floats, which are exact for up to 2**24 ids in a batch.
                with tf.init_scope():
                    scratch = tf.Variable(tf.zeros((rows,)), trainable=False)
                self._writers[index] = scratch

    def load_own_variables(self, store: Any) -> None:
        """Loads the state, also from a file with a variable for each table."""
        if len(store.keys()) != len(self.variables) and self.built:
            variables = self._trainable_variables
            slots = [self._slots(variable) for variable in variables]
            in_order = [id(slot) for each in slots for slot in each]
            head = len(self.variables) - len(in_order)
            if [id(v) for v in self.variables[head:]] == in_order:
                store = joined_slots(store, head, variables, slots) or store
        super().load_own_variables(store)

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        scale = self.loss_scale_factor
        # Gradients that are accumulated over steps must keep the variables' dtype.
        if not self.gradient_accumulation_steps:
            grads = [_map_values(_widened, g) for g in grads]
        if scale is None or keras.backend.backend() != "tensorflow":
            super().apply(grads, trainable_variables)
            return
        # Keras divides by a float, which `tf.IndexedSlices` does not support.
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
            if variable.shape[0] > max(gradient.indices.shape[0] or 0, MAX_DENSE_ROWS):
                self._step_rows(gradient, variable, learning_rate, decay)
            else:
                self._step_table(gradient, variable, learning_rate, decay)
        elif keras.backend.standardize_dtype(variable.dtype) in NARROW_DTYPES:
            self._step_whole(gradient, variable, learning_rate, decay)
        else:
            if decay is not None:
                self.assign_sub(variable, decay * variable)
            super().update_step(gradient, variable, learning_rate)

    def _decay(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Returns the weight decay of a step, or `None` if Keras applies it."""
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

        # Finds duplicates without a sort or a pass over the table: each occurrence of
        # an id writes its position to the row of the id, and the one that is read back
        # represents all of them.
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
            _map_values(lambda _, values=values: values, g)
            for g, values in zip(grads, clipped, strict=True)
        ]

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # On TensorFlow `update_step` applies it, to the rows in the batch.
        if keras.backend.backend() != "tensorflow":
            super()._apply_weight_decay(variables)


def is_sliced(gradient: Any) -> bool:
    """Returns whether a gradient is a `tf.IndexedSlices`; `False` on other backends."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.IndexedSlices)


def sum_rows(gradient: Any) -> Any:
    """Sums the slices of each row into one of them and sets the others to zero.

    The number of slices stays the same, since XLA requires static shapes.
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
    """Casts float16 and bfloat16 gradients to float32."""
    dtype = keras.backend.standardize_dtype(values.dtype)
    return ops.cast(values, "float32") if dtype in NARROW_DTYPES else values


def _map_values(function: Callable[..., Any], gradient: Any) -> Any:
    if gradient is None or not is_sliced(gradient):
        return gradient if gradient is None else function(gradient)
    import tensorflow as tf

    values = function(gradient.values)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def _as_rows(flags: Any, like: Any) -> Any:
    """Reshapes a vector of flags, one per row, to broadcast with `like`."""
    import tensorflow as tf

    shape = tf.concat([tf.shape(flags), tf.ones(tf.rank(like) - 1, tf.int32)], 0)
    return tf.reshape(flags, shape)


def _gathered(variable: Any, indices: Any, dtype: Any) -> Any:
    import tensorflow as tf

    # Reading the variable would keep a reference to it, and the scatter would copy it.
    table = variable.value if isinstance(variable, keras.Variable) else variable
    return tf.cast(tf.gather(table, indices), dtype)
