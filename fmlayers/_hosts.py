"""The hosts that train a model together, on JAX.

`fmlayers.distributed.start` sets a Keras distribution over a mesh with one axis, along
which the rows of a batch are split, and the rows of large tables.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

AXIS = "hosts"
MEETING_SECONDS = 300.0
_meetings = itertools.count()
_joined = False


def join() -> None:
    """Splits batches over all devices, those of other processes among them."""
    global _joined
    devices = keras.distribution.list_devices()
    if len(devices) > 1:
        mesh = keras.distribution.DeviceMesh((len(devices),), (AXIS,), devices)
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False)
        )
    _joined = True


def is_joined() -> bool:
    """Returns whether `fmlayers.distributed.start` was called."""
    return _joined


def mesh() -> Any:
    """Returns the `jax.sharding.Mesh` of the hosts, or `None` if it is one device."""
    distribution = keras.distribution.distribution()
    if distribution is None or AXIS not in distribution.device_mesh.axis_names:
        return None
    return distribution.device_mesh.backend_mesh


def split() -> Any:
    """Returns the `jax.sharding.PartitionSpec` of a tensor split by its first axis."""
    from jax.sharding import PartitionSpec

    return PartitionSpec(AXIS)


def share(x: Any) -> bool:
    """Returns whether the hosts share the rows of a tensor of a compiled step evenly.

    Other arrays have all rows on every host.
    """
    import jax

    hosts = mesh()
    if hosts is None or not isinstance(x, jax.core.Tracer):
        return False
    return bool(x.shape) and x.shape[0] % hosts.size == 0


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


def split_rows(x: Any) -> Any:
    """Returns a tensor of a compiled step, whose rows are split over the hosts."""
    import jax

    rows = jax.sharding.NamedSharding(mesh(), split())
    return jax.lax.with_sharding_constraint(x, rows)


def rows_here(x: Any) -> npt.NDArray[Any]:
    """Returns the rows of an array that are on the devices of this process."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([shard.data for shard in shards])


def is_first() -> bool:
    """Returns whether this process writes the files of its group, or has no group."""
    return not _joined or process() == 0


def process() -> int:
    """Returns the index of this process."""
    import jax

    return int(jax.process_index())


def local_devices() -> int:
    """Returns the number of devices of this process."""
    import jax

    return int(jax.local_device_count())


def of_processes(numbers: Sequence[int]) -> npt.NDArray[Any]:
    """Returns the numbers of all processes, an array `(processes, numbers)`."""
    import jax
    from jax.experimental.multihost_utils import process_allgather

    here = np.array(numbers, "int32")
    return np.reshape(process_allgather(here), (jax.process_count(), len(numbers)))


def meet(what: str) -> None:
    """Waits for all processes, for a limited time.

    Args:
        what: String, what all processes must call, for the error.

    Raises:
        RuntimeError: If a process does not come.
    """
    # Public functions of JAX wait forever.
    from jax._src.distributed import global_state

    if global_state.client is None:
        return
    try:
        global_state.client.wait_at_barrier(
            f"fmlayers {next(_meetings)}", int(1000 * MEETING_SECONDS)
        )
    except Exception as error:
        raise RuntimeError(
            f"{what} must be called by all processes, which gather the tables "
            f"together. Received: no call by some of them within {MEETING_SECONDS} s "
            f"({error})."
        ) from error


@contextmanager
def on_process_0(what: str) -> Iterator[None]:
    """Ends the block on all processes if it succeeds on process 0.

    Variables that Keras creates in the block are not shared, for which it would wait
    for the other processes.

    Args:
        what: String, what process 0 does, for the error.

    Raises:
        RuntimeError: On the other processes, if process 0 fails.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    succeeds = False
    try:
        yield
        succeeds = True
    finally:
        keras.distribution.set_distribution(distribution)
        all_succeed = of_processes([succeeds])[0, 0]
    if not all_succeed:
        raise RuntimeError(f"{what} failed on process 0: see its error.")
