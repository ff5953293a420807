"""Whether a model trains, for layers to which Keras does not pass it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MODE: ContextVar[bool | None] = ContextVar("mode", default=None)


@contextmanager
def training_mode(training: bool | None) -> Iterator[None]:
    """Sets the mode of layers that are called within the block without one."""
    token = _MODE.set(training)
    try:
        yield
    finally:
        _MODE.reset(token)


def is_training(training: bool | None) -> bool | None:
    """Returns `training`, or the mode of the block if it is `None`."""
    return _MODE.get() if training is None else training
