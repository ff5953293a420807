"""What every layer must pass, on every backend."""

import functools
import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops, tree

Arguments = dict[str, Any]
Reference = Callable[..., np.ndarray]


def check_layer(
    make: Callable[..., keras.layers.Layer],
    arguments: Arguments,
    reference: Reference,
    *,
    penalty: Callable[..., float] = lambda variables, /, **arguments: 0.0,
    output_dtype: str = "float32",
    mixed_output_dtype: str | None = None,
    tmp_path: Path,
) -> None:
    """Checks a layer against a reference in float64.

    Args:
        make: Builds the layer; takes keyword arguments of `keras.layers.Layer`.
        arguments: Call arguments, `inputs` first; arrays or dicts of arrays, each
            with the batch as first axis. Floats are differentiated.
        reference: `reference(variables, **arguments)`, in plain loops.
        penalty: The sum of the layer's losses, likewise.
        output_dtype: Of the output under float32.
        mixed_output_dtype: Of the output under a mixed policy; the compute dtype
            if left out.
        tmp_path: A folder for the saved model.
    """
    layer = make()
    _call(layer, arguments)
    _randomize(layer)
    check_values(layer, arguments, reference, penalty, output_dtype)
    check_symbolic(make(), arguments, output_dtype)
    for jit_compile in (False, True) if layer.supports_jit else (False,):
        check_gradients(layer, arguments, reference, penalty, jit_compile)
    check_config(layer, arguments, tmp_path)
    for policy in filter(multiplies, ("mixed_bfloat16", "mixed_float16")):
        check_mixed(make, layer, arguments, reference, policy, mixed_output_dtype)


@functools.cache
def multiplies(policy: str) -> bool:
    """Returns whether the backend can multiply matrices under a policy.

    TensorFlow crashes in bfloat16 if `ONEDNN_MAX_CPU_ISA` hides instructions that the
    processor has.
    """
    hidden = "ONEDNN_MAX_CPU_ISA" in os.environ
    if keras.backend.backend() != "tensorflow" or not hidden:
        return True
    dtype = policy.removeprefix("mixed_")
    code = f"import tensorflow as tf; x = tf.ones((3, 3), '{dtype}'); tf.matmul(x, x)"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True)
    return probe.returncode == 0


def check_values(
    layer: keras.layers.Layer,
    arguments: Arguments,
    reference: Reference,
    penalty: Callable[..., float],
    output_dtype: str,
) -> None:
    batch = len(_leaves(arguments)[0])
    for rows in (slice(None), slice(0, 1), np.r_[0:batch, 0:batch], slice(0, 0)):
        part = tree.map_structure(lambda x, rows=rows: x[rows], arguments)
        output = _call(layer, part)
        assert keras.backend.standardize_dtype(output.dtype) == output_dtype
        expected = reference(_weights(layer), **part)
        np.testing.assert_allclose(_numpy(output), expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(
            sum(float(_numpy(loss)) for loss in layer.losses),
            penalty(_weights(layer), **part),
            rtol=1e-5,
            atol=1e-6,
        )


def check_symbolic(
    layer: keras.layers.Layer, arguments: Arguments, output_dtype: str
) -> None:
    symbolic = tree.map_structure(
        lambda x: keras.KerasTensor((None, *x.shape[1:]), dtype=str(x.dtype)), arguments
    )
    output = _call(layer, symbolic)
    eager = _call(layer, arguments)
    assert output.shape == (None, *eager.shape[1:])
    assert output.dtype == output_dtype
    shapes = tree.map_structure(lambda x: tuple(x.shape), arguments["inputs"])
    assert layer.compute_output_shape(shapes) == tuple(eager.shape)


class Probe(keras.Model):
    """Holds the float arguments of a layer as weights beside the layer's own.

    One step of gradient descent at rate 1 then moves both by their gradients, in
    the same way on every backend.
    """

    def __init__(
        self, layer: keras.layers.Layer, arguments: Arguments, cotangent: np.ndarray
    ) -> None:
        super().__init__()
        self.layer = layer
        self.constants = _leaves(arguments)
        self.structure = arguments
        self.cotangent = cotangent.astype("float32")
        self.moved = [
            self.add_weight(
                shape=x.shape,
                # A copy: TensorFlow may take over the array's memory, and step in it.
                initializer=lambda shape, dtype, x=x: ops.cast(x.copy(), dtype),
            )
            for x in self.constants
            if _is_float(x)
        ]
        self.built = True

    def call(self, step: Any) -> Any:
        moved = iter(self.moved)
        leaves = [next(moved) if _is_float(x) else x for x in self.constants]
        leaves = [ops.convert_to_tensor(x) for x in leaves]
        return _call(self.layer, _replaced(self.structure, leaves))

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *args: Any, **kw: Any) -> Any:
        loss = ops.sum(ops.cast(y_pred, "float32") * ops.array(self.cotangent))
        for extra in self.losses:
            loss = loss + extra
        return loss


def check_gradients(
    layer: keras.layers.Layer,
    arguments: Arguments,
    reference: Reference,
    penalty: Callable[..., float],
    jit_compile: bool,
) -> None:
    before = _weights(layer)
    shape = reference(before, **arguments).shape
    cotangent = np.random.default_rng(1).normal(size=shape).astype("float32")
    probe = Probe(layer, arguments, cotangent)
    # Eager or XLA: TensorFlow's graphs between the two may read a dense variable
    # after its step (grappler's doing: without it they don't).
    probe.compile(
        keras.optimizers.SGD(1.0), jit_compile=jit_compile, run_eagerly=not jit_compile
    )
    start = [ops.convert_to_numpy(v).copy() for v in probe.moved]
    with warnings.catch_warnings():
        if jit_compile and keras.backend.backend() == "torch":
            warnings.simplefilter("ignore")  # the compiler's own
        probe.train_on_batch(np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32"))
    found = [
        # Nothing can be read off where the argument is NaN.
        np.where(np.isnan(a), 0.0, a - ops.convert_to_numpy(v))
        for a, v in zip(start, probe.moved, strict=True)
    ]
    found += [a - b for a, b in zip(before, _weights(layer), strict=True)]
    layer.set_weights(before)

    leaves = [np.array(x, "float64") if _is_float(x) else x for x in probe.constants]
    weights = [np.array(w, "float64") for w in before]

    def loss() -> float:
        packed = _replaced(arguments, leaves)
        value = np.sum(reference(weights, **packed) * cotangent)
        return float(value + penalty(weights, **packed))

    variables = [x for x in leaves if _is_float(x)] + weights
    assert variables, "nothing to differentiate"
    for gradient, variable in zip(found, variables, strict=True):
        expected = _central_differences(loss, variable)
        np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=2e-4)


def _central_differences(loss: Callable[[], float], x: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        if np.isnan(value):
            continue  # missing: no gradient may come back
        x[index] = value + 1e-5
        above = loss()
        x[index] = value - 1e-5
        below = loss()
        x[index] = value
        gradient[index] = (above - below) / 2e-5
    return gradient


def check_config(
    layer: keras.layers.Layer, arguments: Arguments, tmp_path: Path
) -> None:
    config = layer.get_config()
    for parameter in inspect.signature(type(layer).__init__).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name == "self":
            continue
        assert parameter.name in config, f"{parameter.name} is not in get_config"
    expected = _numpy(_call(layer, arguments))

    # Through text, as a file would hold it.
    clone = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    _call(clone, arguments)
    clone.set_weights(layer.get_weights())
    np.testing.assert_array_equal(_numpy(_call(clone, arguments)), expected)

    inputs = _named_inputs(arguments)
    model = keras.Model(inputs, _call(layer, inputs))
    model.save(tmp_path / "layer.keras")
    loaded = keras.models.load_model(tmp_path / "layer.keras")
    np.testing.assert_array_equal(_numpy(loaded(arguments)), expected)


def check_mixed(
    make: Callable[..., keras.layers.Layer],
    layer: keras.layers.Layer,
    arguments: Arguments,
    reference: Reference,
    policy: str,
    output_dtype: str | None,
) -> None:
    mixed = make(dtype=policy)
    _call(mixed, arguments)
    mixed.set_weights(layer.get_weights())
    assert all(weight.dtype == "float32" for weight in mixed.weights)
    output = _call(mixed, arguments)
    compute_dtype = policy.removeprefix("mixed_")
    dtype = keras.backend.standardize_dtype(output.dtype)
    assert dtype == (output_dtype or compute_dtype)

    # Rounding each float to 16 bits, and nothing worse, explains the error.
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[compute_dtype]
    expected = reference(_weights(layer), **arguments)
    scale = 1.0 + np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(_numpy(output), expected, atol=4 * unit * scale)


def check_error(match: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def _call(layer: keras.layers.Layer, arguments: Mapping[str, Any]) -> Any:
    rest = {name: x for name, x in arguments.items() if name != "inputs"}
    return layer(arguments["inputs"], **rest)


def _leaves(structure: Any) -> list[Any]:
    # keras.tree sorts the keys of a dict under some backends and not under others.
    if not isinstance(structure, Mapping):
        return [structure]
    return [leaf for value in structure.values() for leaf in _leaves(value)]


def _replaced(structure: Any, leaves: Iterable[Any]) -> Any:
    leaves = iter(leaves)
    if not isinstance(structure, Mapping):
        return next(leaves)
    return {name: _replaced(value, leaves) for name, value in structure.items()}


def _named_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _named_inputs(x)
        if isinstance(x, Mapping)
        else keras.Input(x.shape[1:], dtype=str(x.dtype), name=name)
        for name, x in arguments.items()
    }


def _randomize(layer: keras.layers.Layer) -> None:
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])


def _weights(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [np.array(w, "float64") for w in layer.get_weights()]


def _numpy(x: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def _is_float(x: np.ndarray) -> bool:
    return np.issubdtype(x.dtype, np.floating)


def by_feature(
    weights: list[np.ndarray], features: Any, unknown: bool = True
) -> list[np.ndarray]:
    """Returns the weights of a `FeatureEmbedding` one by one, in order of the features.

    Args:
        weights: The weights of the layer, where all tables and all vectors and biases
            of numbers are rows of one variable each. Gradients need it so.
        features: The features of the layer, of which none is a `Vector` or a history.
        unknown: Whether each table has a row of unknown ids.
    """
    sizes: dict[str, list[int]] = {"tables": [], "vectors": []}
    places, seen = [], set()
    for feature in features:
        if feature.table_name is None:
            places += ["vectors"] * feature.num_rows
            sizes["vectors"] += [1] * feature.num_rows
        elif feature.table_name not in seen:
            seen.add(feature.table_name)
            places.append("tables")
            sizes["tables"].append(feature.num_rows + unknown)
    variables = dict(zip(dict.fromkeys(places), weights, strict=False))
    parts = {}
    for kind, variable in variables.items():
        if len(sizes[kind]) == 1:
            parts[kind] = [variable]
            continue
        parts[kind] = np.split(variable, np.cumsum(sizes[kind])[:-1])
        if kind == "vectors":
            parts[kind] = [rows[0] for rows in parts[kind]]
    return [parts[kind].pop(0) for kind in places]
