"""The hosts that train a model together, on JAX.

`fmlayers.distributed.start` sets a Keras distribution over a mesh with one axis, along
which the rows of a batch are split, and the rows of large tables.
"""

import functools
from typing import Any

import keras

AXIS = "hosts"


def mesh() -> Any:
    """Returns the `jax.sharding.Mesh` of the hosts, or `None` if there are none."""
    distribution = keras.distribution.distribution()
    if distribution is None or AXIS not in distribution.device_mesh.axis_names:
        return None
    return distribution.device_mesh.backend_mesh


def split(*axes: None) -> Any:
    """Returns the `jax.sharding.PartitionSpec` of a tensor split by its first axis."""
    from jax.sharding import PartitionSpec

    return PartitionSpec(AXIS, *axes)


def share(x: Any) -> bool:
    """Returns whether the hosts share the rows of a tensor of a compiled step evenly.

    Other arrays have all rows on every host.
    """
    import jax

    hosts = mesh()
    if hosts is None or not isinstance(x, jax.core.Tracer) or not x.shape:
        return False
    return bool(x.shape[0] % hosts.size == 0)


def on_every_host(x: Any) -> Any:
    """Returns a tensor of a compiled step, all rows of which are on every host.

    Updates of variables that every host has are then computed by each of them, in the
    same order. Otherwise, XLA would sum gradients of the size of the variable.

    Args:
        x: Tensor, of which each host has computed an equal number of rows.
    """
    import jax
    from jax.sharding import PartitionSpec

    if not share(x):
        return x
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
    return jax.shard_map(
        gather,
        mesh=mesh(),
        in_specs=split(),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(x)
