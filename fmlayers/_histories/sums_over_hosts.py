"""The sums of histories, computed on the hosts that have the rows."""

import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from fmlayers import _hosts
from fmlayers._backend import sum_rows
from fmlayers._histories.index import BatchHistories
from fmlayers._spread.rows import hosts_and_places
from fmlayers._types import Tensor


def sums_over_hosts(
    look_up: Callable[[Tensor], Tensor],
    batch: BatchHistories,
    pairs_by_host: bool,
) -> Tensor:
    """Returns the sums of the rows in each example's history, `(batch, columns)`.

    The example's own value is excluded. Each host sums the rows that it has, for all
    examples. Then only these sums are exchanged, and in the backward pass their
    gradients.

    Args:
        look_up: Function from ids in equal parts, one per host, to their rows
            `(ids, columns)`. The rows of other hosts are arbitrary.
        batch: The histories, with `rows` in such parts.
        pairs_by_host: Whether `batch.values` and `batch.owners` are in such parts, too.
            If not, each host has all of them.
    """
    index, own = map(_hosts.on_every_host, (batch.index, batch.own))
    mesh = _hosts.mesh()
    return _compiled_sums()(
        mesh,
        len(batch.lengths),
        pairs_by_host,
        _hosts.share(batch.index),
        (look_up(batch.rows), batch.values, batch.owners),
        (index, own),
        look_up(ops.tile(own, mesh.size)),
    )


@functools.cache
def _compiled_sums() -> Callable[..., Any]:
    import jax
    from jax import numpy as jnp
    from jax.sharding import PartitionSpec

    def sums(
        mesh: Any,
        count: int,
        pairs_by_host: bool,
        is_shared: bool,
        lists: tuple[Any, Any, Any],
        examples: tuple[Any, Any],
        own_rows: Any,
    ) -> Any:
        def of_host(lists: Any, examples: Any, own_rows: Any) -> Any:
            (rows, values, owners), (index, own) = lists, examples
            size, host = len(rows), jax.lax.axis_index(_hosts.AXIS)
            places = values - host * size
            is_here = (places >= 0) & (places < size)
            # The ids of other hosts count as the additional row of zeros.
            rows = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
            totals = sum_rows(rows, jnp.where(is_here, places, size), owners, count)
            host_of_own, _ = hosts_and_places(own, mesh.size)
            has_own = jnp.expand_dims((own > 0) & (host_of_own == host), -1)
            total = totals[index] - jnp.where(has_own, own_rows, 0)
            if is_shared:
                return jax.lax.psum_scatter(total, _hosts.AXIS, tiled=True)
            return jax.lax.psum(total, _hosts.AXIS)

        split, whole = _hosts.split(), PartitionSpec()
        of_pairs = split if pairs_by_host else whole
        return jax.shard_map(
            of_host,
            mesh=mesh,
            in_specs=((split, of_pairs, of_pairs), whole, split),
            out_specs=split if is_shared else whole,
        )(lists, examples, own_rows)

    compiled: Callable[..., Any] = jax.jit(sums, static_argnums=(0, 1, 2, 3))
    return compiled
