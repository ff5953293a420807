"""The hosts that train a model together, on JAX.

`fmlayers.distributed.start` sets a Keras distribution over a mesh with one axis. The
rows of batches and of large tables are split along this axis.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
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
    """Splits batches over all devices, including those of other processes."""
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
    """Returns whether the rows of a tensor are divided evenly among the hosts.

    This is only possible in a compiled step. All rows of other arrays are on every
    host.
    """
    hosts = mesh()
    if hosts is None:
        return False
    import jax

    if not isinstance(x, jax.core.Tracer):
        return False
    return bool(x.shape) and x.shape[0] % hosts.size == 0


def on_every_host(x: Any) -> Any:
    """Returns a tensor of a compiled step with all rows on every host.

    Each host can then compute the updates of replicated variables, in the same order.
    Otherwise, XLA would sum gradients of the size of the variable.

    Args:
        x: Tensor. Each host has computed the same number of its rows.
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


def on_each_host(function: Callable[..., Any], *xs: Any) -> Any:
    """Applies a function to the rows of tensors that each host has.

    Args:
        function: Function of tensors that returns one or several tensors.
        *xs: Tensors that consist of equal parts, one per host. So do the results.
    """
    import jax

    return jax.shard_map(function, mesh=mesh(), in_specs=split(), out_specs=split())(
        *xs
    )


def split_rows(x: Any) -> Any:
    """Returns a tensor of a compiled step with its rows split over the hosts."""
    import jax

    rows = jax.sharding.NamedSharding(mesh(), split())
    return jax.lax.with_sharding_constraint(x, rows)


def rows_here(x: Any) -> npt.NDArray[Any]:
    """Returns the rows of an array that are on the devices of this process."""
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([shard.data for shard in shards])


def is_first() -> bool:
    """Returns whether this process writes files: process 0, or one without a group."""
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
    """Returns the numbers of all processes as an array `(processes, numbers)`."""
    import jax
    from jax.experimental.multihost_utils import process_allgather

    here = np.array(numbers, "int32")
    return np.reshape(process_allgather(here), (jax.process_count(), len(numbers)))


def meet(what: str) -> None:
    """Waits for all processes, for a limited time.

    Args:
        what: String, the function that all processes must call, for the error message.

    Raises:
        RuntimeError: If a process does not call it in time.
    """
    # The public functions of JAX wait forever.
    from jax._src.distributed import global_state

    if global_state.client is None:
        return
    try:
        global_state.client.wait_at_barrier(
            f"fmlayers {next(_meetings)}", int(1000 * MEETING_SECONDS)
        )
    except Exception as error:
        raise RuntimeError(
            f"{what} must be called by all processes, because each of them has a part "
            f"of the tables. Received: no call from some processes within "
            f"{MEETING_SECONDS:g} s ({error})."
        ) from error


@contextmanager
def on_process_0(what: str) -> Iterator[None]:
    """Runs the block, and raises an error in all processes if it fails in process 0.

    In the block, Keras creates variables without a distribution. Otherwise, it would
    wait for the other processes.

    Args:
        what: String, the action of process 0, for the error message.

    Raises:
        RuntimeError: In the other processes, if process 0 fails.
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
