"""Whether a model trains and uses XLA, for layers that Keras does not inform."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_MODE: ContextVar[bool | None] = ContextVar("mode", default=None)
_XLA: ContextVar[bool] = ContextVar("xla", default=False)


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


@contextmanager
def xla_mode(use_xla: bool = True) -> Iterator[None]:
    """Sets whether TensorFlow uses XLA to compile the code traced in the block."""
    token = _XLA.set(use_xla)
    try:
        yield
    finally:
        _XLA.reset(token)


def uses_xla() -> bool:
    """Returns whether a training step of TensorFlow is traced for XLA."""
    return _XLA.get()


def with_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that TensorFlow compiles with XLA."""
    import tensorflow as tf

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with xla_mode():
            return function(*args)

    compiled: Callable[..., Any] = tf.function(
        traced, jit_compile=True, autograph=False
    )
    return compiled
