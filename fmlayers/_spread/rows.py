"""Variables whose rows are spread over hosts.

Only this module defines on which host a row is: row r is on host r mod n, at place
r // n. Contiguous ranges would be unbalanced, because ids are often sorted by
frequency: one host would have all frequent ids.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras.src.backend.common.stateless_scope import in_stateless_scope

from fmlayers import _hosts

PIECE = 65_536  # rows read at once
_MIN_ROWS: ContextVar[int | None] = ContextVar("min_rows", default=None)
_GATHERED: ContextVar[Mapping[int, Any]] = ContextVar(
    "gathered", default=MappingProxyType({})
)


@contextmanager
def spreading(min_rows: int) -> Iterator[None]:
    """Spreads the variables of at least `min_rows` rows that the block creates."""
    token = _MIN_ROWS.set(min_rows)
    try:
        yield
    finally:
        _MIN_ROWS.reset(token)


@contextmanager
def gathered(variables: Sequence[Any], keep: bool) -> Iterator[None]:
    """Gathers the rows of variables, so that this process can read them in the block.

    All processes must enter the block. Within it, no process waits for others.

    Args:
        variables: Spread variables.
        keep: Whether this process reads the rows in the block.
    """
    rows = {
        id(variable): variable.spread.gather(variable, keep) for variable in variables
    }
    token = _GATHERED.set(rows)
    try:
        yield
    finally:
        _GATHERED.reset(token)


def rows_of_host(host: int, hosts: int, count: int) -> npt.NDArray[np.int64]:
    """Returns the first `count` rows of a host, in the order of their places."""
    return host + hosts * np.arange(count)


def hosts_and_places(
    rows: npt.NDArray[np.int64], hosts: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the host of each row, and its place there."""
    return rows % hosts, rows // hosts


def every_row_by_host(values: Any, size: int, hosts: int) -> tuple[Any, Any]:
    """Returns the rows 0 ... `size` - 1 by host, and the positions of values in them.

    Args:
        values: Integers below `size`.
        size: Positive integer.
        hosts: Positive integer, the number of hosts.

    Returns:
        A tuple of the rows, in equal parts, one per host, padded with the last row, and
        of the positions, of the shape of `values`.
    """
    length = -(-size // hosts)
    each = keras.ops.arange(hosts * length, dtype="int32")
    rows = keras.ops.minimum(each // length + hosts * (each % length), size - 1)
    host, place = hosts_and_places(values, hosts)
    return rows, host * length + place


def host_of_shard(index: tuple[slice, ...], places: int) -> int:
    """Returns the host of a shard of a tensor.

    Args:
        index: The slices of the shard in the tensor.
        places: Integer, the number of rows of each host.
    """
    return (index[0].start or 0) // places


def is_spread(variable: Any) -> bool:
    """Returns whether the rows of a variable are spread over hosts."""
    return hasattr(variable, "spread")


def spread_rows(num_rows: int, dim: int) -> "SpreadRows | None":
    """Returns the `SpreadRows` of a new variable, or `None` if it is on every host."""
    min_rows, mesh = _MIN_ROWS.get(), _hosts.mesh()
    if min_rows is None or num_rows < min_rows or mesh is None:
        return None
    return SpreadRows((num_rows, dim), mesh)


@dataclass(frozen=True)
class SpreadRows:
    """The rows of a variable, spread over hosts.

    The variable has spare rows at the end of each host, so that all hosts have the same
    number of rows. Files do not contain the spare rows. The attribute `spread` of the
    variable is its `SpreadRows`.

    Attributes:
        shape: `(rows, dim)` without the spare rows.
        mesh: The `jax.sharding.Mesh` of the hosts.
    """

    shape: tuple[int, int]
    mesh: Any

    @property
    def num_rows(self) -> int:
        return self.shape[0]

    @property
    def num_hosts(self) -> int:
        return int(self.mesh.size)

    @property
    def num_places(self) -> int:
        """The number of rows of each host."""
        return -(-self.num_rows // self.num_hosts)

    def variable(
        self,
        dtype: str,
        pieces_of: Callable[[int, int], Iterable[npt.NDArray[Any]]],
        **kwargs: Any,
    ) -> keras.Variable:
        """Returns a new variable. Each host computes its rows.

        Args:
            dtype: String, the dtype of the variable.
            pieces_of: Function of a host h and the number of hosts n. It returns the
                rows h, h + n, h + 2n, ... in consecutive pieces.
            **kwargs: Arguments of `keras.Variable`.
        """
        import jax
        from jax import numpy as jnp

        mesh = keras.distribution.distribution().device_mesh
        layout = keras.distribution.TensorLayout((_hosts.AXIS, None), mesh)
        shape = (self.num_hosts * self.num_places, self.shape[1])

        def of_host(host: int) -> Any:
            rows = jnp.zeros((self.num_places, self.shape[1]), dtype)
            return filled(rows, 0, pieces_of(host, self.num_hosts))

        with jax.ensure_compile_time_eval():
            values = self._over_hosts(shape, layout.backend_layout, of_host)
        # Keras would copy the result of a function.
        variable = keras.Variable(
            (lambda *_, **__: values) if in_stateless_scope() else values,
            shape=shape,
            dtype=dtype,
            layout=layout,
            **kwargs,
        )
        variable.spread = self
        return variable

    def like(self, slot: Any) -> "SpreadRows":
        """Returns the `SpreadRows` of a slot, whose rows are on the same hosts."""
        return SpreadRows((self.num_rows, slot.shape[1]), self.mesh)

    def slot_initializer(
        self, initializer: Any, shape: Sequence[int], dtype: Any
    ) -> Callable[..., Any]:
        """Returns an initializer of a slot with which each host fills only its rows.

        Without it, Keras would fill the whole slot in each process.

        Args:
            initializer: A constant initializer or its name.
            shape: The shape of the slot, `(rows, ...)`.
            dtype: The dtype of the slot.
        """
        import jax
        from jax.sharding import NamedSharding

        row = np.asarray(keras.initializers.get(initializer)((1, *shape[1:]), dtype))
        of_host = np.broadcast_to(row, (self.num_places, *shape[1:]))
        values = self._over_hosts(
            tuple(shape),
            NamedSharding(self.mesh, _hosts.split()),
            lambda host: jax.device_put(of_host, jax.config.jax_default_device),
        )
        return lambda shape, dtype=None, layout=None: values

    def in_places(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the values of all rows in memory order, with 0 for spare rows.

        Args:
            values: Array with one value per row, in the order of the rows.
        """
        spare = self.num_hosts * self.num_places - self.num_rows
        rows = np.pad(values, (0, spare)).reshape(self.num_places, self.num_hosts)
        return rows.T.ravel()

    def take(self, table: Any, rows: Any) -> Any:
        """Returns rows of a table. Every host sends those that it has.

        Args:
            table: Tensor of shape `(rows, dim)`, the value of the variable.
            rows: Integers of any shape. If their first axis is divided evenly among the
                hosts, so is that of the result. Otherwise, every host has the whole
                result.
        """
        is_shared = _hosts.share(rows)
        rows = _hosts.on_every_host(rows) if is_shared else rows
        return _compiled_take()(self, is_shared, table, rows)

    def take_by_host(self, table: Any, rows: Any) -> Any:
        """Returns rows of a table. Every host looks up a part of them.

        Args:
            table: Tensor of shape `(rows, dim)`, the value of the variable.
            rows: Integers `(rows,)` in equal parts, one per host.

        Returns:
            The rows, in such parts. The values of rows of other hosts are arbitrary.
        """
        return _compiled_take_by_host()(self, table, rows)

    def read(self, variable: Any, start: int, stop: int) -> Any:
        """Returns the rows `start` to `stop - 1` of a variable.

        Outside a compiled step, it returns an array, which all processes read in
        pieces.
        """
        import jax

        whole = _GATHERED.get().get(id(variable))
        if whole is not None:
            return whole[start:stop]
        if isinstance(variable.value, jax.core.Tracer):
            return self._on_every_host(variable, start, stop)
        rows = np.empty((stop - start, *variable.shape[1:]), variable.value.dtype)
        for first in range(start, stop, PIECE):
            last = min(first + PIECE, stop)
            rows[first - start : last - start] = self._on_every_host(
                variable, first, last
            )
        return rows

    def gather(self, variable: Any, keep: bool) -> npt.NDArray[Any] | None:
        """Returns all rows of a variable, read in pieces by all processes.

        Args:
            variable: The variable.
            keep: Whether this process needs the rows. If `False`, it returns `None`.
        """
        if keep:
            rows: npt.NDArray[Any] = self.read(variable, 0, self.num_rows)
            return rows
        for first in range(0, self.num_rows, PIECE):
            self._on_every_host(variable, first, min(first + PIECE, self.num_rows))
        return None

    def _on_every_host(self, variable: Any, start: int, stop: int) -> Any:
        rows = np.arange(start, stop, dtype="int32")
        return _compiled_take()(self, False, variable.value, rows)

    def assign(self, variable: Any, start: int, values: Any) -> None:
        """Assigns rows of a variable. Every host copies its rows.

        Args:
            variable: The variable.
            start: Integer, the first row to assign.
            values: Array, HDF5 dataset or `StoredRows` with the new rows, the same on
                all hosts.
        """
        old, n = variable.value, self.num_hosts
        shards = {self._host(x.index): x.data for x in old.addressable_shards}

        def of_host(host: int) -> Any:
            first = (host - start) % n
            pieces = (
                values[piece : piece + n * PIECE : n]
                for piece in range(first, len(values), n * PIECE)
            )
            return filled(shards[host].copy(), (start + first) // n, pieces)

        variable.assign(self._over_hosts(old.shape, old.sharding, of_host))

    def _over_hosts(
        self, shape: tuple[int, ...], sharding: Any, of_host: Callable[[int], Any]
    ) -> Any:
        """Returns a tensor of the rows that each device of this process computes."""
        import jax

        shards = []
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            with jax.default_device(device):
                shards.append(of_host(self._host(index)))
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    def update(
        self, step: Callable[..., Any], tables: Sequence[Any], rows: Any, values: Any
    ) -> Any:
        """Returns updated tables. Every host updates its rows.

        Args:
            step: Function of the rows of a host in all tables, the places of `rows` in
                them, and `values`. It returns the updated rows of the host. For rows of
                other hosts, the place is one past the last; it must ignore them.
            tables: Tensors of shape `(rows, ...)`, spread in the same way.
            rows: Integers of shape `(occurrences,)`, which may repeat. They consist of
                equal parts, one per host.
            values: Tensor of shape `(occurrences, ...)`.
        """
        from jax import numpy as jnp

        def of_host(tables: Sequence[Any], rows: Any, values: Any) -> Any:
            places = jnp.where(
                self.is_here(rows), rows // self.num_hosts, self.num_places
            )
            return step(tables, places, values)

        return _hosts.on_each_host(of_host, tables, rows, values)

    def is_here(self, rows: Any) -> Any:
        """Returns which rows this host has, in a function that each host runs."""
        import jax

        return rows % self.num_hosts == jax.lax.axis_index(_hosts.AXIS)

    def _host(self, index: tuple[slice, ...]) -> int:
        return host_of_shard(index, self.num_places)


class HeldRows:
    """A copy of a variable whose rows are spread, without gathering them.

    It has the shape of the whole table and can be converted to an array.

    Args:
        variable: The variable.
    """

    def __init__(self, variable: Any) -> None:
        self.spread: SpreadRows = variable.spread
        self.shape = (self.spread.num_rows, *variable.shape[1:])
        self.dtype = variable.dtype
        # A copy, because training steps write to the buffers of the variables.
        self.value = variable.value.copy()

    def assign_to(self, variable: Any) -> bool:
        """Assigns the values. Returns `False` if the variable is spread differently."""
        if getattr(variable, "spread", None) != self.spread:
            return False
        variable.assign(self.value.copy())
        return True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        rows = self.spread.read(self, 0, self.spread.num_rows)
        return rows if dtype is None else rows.astype(dtype)


def filled(rows: Any, place: int, pieces: Iterable[Any]) -> Any:
    """Writes pieces to consecutive rows from row `place` on, without a copy."""
    for piece in pieces:
        values = np.asarray(piece, rows.dtype)
        rows = _compiled_fill()(rows, values, place)
        place += len(values)
    return rows


@functools.cache
def _compiled_fill() -> Callable[..., Any]:
    import jax

    def fill(rows: Any, piece: Any, place: Any) -> Any:
        return jax.lax.dynamic_update_slice_in_dim(rows, piece, place, 0)

    compiled: Callable[..., Any] = jax.jit(fill, donate_argnums=0)
    return compiled


@functools.cache
def _compiled_take() -> Callable[..., Any]:
    import jax
    from jax import numpy as jnp
    from jax.sharding import PartitionSpec

    def take(spread: SpreadRows, is_shared: bool, table: Any, rows: Any) -> Any:
        def of_host(table: Any, rows: Any) -> Any:
            is_here = spread.is_here(rows)
            here = table[jnp.where(is_here, rows // spread.num_hosts, 0)]
            here = jnp.where(jnp.expand_dims(is_here, -1), here, 0)
            if is_shared:
                return jax.lax.psum_scatter(here, _hosts.AXIS, tiled=True)
            return jax.lax.psum(here, _hosts.AXIS)

        return jax.shard_map(
            of_host,
            mesh=spread.mesh,
            in_specs=(_hosts.split(), PartitionSpec()),
            out_specs=_hosts.split() if is_shared else PartitionSpec(),
        )(table, rows)

    compiled: Callable[..., Any] = jax.jit(take, static_argnums=(0, 1))
    return compiled


@functools.cache
def _compiled_take_by_host() -> Callable[..., Any]:
    import jax

    def take(spread: SpreadRows, table: Any, rows: Any) -> Any:
        return _hosts.on_each_host(
            lambda table, rows: table[rows // spread.num_hosts], table, rows
        )

    compiled: Callable[..., Any] = jax.jit(take, static_argnums=0)
    return compiled
