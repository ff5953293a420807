"""Gradients of the rows that a batch looks up, instead of whole tables, on JAX.

The training step of Keras differentiates with respect to whole tables. On JAX, the
gradients are dense, and the cost of a step depends on the number of rows. Here, a
look-up returns

    stop_gradient(take(table, ids)) + tap

where the tap is zero, and the step differentiates with respect to the taps.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
from keras import ops

from fmlayers._backend import take_rows
from fmlayers._hosts import on_every_host, split
from fmlayers._spread.rows import is_spread

Pairs = list[tuple[Any, Any]]  # the values and the rows of look-ups


@dataclass(frozen=True)
class RowGradients:
    """The gradient of some rows of a table, as `tf.IndexedSlices` on TensorFlow.

    Attributes:
        values: Float tensor of shape `(occurrences, dim)`.
        indices: Integer tensor of shape `(occurrences,)`, the rows. They may repeat.
        by_host: Whether the occurrences are in equal parts, one per host, as those of
            spread tables. The values of rows of other hosts are 0.
    """

    values: Any
    indices: Any
    by_host: bool = False

    @property
    def dtype(self) -> Any:
        return self.values.dtype


class _LookUp(NamedTuple):
    """A look-up of rows of a table.

    Attributes:
        table: Integer, the position of the table among the trainable variables.
        ids: Integers of any shape.
        rows: The rows.
        by_host: Whether each host looks up its part of the ids.
    """

    table: int
    ids: Any
    rows: Any
    by_host: bool


@dataclass
class _Tape:
    """The look-ups of a forward pass, in their order.

    Attributes:
        tables: By `id`, the position of each table among the trainable variables.
        taps: The taps of the look-ups. If `None`, the look-ups return zeros and do not
            read the tables.
        lookups: The look-ups.
    """

    tables: dict[int, int]
    taps: list[Any] | None = None
    lookups: list[_LookUp] = field(default_factory=list)

    def look_up(self, table: Any, ids: Any, trainable: bool, by_host: bool) -> Any:
        if id(table) not in self.tables:
            return take_rows(table, ids, by_host)
        if self.taps is None:
            shape = (*ids.shape, *table.shape[1:])
            rows = ops.zeros(shape, table.dtype)
        else:
            rows = ops.stop_gradient(take_rows(table, ids, by_host))
        if not trainable:
            return rows
        if self.taps is not None:
            rows = rows + self.taps[len(self.lookups)]
        self.lookups.append(_LookUp(self.tables[id(table)], ids, rows, by_host))
        return rows

    def __enter__(self) -> "_Tape":
        self._token = _TAPE.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _TAPE.reset(self._token)


_TAPE: ContextVar[_Tape | None] = ContextVar("tape", default=None)


def look_up(table: Any, ids: Any, trainable: bool = True, by_host: bool = False) -> Any:
    """Returns rows of a table, with the gradient of the rows if a tape is active.

    Args:
        table: A `keras.Variable` of shape `(rows, dim)`.
        ids: Integers of any shape, within the table.
        trainable: Whether the rows have a gradient. Other rows of the
            table may have one if they do not. Defaults to `True`.
        by_host: Whether each host looks up its part of the ids; see `take_rows`.
            Defaults to `False`.
    """
    tape = _TAPE.get()
    if tape is not None:
        return tape.look_up(table, ids, trainable, by_host)
    rows = take_rows(table, ids, by_host)
    return rows if trainable else ops.stop_gradient(rows)


def train_step(model: Any, state: Any, data: Any) -> Any:
    """Trains on a batch, as `train_step` of `keras.Model` on JAX.

    A table that the model reads in other ways than by `look_up` has a dense gradient.

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
    by_rows = {each.table for each in draft.lookups} - _positions_read(program.jaxpr)
    tables = {key: i for key, i in everything.items() if i in by_rows}
    lookups = [each for each in draft.lookups if each.table in by_rows]
    taps = [jax.numpy.zeros(each.rows.shape, each.rows.dtype) for each in lookups]

    def loss_and_ids(dense: dict[int, Any], taps: list[Any]) -> Any:
        values = [dense.get(i, value) for i, value in enumerate(trainable)]
        with _Tape(tables, taps) as tape:
            loss, updates = loss_of(values)
        return loss, (updates, [each.ids for each in tape.lookups])

    dense = {i: v for i, v in enumerate(trainable) if i not in by_rows}
    differentiate = jax.value_and_grad(loss_and_ids, argnums=(0, 1), has_aux=True)
    (_, (updates, ids)), (gradients, of_taps) = differentiate(dense, taps)
    loss, predictions, fixed, metrics = updates
    for i in by_rows:
        gradients[i] = _row_gradients(
            model.trainable_variables[i],
            [
                (values, each._replace(ids=rows))
                for each, rows, values in zip(lookups, ids, of_taps, strict=True)
                if each.table == i
            ],
        )
    trainable, optimizer = model.optimizer.stateless_apply(
        optimizer, [gradients[i] for i in range(len(trainable))], trainable
    )
    logs, metrics = model._update_metrics_variables(
        metrics, loss, x, y, predictions, weights
    )
    return logs, (trainable, fixed, optimizer, metrics)


def _row_gradients(table: Any, lookups: list[tuple[Any, _LookUp]]) -> RowGradients:
    """Returns the gradients of a table from those of the rows of its look-ups."""
    everywhere = [
        _flat(*map(on_every_host, (values, each.ids)))
        for values, each in lookups
        if not each.by_host
    ]
    if not is_spread(table):
        return RowGradients(*_joined(everywhere))
    import jax
    from jax.sharding import PartitionSpec

    def of_host(everywhere: Pairs, by_host: Pairs) -> tuple[Any, Any]:
        values, rows = _joined([*everywhere, *by_host])
        is_here = jax.numpy.expand_dims(table.spread.is_here(rows), -1)
        return jax.numpy.where(is_here, values, 0), rows

    by_host = [(values, each.ids) for values, each in lookups if each.by_host]
    values, rows = jax.shard_map(
        of_host,
        mesh=table.spread.mesh,
        in_specs=(PartitionSpec(), split()),
        out_specs=split(),
    )(everywhere, by_host)
    return RowGradients(values, rows, by_host=True)


def _joined(pairs: Pairs) -> tuple[Any, Any]:
    """Returns the values and the rows of all pairs."""
    import jax

    values, rows = zip(*pairs, strict=True)
    return jax.numpy.concatenate(values), jax.numpy.concatenate(rows)


def _flat(values: Any, rows: Any) -> tuple[Any, Any]:
    """Returns vectors and the ids of their rows with a single axis of occurrences."""
    return values.reshape(-1, *values.shape[rows.ndim :]), rows.reshape(-1)


def _positions_read(program: Any) -> set[int]:
    """Returns the positions of the arguments that a JAX program reads."""
    read = {id(v) for equation in program.eqns for v in equation.invars}
    read |= {id(v) for v in program.outvars}
    return {i for i, v in enumerate(program.invars) if id(v) in read}
