"""Sparse updates, shared by the optimizers.

The gradient of an embedding lookup has one slice per occurrence of an id; see
`_slices.py`. For dense gradients, the optimizers use the step of Keras, except for
float16 and bfloat16 variables and for `row_wise`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fmlayers._backend import all_rows, assign_all_rows, saved_shape
from fmlayers._checks import boolean, plain
from fmlayers._spread.rows import SpreadRows, is_spread
from fmlayers._spread.stored_rows import reference_to, resolved
from fmlayers._training.mode import uses_xla
from fmlayers.optimizers._distinct_rows import (
    Changes,
    add_by_piece,
    add_to_distinct,
    added_by_piece,
    in_pieces,
)
from fmlayers.optimizers._joined_slots import joined_slots
from fmlayers.optimizers._slices import (
    as_rows,
    is_sliced,
    map_values,
    representatives,
    sum_rows,
)
from fmlayers.optimizers._value_numbers import ValueNumbers

# In compiled programs, where shapes do not depend on the data, a dense step of a table
# takes as long as a sparse step of half of its rows.
ROWS_PER_ID = 2
# If the number of ids is unknown, tables up to this size compile both kinds of steps.
MAX_DENSE_ROWS = 8192
NARROW_DTYPES = ("float16", "bfloat16")


class RowWise(keras.optimizers.Optimizer):
    """Mixin that adds sparse updates, clipping and weight decay to a Keras optimizer.

    List it before the Keras optimizer among the base classes.

    The gradients of duplicate ids are summed first. In compiled programs, a dense step
    of a table of at most two rows per id in the batch is faster than a search for
    duplicates. Even then, rows that are not in the batch stay unchanged.

    Gradients of float16 and bfloat16 variables are unscaled, clipped and applied in
    float32: 0.999 rounds to 1 in bfloat16, and 256 squared overflows in float16.

    With `row_wise`, the slots of squared gradients have the shape `(rows, 1)` instead
    of `(rows, dim)`, and contain the mean over the row.
    """

    # Whether a gradient of 0 changes a row. If so, a dense step must distinguish rows
    # with such a gradient from rows that are not in the batch.
    moves_idle_rows: bool
    # Keras' names of the slots that contain squared gradients.
    squares: Sequence[str]
    loss_scale_factor: float | None

    def __init__(
        self,
        *args: Any,
        row_wise: bool = False,
        use_ema: bool = False,
        **kwargs: Any,
    ) -> None:
        if use_ema:
            raise ValueError(
                "`use_ema` must be False, since averaging the weights would update the "
                "whole table at each step. Received: use_ema=True."
            )
        # Keras rejects NumPy's numbers as a learning rate and cannot save others.
        kwargs = {name: plain(value) for name, value in kwargs.items()}
        super().__init__(*map(plain, args), use_ema=use_ema, **kwargs)
        self.row_wise = boolean("row_wise", row_wise)
        self._adds_squares = False
        self._spread: SpreadRows | None = None
        self._values = ValueNumbers()

    @property
    def accepts_row_gradients(self) -> bool:
        """Whether `apply` accepts sliced gradients without converting them to dense."""
        return not self.gradient_accumulation_steps

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
            A list of tensors: the increment of the variable, shaped like `gradient`,
            followed by those of the slots.
        """

    def _square(self, gradient: Any) -> Any:
        """Returns the squared gradient, or its means over the rows if `row_wise`."""
        square = ops.square(gradient)
        if not self._shrinks(gradient.shape):
            return square
        return ops.mean(square, axis=tuple(range(1, len(square.shape))), keepdims=True)

    def _shrinks(self, shape: Sequence[int]) -> bool:
        return self.row_wise and len(shape) > 1

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        for index, variable in enumerate(variables):
            if is_spread(variable):
                slots = self._slots(variable)
                if self.gradient_accumulation_steps:
                    slots = [*slots, self._accumulated_gradients[index]]
                for slot in slots:
                    slot.spread = variable.spread.like(slot)
        self._writers: dict[int, Any] = {}
        if keras.backend.backend() != "tensorflow":
            return
        import tensorflow as tf

        for index, variable in enumerate(variables):
            rows = variable.shape[0] if variable.shape else 0
            if rows > ROWS_PER_ID:
                # Scratch space of XLA programs, which is not saved. Every device can
                # scatter and gather floats. In 32 bits, they are exact up to 2**24 ids.
                with tf.init_scope():
                    zeros = tf.zeros((rows,), tf.float64)
                    scratch = tf.Variable(zeros, trainable=False)
                self._writers[index] = scratch

    def add_variable_from_reference(
        self, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> Any:
        self._adds_squares = name in self.squares
        self._spread = getattr(reference_variable, "spread", None)
        try:
            return super().add_variable_from_reference(
                reference_variable, name, initializer
            )
        finally:
            self._adds_squares = False
            self._spread = None

    def add_variable(
        self,
        shape: Sequence[int],
        initializer: Any = "zeros",
        dtype: Any = None,
        **kwargs: Any,
    ) -> Any:
        if self._adds_squares and self._shrinks(shape):
            shape = _per_row(shape)
        if self._spread is not None:
            initializer = self._spread.slot_initializer(initializer, shape, dtype)
        return super().add_variable(shape, initializer, dtype, **kwargs)

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        scale = self.loss_scale_factor
        # Gradients that are accumulated over steps must keep the variables' dtype.
        if not self.gradient_accumulation_steps:
            grads = [map_values(_widened, g) for g in grads]
        if scale is not None:
            # Keras divides by a float, which slices do not support.
            grads = [map_values(lambda values: values / scale, g) for g in grads]
        self.loss_scale_factor = None
        try:
            super().apply(grads, trainable_variables)
        finally:
            self.loss_scale_factor = scale
            self._values = ValueNumbers()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = map_values(_widened, gradient)
        decay = self._decay(gradient, variable, learning_rate)
        trained = self._trained_rows(variable)
        if is_sliced(gradient):
            self._step_slices(gradient, variable, learning_rate, decay)
        elif (
            self._shrinks(variable.shape)
            or keras.backend.standardize_dtype(variable.dtype) in NARROW_DTYPES
            or trained is not None
        ):
            self._step_whole(gradient, variable, learning_rate, decay, trained)
        else:
            if decay is not None:
                self.assign_sub(variable, decay * variable)
            super().update_step(gradient, variable, learning_rate)

    def _decay(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Returns the weight decay of a step, or `None` if there is none."""
        if self.weight_decay is None or not self._use_weight_decay(variable):
            return None
        return ops.cast(learning_rate, gradient.dtype) * self.weight_decay

    def _trained_rows(self, variable: Any) -> Any:
        """Returns which rows are trained, or `None` if no part of a table is frozen.

        A `FeatureEmbedding` may freeze some of the tables in a variable.
        """
        # On TensorFlow, Keras passes its variables without their attributes.
        variable = self._trainable_variables[self._get_variable_index(variable)]
        views = getattr(variable, "views", ())
        if all(view.trainable for view in views):
            return None
        rows = np.concatenate(
            [np.full(view.num_rows, view.trainable) for view in views]
        )
        return variable.spread.in_places(rows) if is_spread(variable) else rows

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
        changes = self._changes_of_rows(learning_rate, decay)(gradient, values)
        for each, change in zip(variables, changes, strict=True):
            if touched is not None:
                change = ops.where(as_rows(touched, change), change, 0)
            self.assign_add(each, change)

    def _step_slices(
        self, gradient: Any, variable: Any, learning_rate: Any, decay: Any
    ) -> None:
        """Updates the rows of the batch or the whole table, whichever is faster."""
        arguments = gradient, variable, learning_rate, decay
        if is_spread(variable):
            self._step_spread(*arguments)
            return
        if keras.backend.backend() == "tensorflow" and not uses_xla():
            self._step_rows(*arguments)
            return
        rows, ids = variable.shape[0], ops.shape(gradient.indices)[0]
        if rows <= ROWS_PER_ID:
            self._step_table(*arguments)
        elif not isinstance(ids, int) and rows <= MAX_DENSE_ROWS:
            ops.cond(
                rows > ROWS_PER_ID * ids,
                lambda: self._step_rows(*arguments),
                lambda: self._step_table(*arguments),
            )
        elif not isinstance(ids, int) or rows > ROWS_PER_ID * ids:
            self._step_rows(*arguments)
        else:
            self._step_table(*arguments)

    def _step_table(
        self, gradient: Any, variable: Any, learning_rate: Any, decay: Any
    ) -> None:
        indices, rows = gradient.indices, variable.shape[0]
        total = ops.segment_sum(gradient.values, indices, rows)
        touched = None
        if decay is not None or self.moves_idle_rows:
            touched = ops.segment_sum(ops.ones_like(indices), indices, rows) > 0
        self._step_whole(total, variable, learning_rate, decay, touched)

    def _step_rows(
        self, gradient: Any, variable: Any, learning_rate: Any, decay: Any
    ) -> None:
        indices = gradient.indices
        # TensorFlow does not know the shape of slices from several replicas.
        values = ops.reshape(gradient.values, (-1, *variable.shape[1:]))
        variables = [variable, *self._slots(variable)]
        changes = self._changes_of_rows(learning_rate, decay)
        if keras.backend.backend() != "tensorflow":
            chosen = representatives(indices, variable.shape[0])
            pieces = in_pieces(indices, chosen, values)
            tables = added_by_piece([v.value for v in variables], pieces, changes)
            for each, table in zip(variables, tables, strict=True):
                each.assign(table)
        elif uses_xla():
            chosen = self._representatives(indices, variable)
            add_by_piece(variables, in_pieces(indices, chosen, values), changes)
        else:
            add_to_distinct(variables, self._distinct(indices), values, changes)

    def _step_spread(
        self, gradient: Any, variable: Any, learning_rate: Any, decay: Any
    ) -> None:
        """Same as `_step_rows`, on each host for its rows of the variable."""
        changes = self._changes_of_rows(learning_rate, decay)

        def step(tables: Sequence[Any], places: Any, values: Any) -> list[Any]:
            chosen = representatives(places, len(tables[0]) + 1)
            return added_by_piece(tables, in_pieces(places, chosen, values), changes)

        variables = [variable, *self._slots(variable)]
        tables = variable.spread.update(
            step, [v.value for v in variables], gradient.indices, gradient.values
        )
        for each, table in zip(variables, tables, strict=True):
            each.assign(table)

    def _changes_of_rows(self, learning_rate: Any, decay: Any) -> Changes:
        """Returns `_changes` with weight decay, as a function of rows of all tables.

        Args:
            learning_rate: Float scalar.
            decay: The weight decay, or `None`.
        """

        def changes(total: Any, rows: Sequence[Any]) -> list[Any]:
            found = self._changes(total, rows[1:], learning_rate)
            if decay is not None:
                found[0] -= decay * rows[0]
            return found

        return changes

    def _distinct(self, indices: Any) -> Any:
        """Returns the distinct indices, and the position of each index among them.

        In a graph, tables of the same ids, such as the vectors and the first-order
        weights of a feature, share the search.
        """
        import tensorflow as tf

        indices = tf.convert_to_tensor(indices)
        return self._once(lambda: tf.unique(indices), "distinct", indices)

    def _representatives(self, indices: Any, variable: Any) -> Any:
        """Returns the position of one occurrence of each id, for all its occurrences.

        Finds duplicates without a sort or a pass over the table: each occurrence of an
        id writes its position to the row of the id, and the one that is read back
        represents all of them. Tables of the same ids share the search.
        """
        import tensorflow as tf

        indices = tf.convert_to_tensor(indices)

        def search() -> Any:
            writers = self._writers[self._get_variable_index(variable)]
            places = tf.range(tf.size(indices), dtype=writers.dtype)
            writers.scatter_update(tf.IndexedSlices(places, indices))
            return tf.gather(writers, indices)

        return self._once(search, variable.shape[0], indices)

    def _once(self, search: Any, key: Any, indices: Any) -> Any:
        """Returns the result of a search, once for equal indices and the same key."""
        import tensorflow as tf

        # The branches of a condition cannot share the result.
        graph = id(tf.compat.v1.get_default_graph())
        return self._values.once(search, (key, graph), indices)

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        if not (self.clipnorm or self.clipvalue or self.global_clipnorm):
            return list(grads)
        grads = [sum_rows(g) if is_sliced(g) else g for g in grads]
        values = [g.values if is_sliced(g) else g for g in grads]
        clipped = super()._clip_gradients(values)
        return [
            map_values(lambda _, values=values: values, g)
            for g, values in zip(grads, clipped, strict=True)
        ]

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Leaves it to `update_step`, which applies it to the rows in the batch."""

    def save_own_variables(self, store: Any) -> None:
        for i, variable in enumerate(self.variables):
            reference = reference_to(variable)
            store[str(i)] = all_rows(variable) if reference is None else reference

    def load_own_variables(self, store: Any) -> None:
        if self.built and len(store.keys()) != len(self.variables):
            store = self._joined(store) or store
        saved = [resolved(store[str(i)]) for i in range(len(store.keys()))]
        self._check_kind(saved)
        if len(saved) != len(self.variables):
            super().load_own_variables(store)  # warns
            return
        for variable, value in zip(self.variables, saved, strict=True):
            assign_all_rows(variable, value)

    def _joined(self, store: Any) -> dict[str, Any] | None:
        """Returns the state from a file with slots for each table, if it is one."""
        slots = [self._slots(variable) for variable in self._trainable_variables]
        in_order = [id(slot) for each in slots for slot in each]
        head = len(self.variables) - len(in_order)
        if [id(v) for v in self.variables[head:]] != in_order:
            return None
        return joined_slots(store, head, self._trainable_variables, slots)

    def set_weights(self, weights: Sequence[Any]) -> None:
        self._check_kind(weights)
        super().set_weights(weights)

    def _check_kind(self, saved: Sequence[Any]) -> None:
        """Refuses the state of an optimizer of the other kind."""
        if len(saved) != len(self.variables):
            return  # of other variables
        for variable, value in zip(self.variables, saved, strict=True):
            mine, other = saved_shape(variable), tuple(value.shape)
            wide, narrow = (other, mine) if self.row_wise else (mine, other)
            if wide != narrow and _per_row(wide) == narrow:
                raise ValueError(
                    f"`row_wise` must be {not self.row_wise}, as in the optimizer that "
                    f"was saved. Received: row_wise={self.row_wise}, and a saved "
                    f"{variable.path} of shape {other} instead of {mine}."
                )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "row_wise": self.row_wise}


def _per_row(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of one number per row."""
    return (*shape[:1], *(1 for _ in shape[1:]))


def _widened(values: Any) -> Any:
    """Casts float16 and bfloat16 gradients to float32."""
    dtype = keras.backend.standardize_dtype(values.dtype)
    return ops.cast(values, "float32") if dtype in NARROW_DTYPES else values
