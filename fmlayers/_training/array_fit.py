"""`fit` on arrays in memory, with little overhead per step on TensorFlow."""

import functools
import inspect
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from fmlayers._training.array_pipelines import Array, in_order, shuffled
from fmlayers._training.execution import (
    Execution,
    build_ahead,
    pays_with_xla,
    sees_batches,
    steps_per_execution,
)

DEFAULT_BATCH_SIZE = 32  # that of Keras


class FitsArrays:
    """Mixin for a `keras.Model` whose `fit` is fast on arrays.

    Put it before the Keras class.
    """

    _compiles_by_size: bool = False

    @functools.wraps(keras.Model.compile)
    def compile(self, *args: Any, **kwargs: Any) -> None:
        compile_ = super().compile  # type: ignore[misc]
        given = inspect.signature(compile_).bind(*args, **kwargs).arguments
        compile_(*args, **kwargs)
        is_auto = given.get("jit_compile", "auto") == "auto"
        self._compiles_by_size = is_auto and not given.get("run_eagerly", False)

    def get_compile_config(self) -> Any:
        config = super().get_compile_config()  # type: ignore[misc]
        if config and self._compiles_by_size:
            config["jit_compile"] = "auto"
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        if type(self).compile is not FitsArrays.compile:
            super().compile_from_config(config)  # type: ignore[misc]
            return
        # Keras does so only for classes that do not override `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        model: Any = self
        if model.built and model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        jit_compile = "auto" if self._compiles_by_size else None
        return _fit(self, super().fit, args, kwargs, jit_compile)  # type: ignore[misc]


def fit(
    model: keras.Model, *args: Any, jit_compile: bool | str = "auto", **kwargs: Any
) -> Any:
    """Trains a compiled model on arrays, with little overhead per step on TensorFlow.

    It calls `model.fit`, with the same results: the same steps, losses, metrics and
    calls of callbacks. `fit` of the package's models does the same. Use this function
    for other models, such as functional models made of the package's layers.

    - It forms the batches in another thread, shuffled anew in each epoch.
    - It executes up to 32 steps at once, unless `steps_per_execution` of `compile` is
      set or a callback has a method for each batch.
    - It compiles the training step with XLA if that saves time and all layers support
      it. A smaller last batch runs without XLA, which would compile again.

    Anything other than arrays of numbers, other backends, `run_eagerly` and
    distribution strategies are left to `model.fit`.

    Args:
        model: The compiled model.
        *args: Positional arguments of `model.fit`.
        jit_compile: `True`, `False`, or `"auto"` to use XLA if it saves time.
            Defaults to `"auto"`. If the model was compiled with `jit_compile=True`, it
            has no effect.
        **kwargs: Keyword arguments of `model.fit`.

    Returns:
        The `keras.callbacks.History`.

    Example:

    >>> features = [fmlayers.Categorical(name, 90) for name in ("user", "item")]
    >>> inputs = {feature.name: feature.keras_input() for feature in features}
    >>> vectors = fmlayers.FeatureEmbedding(features, dim=8)(inputs)
    >>> model = keras.Model(inputs, fmlayers.FMInteraction()(vectors))
    >>> model.compile(fmlayers.optimizers.Adagrad(), loss="mse")
    >>> table = {"user": np.arange(50), "item": np.arange(50)[::-1]}
    >>> history = fmlayers.fit(model, table, np.ones(50), batch_size=10, verbose=0)
    """
    return _fit(model, model.fit, args, kwargs, jit_compile)


def _fit(
    model: Any,
    keras_fit: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    jit_compile: bool | str | None,
) -> Any:
    """Calls `keras_fit`, with batches and an `Execution` for the arguments.

    Args:
        model: The compiled model.
        keras_fit: The `fit` of Keras for the model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        jit_compile: Same as in `fit`, or `None` to do what the model was compiled for.
    """
    _check_strategy(model)
    if not _is_plain(model):
        return keras_fit(*args, **kwargs)
    bound = inspect.signature(keras_fit).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    prepared = _prepared(given)
    if prepared is None:
        return keras_fit(*args, **kwargs)
    arguments, steps, batch_size, is_partial = prepared
    build_ahead(model, *arguments["x"].element_spec[:2])
    epochs = given["epochs"] - given["initial_epoch"]
    use_xla = jit_compile is True or (
        jit_compile == "auto" and pays_with_xla(model, steps * batch_size * epochs)
    )
    xla_rows = batch_size if use_xla or (model.jit_compile and is_partial) else 0
    with Execution(_steps_at_once(model, given, steps), xla_rows).of(model):
        return keras_fit(**arguments)


def _check_strategy(model: Any) -> None:
    """Raises `RuntimeError` for TensorFlow strategies with which `fit` fails.

    Otherwise, Keras would report that it cannot convert a dict to a tensor.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    strategy = model._distribute_strategy or tf.distribute.get_strategy()
    several_machines = (
        tf.distribute.MultiWorkerMirroredStrategy,
        tf.distribute.ParameterServerStrategy,
    )
    if isinstance(strategy, several_machines):
        raise RuntimeError(
            "`fit` of Keras 3 does not support TensorFlow's strategies for several "
            "machines, `MultiWorkerMirroredStrategy` and `ParameterServerStrategy`. "
            "Use `fmlayers.distributed` with the JAX backend, or `MirroredStrategy` on "
            f"a single machine. Received: {type(strategy).__name__}."
        )


def _is_plain(model: Any) -> bool:
    """Returns whether a model trains on TensorFlow, compiled and on one device."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    is_distributed = tf.distribute.has_strategy() or keras.distribution.distribution()
    return (
        model.compiled
        and not model.run_eagerly
        and not is_distributed
        and model._distribute_strategy is None
    )


def _steps_at_once(model: Any, given: Mapping[str, Any], steps: int) -> int:
    if (
        model.steps_per_execution != 1
        or sees_batches(given["callbacks"])
        or keras.config.max_steps_per_epoch()
    ):
        return int(model.steps_per_execution)
    exact = [n for n in (given["steps_per_epoch"], given["validation_steps"]) if n]
    if exact:
        return steps_per_execution(math.gcd(*exact), exact=True)
    return steps_per_execution(steps)


def _prepared(
    given: Mapping[str, Any],
) -> tuple[dict[str, Any], int, int, bool] | None:
    """Returns the arguments of `fit` with batches in place of arrays.

    Returns:
        A tuple of the arguments, the steps per epoch, the batch size, and whether the
        last batch is smaller. `None` if Keras should handle the arguments.
    """
    if given["y"] is None or not isinstance(given["shuffle"], bool):
        return None
    data = _arrays(given["x"], given["y"], given["sample_weight"])
    if data is None:
        return None
    rows = _rows(data)
    validation = given["validation_data"]
    if validation is None and given["validation_split"]:
        rows = math.floor(rows * (1.0 - given["validation_split"]))
        if not 0 < rows < _rows(data):
            return None
        validation = keras.tree.map_structure(lambda x: x[rows:], data)
        data = keras.tree.map_structure(lambda x: x[:rows], data)
    if given["class_weight"] is not None:
        if len(data) == 3 or not isinstance(data[1], np.ndarray):
            return None
        data = (*data, _weights_of_classes(data[1], given["class_weight"]))
    steps = given["steps_per_epoch"]
    batch_size = _batch_size(given["batch_size"], rows, steps)
    validation_batch_size = given["validation_batch_size"] or given["batch_size"]
    arguments = {
        **given,
        "x": shuffled(data, batch_size, _orders(rows))
        if given["shuffle"]
        else in_order(data, batch_size),
        "y": None,
        "sample_weight": None,
        "class_weight": None,
        "batch_size": None,
        "shuffle": False,
        "validation_split": 0.0,
        "validation_batch_size": validation_batch_size,
        "validation_data": validation,
    }
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        held_out = _arrays(*validation)
        if held_out is not None:
            size = _batch_size(
                validation_batch_size, _rows(held_out), given["validation_steps"]
            )
            arguments["validation_data"] = in_order(held_out, size)
    in_an_epoch = steps or math.ceil(rows / batch_size)
    return arguments, in_an_epoch, batch_size, rows % batch_size > 0


def _arrays(x: Any, y: Any, sample_weight: Any = None) -> Any:
    """Returns a batch of all rows, as NumPy arrays of the dtypes that Keras uses.

    Returns:
        A tuple of two, or three if there are weights. `None` if anything is not a dense
        array of numbers, or the numbers of rows differ.
    """
    if sample_weight is not None and keras.tree.is_nested(y):
        return None
    data = (x, y) if sample_weight is None else (x, y, sample_weight)
    arrays = keras.tree.map_structure(_array, keras.tree.lists_to_tuples(data))
    leaves = keras.tree.flatten(arrays)
    if any(leaf is None for leaf in leaves):
        return None
    return arrays if len({len(leaf) for leaf in leaves}) == 1 else None


def _array(x: Any) -> Array | None:
    import pandas as pd
    import tensorflow as tf

    if isinstance(x, pd.Series):
        x = np.expand_dims(x.to_numpy(), axis=-1)
    elif tf.is_tensor(x) and isinstance(x, tf.Tensor):
        x = x.numpy() if tf.executing_eagerly() else None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "biuf" or not x.ndim:
        return None
    return x.astype(keras.config.floatx()) if x.dtype.kind == "f" else x


def _rows(data: Any) -> int:
    return len(keras.tree.flatten(data)[0])


def _batch_size(batch_size: int | None, rows: int, steps: int | None) -> int:
    if batch_size:
        return int(batch_size)
    return math.ceil(rows / steps) if steps else DEFAULT_BATCH_SIZE


def _orders(rows: int) -> Callable[[], Array]:
    """Returns a function that returns another order of the rows at each call.

    The orders depend on `keras.utils.set_random_seed`.
    """
    rng = np.random.default_rng(random.getrandbits(32))
    return lambda: rng.permutation(rows)


def _weights_of_classes(y: Array, class_weight: Mapping[int, float]) -> Array:
    """Returns the weight of the class of each row."""
    if y.ndim > 1:
        y = np.argmax(y, axis=-1) if y.shape[-1] != 1 else np.squeeze(y, axis=-1)
    labels = np.round(y).astype(np.int32)
    weights = np.ones(len(y), keras.config.floatx())
    for label, weight in class_weight.items():
        weights[labels == label] = weight
    return weights
