"""The group of workers of Ray Train to which this process may belong.

On CPUs, Ray Train does not connect JAX, so each worker would train a separate model.
"""

import sys
from typing import Any

from fmlayers._ports import free_address


def world_size() -> int | None:
    """Returns the number of workers in the group, or `None` without a group."""
    group = _context()
    return None if group is None else int(group.get_world_size())


def rank() -> int | None:
    """Returns the index of this worker, or `None` without a group."""
    group = _context()
    return None if group is None else int(group.get_world_rank())


def coordinator() -> str | None:
    """Returns an address of worker 0, `HOST:PORT`, or `None` without a group.

    All workers must call it.
    """
    index = rank()
    if index is None:
        return None
    from ray.train.collective import broadcast_from_rank_zero

    address: str = broadcast_from_rank_zero(free_address() if index == 0 else None)
    return address


def check_joined() -> None:
    """Checks that the workers train one model.

    On other backends, which may connect the workers in other ways, it checks nothing.

    Raises:
        RuntimeError: If JAX does not connect this worker with the others.
    """
    count = world_size()
    if count in (None, 1):
        return
    import keras

    if keras.backend.backend() != "jax":
        return
    import jax

    if not jax.distributed.is_initialized():
        raise RuntimeError(
            f"JAX must connect the {count} workers of Ray Train. Received: no "
            "connection, so each worker would train a separate model. Call "
            "`fmlayers.distributed.start()` before anything else initializes JAX."
        )


def _context() -> Any:
    """Returns the context of Ray Train, or `None` if this process is no worker."""
    train = sys.modules.get("ray.train")  # a worker has imported it
    if train is None:
        return None
    try:
        return train.get_context()
    except (RuntimeError, DeprecationWarning):  # the latter in Ray Tune
        return None
