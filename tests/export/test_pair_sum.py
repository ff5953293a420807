"""The bound that `FMInteraction` states, of models that serving runtimes run."""

import keras
import ml_dtypes
import numpy as np
import pytest
from pair_sums import assert_value_within_bound

import fmlayers
from fmlayers.export import export

pytestmark = pytest.mark.usefixtures("on_tensorflow")


def run_saved_model(path, x):
    import tensorflow as tf

    return tf.saved_model.load(path).signatures["serving_default"](vectors=x)


def run_litert(path, x):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(path).get_signature_runner()(vectors=x)


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return {"fm_interaction": session.run(None, {"vectors": x})[0]}


FORMATS = {
    "saved_model": ("model", run_saved_model),
    "litert": ("model.tflite", run_litert),
    "onnx": ("model.onnx", run_onnx),
}


@pytest.mark.parametrize(
    ("fields", "reduce"),
    [
        (3, "none"),
        pytest.param(16, "sum", marks=pytest.mark.slow),
        pytest.param(40, "sum", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("format", FORMATS)
def test_error_of_an_exported_layer(format, policy, fields, reduce, rng, tmp_path):
    vectors = keras.Input((fields, 8), name="vectors")
    layer = fmlayers.FMInteraction(reduce, dtype=policy, name="fm_interaction")
    name, run = FORMATS[format]
    path = export(keras.Model(vectors, layer(vectors)), tmp_path / name, format)
    x = rng.normal(size=(64, fields, 8)).clip(-5.0, 5.0)
    exponents = rng.uniform(-3.0, 4.0, size=(64, fields, 1))
    exponents[32:] = -3.0
    exponents[32:, 1] = 4.0
    x *= 10.0**exponents
    # What 16 bits represent: they round no further, so float32's bound holds.
    dtype = ml_dtypes.finfo(policy.removeprefix("mixed_")).dtype
    x = x.astype(dtype).astype("float32")
    found = np.asarray(run(str(path), x)["fm_interaction"])
    assert_value_within_bound(found, x, reduce)
