"""How TensorFlow executes training steps: several at once, and with XLA."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from fmlayers._backend import dtype_of
from fmlayers._training.mode import with_xla

MAX_STEPS_PER_EXECUTION = 32
# XLA saves 10 to 13 nanoseconds for each number in the vectors of the training rows.
# Compilation takes a second, and two to three with histories.
MIN_XLA_NUMBERS = 64_000_000
MIN_XLA_NUMBERS_WITH_HISTORIES = 256_000_000
_BATCH_METHODS = (
    *("on_batch_begin", "on_batch_end"),
    *("on_train_batch_begin", "on_train_batch_end"),
    *("on_test_batch_begin", "on_test_batch_end"),
)
_FUNCTIONS = ("train_function", "test_function", "predict_function")


@dataclass(frozen=True)
class Execution:
    """How to execute the steps of `fit`.

    Attributes:
        steps: Positive integer, the steps per execution.
        xla_rows: The batch size to compile with XLA; batches of any other size run
            without it, since XLA would compile again. 0 if the model decides.
    """

    steps: int
    xla_rows: int = 0

    @contextmanager
    def of(self, model: keras.Model) -> Iterator[None]:
        """Executes the steps of a compiled model this way within the block."""
        if self == Execution(model.steps_per_execution):
            yield
            return
        outside = {name: getattr(model, name) for name in _FUNCTIONS}
        steps = model.steps_per_execution
        # A new object for each call of `compile`, after which functions are stale.
        compiled = model._compile_config
        key, functions = model.__dict__.get("_executed", (None, {}))
        if key is None or key[0] is not compiled or key[1] != self:
            functions = dict.fromkeys(_FUNCTIONS)
        model.steps_per_execution = self.steps
        try:
            _set(model, functions)
            if self.xla_rows and model.train_function is None:
                _make_train_function(model, self.xla_rows)
            yield
        finally:
            functions = {name: getattr(model, name) for name in _FUNCTIONS}
            # Keras would save or track an ordinary attribute.
            model.__dict__["_executed"] = ((compiled, self), functions)
            model.steps_per_execution = steps
            _set(model, outside)


@contextmanager
def whole_epochs(model: keras.Model, steps: int) -> Iterator[None]:
    """Within the block, `fit` trains in epochs of `steps` steps on an endless dataset.

    Keras executes `steps_per_execution` steps at once, even if fewer are left in the
    epoch. Within the block, the last execution of an epoch is as short as needed. The
    training step is traced once per `compile`, whatever the number of steps.

    Args:
        model: The compiled model, built by `build_ahead`.
        steps: Positive integer, the steps of an epoch.

    Raises:
        RuntimeError: In the scope of a TensorFlow strategy.
    """
    import tensorflow as tf

    if tf.distribute.has_strategy():
        raise RuntimeError(
            "Runs and searches do not support the strategies of TensorFlow. Use "
            "`fmlayers.distributed` with the JAX backend, or call `fit` of the model. "
            f"Received: {type(tf.distribute.get_strategy()).__name__}."
        )
    steps = min(steps, keras.config.max_steps_per_epoch() or steps)
    compiled, execute = model.__dict__.get("_executes", (None, None))
    if compiled is not model._compile_config:
        execute = _execute(model)
        # Keras would save or track an ordinary attribute.
        model.__dict__["_executes"] = (model._compile_config, execute)
    at_once = model.steps_per_execution
    counts = [min(at_once, steps - done) for done in range(0, steps, at_once)]
    in_turn = itertools.cycle([tf.constant(count) for count in counts])
    outside = model.train_function
    model.train_function = lambda batches: execute(batches, next(in_turn))
    try:
        yield
    finally:
        model.train_function = outside


def _execute(model: keras.Model) -> Any:
    """Returns a function that trains on the next `count` batches of an iterator."""
    import tensorflow as tf

    step = tf.function(
        model.train_step,
        reduce_retracing=True,
        jit_compile=model.jit_compile,
        autograph=False,
    )

    @tf.function(reduce_retracing=True, autograph=False)
    def execute(batches: Any, count: Any) -> Any:
        traced = step.get_concrete_function(batches.element_spec)
        logs = tf.nest.map_structure(
            lambda x: tf.zeros(x.shape, x.dtype), traced.structured_outputs
        )
        _, logs = tf.while_loop(
            lambda done, _: done < count,
            lambda done, _: (done + 1, step(batches.get_next())),
            (0, logs),
        )
        return logs

    return execute


def forget_functions(model: keras.Model) -> None:
    """Discards all traced functions, after something that they contain has changed."""
    _set(model, dict.fromkeys(_FUNCTIONS))
    for name in ("_executed", "_executes"):
        model.__dict__.pop(name, None)


def build_ahead(model: keras.Model, inputs: Any, targets: Any) -> None:
    """Builds what the first training step of a compiled model would build.

    TensorFlow traces a function twice if it creates variables in the first trace.

    Args:
        model: The compiled model.
        inputs: The inputs of a batch, with their shapes.
        targets: Array of targets, or a nested structure of them.
    """
    if not model.built:
        return
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    names = ("train_step", "compute_loss", "compute_metrics")
    owners = [getattr(type(model), name).__module__.split(".")[0] for name in names]
    if not {*owners} <= {"keras", "fmlayers"}:
        return  # it may use neither the compiled loss nor the metrics
    if type(model).compute_output_spec.__module__.startswith("fmlayers."):
        outputs = model.compute_output_spec(inputs)
    elif hasattr(model, "outputs"):  # a functional or sequential model
        is_sequential = isinstance(model, keras.Sequential)
        outputs = model.outputs[0] if is_sequential else model.output
    else:
        return
    y = keras.tree.map_structure(
        lambda x: keras.KerasTensor((None, *x.shape[1:]), dtype_of(x)), targets
    )
    for part in (model._compile_loss, model._compile_metrics):
        if part is not None and not part.built:
            part.build(y, outputs)


def steps_per_execution(steps: int, *, exact: bool = False) -> int:
    """Returns a number of steps per execution for an epoch of `steps` steps.

    Args:
        steps: Positive integer.
        exact: Whether Keras must not execute more steps than `steps` because the data
            do not end there. The result is then a divisor of `steps`.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    if exact:
        upto = range(1, MAX_STEPS_PER_EXECUTION + 1)
        return max(n for n in upto if steps % n == 0)
    executions = -(-steps // MAX_STEPS_PER_EXECUTION)
    return -(-steps // executions)


def pays_with_xla(
    model: keras.Model, rows: int, *, brings_histories: bool = False
) -> bool:
    """Returns whether XLA makes training faster, including its compilation.

    With `jit_compile="auto"`, Keras uses XLA only on machines with an accelerator.

    Args:
        model: A model with all its layers.
        rows: Integer, the rows of all batches of all epochs.
        brings_histories: Whether batches bring their histories along. XLA cannot look
            them up, since their shapes depend on the data of a batch. Defaults to
            `False`.
    """
    from keras.src.trainers.trainer import model_supports_jit

    from fmlayers.layers import FeatureEmbedding

    if keras.backend.backend() != "tensorflow":
        return False
    layers = list(model._flatten_layers())
    embeddings = [layer for layer in layers if isinstance(layer, FeatureEmbedding)]
    excused = {
        id(histories)
        for layer in embeddings
        for histories in layer.histories.values()
        if brings_histories
    }
    if excused:
        supported = all(layer.supports_jit or id(layer) in excused for layer in layers)
    else:
        supported = model_supports_jit(model)
    if not supported:
        return False
    least = MIN_XLA_NUMBERS_WITH_HISTORIES if excused else MIN_XLA_NUMBERS
    of_a_row = max((len(each.features) * each.dim for each in embeddings), default=16)
    return rows * of_a_row >= least


def sees_batches(callbacks: Any) -> bool:
    """Returns whether a callback has a method that must be called for every batch."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    elif isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    elif not isinstance(callbacks, Iterable):
        callbacks = []
    return any(_sees_batches(callback) for callback in callbacks)


def _sees_batches(callback: Any) -> bool:
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        return False
    if getattr(callback, "save_freq", None) == "epoch":
        return False
    return any(
        name in vars(callback)
        or getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name)
        for name in _BATCH_METHODS
    )


def _make_train_function(model: keras.Model, rows: int) -> None:
    """Makes the training function, with XLA for batches of `rows` examples."""
    jit_compile = model.jit_compile
    model.jit_compile = False
    model.train_step = _where_full(model.train_step, rows)
    try:
        model.make_train_function(force=True)
    finally:
        del model.train_step  # the method of the class is visible again
        model.jit_compile = jit_compile


def _where_full(step: Callable[[Any], Any], rows: int) -> Callable[[Any], Any]:
    """Returns a step that is compiled with XLA for batches of `rows` examples."""
    import tensorflow as tf

    def with_rows(x: Any) -> Any:
        return tf.ensure_shape(x, [rows, *x.shape[1:]])

    compiled = with_xla(lambda data: step(tf.nest.map_structure(with_rows, data)))

    def run(data: Any) -> Any:
        first = tf.nest.flatten(data)[0]
        if first.shape[0] is not None:
            return compiled(data) if first.shape[0] == rows else step(data)
        return tf.cond(
            tf.shape(first)[0] == rows,
            lambda: compiled(data),
            lambda: step(data),
        )

    return run


def _set(model: keras.Model, functions: dict[str, Any]) -> None:
    for name, function in functions.items():
        setattr(model, name, function)
