"""Whether a model trains and uses XLA, for layers that Keras does not inform."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

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


def uses_xla() -> bool:
    """Returns whether TensorFlow traces code that it compiles with XLA."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def with_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that TensorFlow compiles with XLA."""
    import tensorflow as tf

    compiled: Callable[..., Any] = tf.function(
        function, jit_compile=True, autograph=False
    )
    return compiled
