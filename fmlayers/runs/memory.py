from collections.abc import Iterator
from contextlib import contextmanager

from fmlayers.runs.folder import RunError

_NAMES = ("ResourceExhaustedError", "OutOfMemoryError")  # of TensorFlow and PyTorch
_TEXTS = ("RESOURCE_EXHAUSTED", "can't allocate memory")  # of JAX and PyTorch


@contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Raises a `RunError` in place of the errors of a backend without enough memory.

    Args:
        remedy: What to do, a sentence.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines() or ["no details"]
        raise RunError(
            f"The memory of this machine is not enough. {remedy} Received: "
            f"{reason[0]:.160}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether Python or a backend raised an error for lack of memory."""
    names = {each.__name__ for each in type(error).__mro__}
    return (
        isinstance(error, MemoryError)
        or bool(names & set(_NAMES))
        or (isinstance(error, RuntimeError) and any(x in str(error) for x in _TEXTS))
    )
