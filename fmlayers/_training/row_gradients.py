"""Gradients of the rows that a batch looks up, instead of whole tables, on JAX.

The training step of Keras differentiates with respect to whole tables. On JAX, the
gradients are dense, and the cost of a step depends on the number of rows. Here, a
look-up returns

    stop_gradient(take(table, ids)) + tap

where the tap is zero, and the step differentiates with respect to the taps.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from fmlayers._backend import take_rows
from fmlayers._hosts import on_every_host


@dataclass(frozen=True)
class RowGradients:
    """The gradient of some rows of a table, as `tf.IndexedSlices` on TensorFlow.

    Attributes:
        values: Float tensor of shape `(occurrences, dim)`.
        indices: Integer tensor of shape `(occurrences,)`, the rows. They may repeat.
    """

    values: Any
    indices: Any

    @property
    def dtype(self) -> Any:
        return self.values.dtype


@dataclass
class _Tape:
    """The look-ups of a forward pass, in their order.

    Attributes:
        tables: By `id`, the position of each table among the trainable variables.
        taps: The taps of the look-ups. If `None`, the look-ups return zeros and do not
            read the tables.
        lookups: The position of the table, the ids and the rows of each look-up.
    """

    tables: dict[int, int]
    taps: list[Any] | None = None
    lookups: list[tuple[int, Any, Any]] = field(default_factory=list)

    def look_up(self, table: Any, ids: Any, trainable: bool) -> Any:
        if id(table) not in self.tables:
            return take_rows(table, ids)
        if self.taps is None:
            shape = (*ids.shape, *table.shape[1:])
            rows = ops.zeros(shape, table.dtype)
        else:
            rows = ops.stop_gradient(take_rows(table, ids))
        if not trainable:
            return rows
        if self.taps is not None:
            rows = rows + self.taps[len(self.lookups)]
        self.lookups.append((self.tables[id(table)], ids, rows))
        return rows

    def __enter__(self) -> "_Tape":
        self._token = _TAPE.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _TAPE.reset(self._token)


_TAPE: ContextVar[_Tape | None] = ContextVar("tape", default=None)


def look_up(table: Any, ids: Any, trainable: bool = True) -> Any:
    """Returns rows of a table, with the gradient of the rows if a tape is active.

    Args:
        table: A `keras.Variable` of shape `(rows, dim)`.
        ids: Integers of any shape, within the table.
        trainable: Whether the rows have a gradient. Others of the table may have one
            if they do not. Defaults to `True`.
    """
    tape = _TAPE.get()
    if tape is not None:
        return tape.look_up(table, ids, trainable)
    rows = take_rows(table, ids)
    return rows if trainable else ops.stop_gradient(rows)


def train_step(model: Any, state: Any, data: Any) -> Any:
    """Trains on a batch, as `train_step` of `keras.Model` on JAX.

    A table that the model reads in other ways than by `look_up`, such as to pool
    histories, has a dense gradient.

    Args:
        model: A compiled model.
        state: The trainable, non-trainable, optimizer and metrics variables.
        data: A batch: inputs, targets and optional sample weights.

    Returns:
        The logs and the new state.
    """
    import jax

    trainable, fixed, optimizer, metrics = state
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)

    def loss_of(trainable: list[Any]) -> Any:
        return model.compute_loss_and_updates(
            trainable,
            fixed,
            metrics,
            x,
            y,
            weights,
            training=True,
            optimizer_variables=optimizer,
        )

    everything = {id(v): i for i, v in enumerate(model.trainable_variables)}
    with _Tape(everything) as draft:
        program = jax.make_jaxpr(lambda values: loss_of(values)[0])(trainable)
    by_rows = {i for i, _, _ in draft.lookups} - _positions_read(program.jaxpr)
    tables = {key: i for key, i in everything.items() if i in by_rows}
    taps = [
        jax.numpy.zeros(rows.shape, rows.dtype)
        for i, _, rows in draft.lookups
        if i in by_rows
    ]

    def loss_and_ids(dense: dict[int, Any], taps: list[Any]) -> Any:
        values = [dense.get(i, value) for i, value in enumerate(trainable)]
        with _Tape(tables, taps) as tape:
            loss, updates = loss_of(values)
        return loss, (updates, [ids for _, ids, _ in tape.lookups])

    dense = {i: v for i, v in enumerate(trainable) if i not in by_rows}
    differentiate = jax.value_and_grad(loss_and_ids, argnums=(0, 1), has_aux=True)
    (_, (updates, ids)), (gradients, of_taps) = differentiate(dense, taps)
    loss, predictions, fixed, metrics = updates
    owners = [i for i, _, _ in draft.lookups if i in by_rows]
    for i in by_rows:
        parts = [
            _flat(*map(on_every_host, (values, rows)))
            for owner, rows, values in zip(owners, ids, of_taps, strict=True)
            if owner == i
        ]
        values, indices = zip(*parts, strict=True)
        gradients[i] = RowGradients(
            jax.numpy.concatenate(values), jax.numpy.concatenate(indices)
        )
    trainable, optimizer = model.optimizer.stateless_apply(
        optimizer, [gradients[i] for i in range(len(trainable))], trainable
    )
    logs, metrics = model._update_metrics_variables(
        metrics, loss, x, y, predictions, weights
    )
    return logs, (trainable, fixed, optimizer, metrics)


def _flat(values: Any, rows: Any) -> tuple[Any, Any]:
    """Returns vectors and the ids of their rows with a single axis of occurrences."""
    return values.reshape(-1, *values.shape[rows.ndim :]), rows.reshape(-1)


def _positions_read(program: Any) -> set[int]:
    """Returns the positions of the arguments that a JAX program reads."""
    read = {id(v) for equation in program.eqns for v in equation.invars}
    read |= {id(v) for v in program.outvars}
    return {i for i, v in enumerate(program.invars) if id(v) in read}
