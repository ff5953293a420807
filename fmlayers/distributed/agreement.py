"""Exchanges values and errors among all processes of a group."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fmlayers import _hosts

T = TypeVar("T")


def processes() -> int:
    """Returns the number of processes, or 1 without a group."""
    if not _hosts.is_joined():
        return 1
    import jax

    return int(jax.process_count())


def process() -> int:
    """Returns the index of this process."""
    return _hosts.process() if _hosts.is_joined() else 0


def gathered(x: npt.ArrayLike) -> npt.NDArray[Any]:
    """Returns the arrays of all processes, stacked. All processes must call it."""
    if processes() == 1:
        return np.asarray(x)[np.newaxis]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(x)))


def together(action: Callable[[], T], purpose: str) -> T:
    """Runs a function in all processes, and raises an error in all if one fails.

    Args:
        action: The function. It must not wait for other processes.
        purpose: String, the purpose of the function for the error message, such as
            `"write the file"`.

    Returns:
        The result of the function in this process.

    Raises:
        RuntimeError: If the function fails in another process.
        Exception: The error that the function raises in this process.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    failed = np.flatnonzero(gathered(failure is not None))
    if failure is not None:
        raise failure
    if len(failed):
        raise RuntimeError(
            f"Process {failed[0]} could not {purpose}. See the output of that process."
        )
    return result
