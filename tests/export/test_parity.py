"""The same scores in Keras, a loaded file, a SavedModel, LiteRT and ONNX Runtime."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.export import export
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

SIZES = {"user": 30, "item": 20, "genres": 9}
FORMATS = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}

# Each runs in a process of its own and may import no more than what it names.
RUNNERS = {
    "saved_model": """
import tensorflow as tf
def load(path):
    run = tf.saved_model.load(path).signatures["serving_default"]
    return lambda inputs: {
        name: x.numpy()
        for name, x in run(**{n: tf.constant(v) for n, v in inputs.items()}).items()
    }
""",
    "litert": """
from ai_edge_litert.interpreter import Interpreter
def load(path):
    run = Interpreter(model_path=path).get_signature_runner()
    return lambda inputs: run(**inputs)
""",
    "onnx": """
import onnxruntime
def load(path):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))
""",
}
RUN = """
import importlib.abc, json, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
LOADER
for path, batches, found in json.loads(sys.stdin.read()):
    run, results = load(path), {}
    with np.load(batches) as file:
        arrays = dict(file)
    for size in SIZES:
        start = f"{size}/"
        inputs = {n[len(start):]: x for n, x in arrays.items() if n.startswith(start)}
        for name, x in run(inputs).items():
            results[f"{size}/{name}"] = x
    np.savez(found, **results)
assert not set(ABSENT) & {name.split(".")[0] for name in sys.modules}
"""
BATCHES = (0, 1, 1000)


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.Model):
    """A subclassed model of one's own, with a dict of outputs."""

    def __init__(self, features, **kwargs):
        super().__init__(**kwargs)
        self.features_given = features
        self.vectors = fmlayers.FeatureEmbedding(features, 4, name="vectors")
        self.pairs = fmlayers.FMInteraction(reduce="none")
        self.hidden = keras.layers.Dense(3, activation="relu")

    def call(self, inputs, training=None):
        pairs = self.pairs(self.vectors(inputs))
        return {"pairs": pairs, "click": ops.sum(self.hidden(pairs), axis=-1)}

    def get_config(self):
        serialized = keras.saving.serialize_keras_object(self.features_given)
        return {**super().get_config(), "features": serialized}

    @classmethod
    def from_config(cls, config):
        features = keras.saving.deserialize_keras_object(config.pop("features"))
        return cls(features, **config)


def functional(features):
    inputs = {f.name: f.keras_input() for f in features if f.name != "rated"}
    vectors = fmlayers.FeatureEmbedding(features[:-1], 3)(inputs)
    pairs = fmlayers.FMInteraction()(vectors)
    return keras.Model(inputs, fmlayers.RatingScaler(1, 5, name="rating")(pairs))


def beyond_float(_):
    """Return a model whose ids float32 cannot tell apart."""
    size = 2**24 + 10
    user = fmlayers.Categorical("user", size)
    inputs = {"user": user.keras_input()}
    layer = fmlayers.FeatureEmbedding([user], 1, embeddings_initializer="zeros")
    model = keras.Model(inputs, keras.layers.Reshape((1,))(layer(inputs)))
    table = np.zeros((size + 1, 1), "float32")
    table[-20:] = np.arange(20)[:, None]
    layer.tables["user"].assign(table)
    return model


def with_history(model):
    model.factors.set_history("rated", [1, 1, 2, 4], [7, 9, 7, 3])
    return model


def long(features):
    """Return a model whose histories are too many for a dense matrix."""
    history = dataclasses.replace(features[-1], num_keys=2**21)
    return with_history(FactorizationMachine([*features[:-1], history], 2))


def ensemble(features):
    members = [FactorizationMachine(features[:-1], 3) for _ in range(2)]
    return Ensemble(members)


SCALER = {"scaler": fmlayers.RatingScaler(1, 5)}
MODELS = {
    "mf": lambda f: MatrixFactorization(f[0], f[1], 4, **SCALER),
    "fm": lambda f: with_history(FactorizationMachine(f, 4, **SCALER)),
    "fm_bfloat16": lambda f: FactorizationMachine(f[:-1], 4, dtype="mixed_bfloat16"),
    "libfm": lambda f: LibFM(f[:-1], 4, batch_normalization=True, positive=True),
    "deepfm": lambda f: DeepFM(
        *(f[:-1], 4), hidden_units=[5, 3], dropout=0.5, batch_normalization=True
    ),
    "part": lambda f: DeepFM(f[:-1], 4, hidden_units=[5, 3]).part("deep"),
    "neumf": lambda f: NeuralMatrixFactorization(
        f[0], f[1], 4, hidden_units=[5], out_of_range="zero", **SCALER
    ),
    "ensemble": ensemble,
    "long": long,
    "own": lambda f: Own(f[:-1]),
    "functional": functional,
    "beyond_float": beyond_float,
}
# Two runtimes round differently, each term of a score at most so often: pooling five
# values, five fields, their products and hidden layers of 5 * 4, 5 and 3 inputs.
ROUNDINGS = 64
# What is looked up is rounded to bfloat16, by each runtime in its own way.
UNIT = {"fm_bfloat16": 2.0**-9}


def batch_of(size):
    """Return inputs of every kind: random, unknown, missing, empty, extreme."""
    rng = np.random.default_rng(size)
    odd = np.array(
        [0, -1, 30, 2**24, 2**24 + 1, 2**31, 2**40, -(2**63), 2**63 - 1, 1], "int64"
    )

    def ids(limit, shape):
        drawn = rng.integers(0, limit, shape)
        return np.where(rng.random(shape) < 0.3, rng.choice(odd, shape), drawn)

    age = rng.normal(size=size)
    age = rng.choice([np.nan, 0.0, 1e4, -1e4, 1e-30], size) * (rng.random(size) < 0.4)
    age = np.where(rng.random(size) < 0.5, rng.normal(size=size), age)
    genres = ids(SIZES["genres"], (size, 5)) * (rng.random((size, 5)) < 0.6)
    genres[::3] = 0
    return {
        "user": ids(SIZES["user"], size),
        "item": ids(SIZES["item"], size),
        "genres": genres,
        "age": age.astype("float32"),
    }


def of_keras(model, inputs):
    """Return a model's outputs by the names that an export gives them."""
    outputs = model(inputs)
    if isinstance(outputs, dict):
        return outputs
    if not hasattr(model, "score"):
        return {model.output_names[0]: outputs}
    named = {"score": model.score(inputs)}
    if getattr(model, "scaler", None) is not None:
        named["rating"] = outputs
    return named


def scales_of(model, inputs):
    """Return the sum of the absolute values of all terms, for each output.

    It is what the model computes with the absolute values of its weights and inputs:
    no two terms cancel.
    """
    weights = {v.path: ops.convert_to_numpy(v) for v in model.variables}
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            sign = -1.0 if variable.name == "moving_mean" else 1.0  # is subtracted
            variable.assign(sign * np.abs(weights[variable.path]))
    if isinstance(model, Own):
        scales = model({**inputs, "age": np.abs(inputs["age"])})
    elif hasattr(model, "score"):
        score = model.score({**inputs, "age": np.abs(inputs["age"])})
        scales = {"score": score, "rating": score}  # no scaler has a slope above 1
    else:
        name, last = model.output_names[0], model.layers[-1]
        read = {
            key: np.abs(inputs[key]) if key == "age" else inputs[key]
            for key in model.input
        }
        scales = {name: keras.Model(model.input, last.input)(read)}
    for variable in model.variables:
        variable.assign(weights[variable.path])
    return {name: ops.convert_to_numpy(x) for name, x in scales.items()}


@pytest.fixture(scope="module")
def exported(request, on_tensorflow, every_kind, shaken, tmp_path_factory):
    """Export each model in each format; returns what Keras and all runtimes find."""
    folder = tmp_path_factory.mktemp("parity")
    found, tasks = {}, {format: [] for format in FORMATS}
    chosen = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and "name" in item.callspec.params
    }
    models = {name: make for name, make in MODELS.items() if name in chosen}
    for name, make in models.items():
        model = make(every_kind)
        if name != "beyond_float":
            model({n: x[:1] for n, x in batch_of(1).items()})  # makes its weights
            shaken(model)
        batches, reads = {}, None
        for size in BATCHES:
            batches[size] = batch_of(size)
            if name == "fm_bfloat16":
                batches[size]["age"] = np.clip(batches[size]["age"], -3.0, 3.0)
        if name == "beyond_float":
            batches = {
                size: {"user": 2**24 - 10 + np.arange(size) % 20} for size in BATCHES
            }
        for format, suffix in FORMATS.items():
            path = export(model, folder / f"{name}{suffix}", format)
            card = (path / "card.json") if not suffix else f"{path}.json"
            signatures = json.loads(Path(card).read_text("utf-8"))["signatures"]
            reads = [e["name"] for e in signatures["serving_default"]["inputs"]]
            tasks[format].append(
                [str(path), str(folder / f"{name}.npz"), str(path) + ".found.npz"]
            )
        np.savez(
            folder / f"{name}.npz",
            **{f"{s}/{n}": b[n] for s, b in batches.items() for n in reads},
        )
        found[name, "keras"] = {
            f"{size}/{output}": ops.convert_to_numpy(x)
            for size, batch in batches.items()
            for output, x in of_keras(model, batch).items()
        }
        found[name, "scale"] = {
            f"{size}/{output}": x
            for size, batch in batches.items()
            for output, x in scales_of(model, batch).items()
        }
        if name != "part":  # which says that it is not saved
            model.save(folder / f"{name}.keras")
            loaded = keras.models.load_model(folder / f"{name}.keras")
            found[name, "loaded"] = {
                f"{size}/{output}": ops.convert_to_numpy(x)
                for size, batch in batches.items()
                for output, x in of_keras(loaded, batch).items()
            }
    for format, runner in RUNNERS.items():
        absent = ["fmlayers", "keras"]
        absent = ["fmlayers"] if format == "saved_model" else [*absent, "tensorflow"]
        script = f"ABSENT, SIZES = {absent}, {BATCHES}" + RUN.replace("LOADER", runner)
        subprocess.run(
            [sys.executable, "-I", "-c", script],
            input=json.dumps(tasks[format]),
            cwd=folder,
            text=True,
            check=True,
        )
        for name, (_, _, path) in zip(models, tasks[format], strict=True):
            with np.load(path) as file:
                found[name, format] = dict(file)
    return found


@pytest.mark.parametrize("where", ["loaded", *FORMATS])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "fm" else pytest.mark.slow) for n in MODELS],
)
def test_scores_are_those_of_keras(name, where, exported):
    if (name, where) == ("part", "loaded"):
        pytest.skip("a part has no file of its own")
    expected, found = exported[name, "keras"], exported[name, where]
    assert set(found) == set(expected)
    for key, x in expected.items():
        assert found[key].shape == x.shape, key
        assert found[key].dtype == x.dtype, key
        scale = exported[name, "scale"][key].reshape(x.shape)
        unit = UNIT.get(name, 2.0**-24)
        error = np.abs(found[key].astype("float64") - x)
        # A scaler's function and its result are rounded, too.
        assert (error <= ROUNDINGS * unit * (scale + 5.0)).all(), key
    outputs = {key.split("/")[1] for key in expected}
    for output in outputs:  # which the inputs do move
        assert np.std(expected[f"1000/{output}"]) > 1e-3
        assert np.isfinite(expected[f"1000/{output}"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beyond_float"])
def test_ids_beyond_float(name, exported):
    for where in ("keras", "loaded", *FORMATS):
        (found,) = (
            x for n, x in exported["beyond_float", where].items() if n[:5] == "1000/"
        )
        np.testing.assert_array_equal(found[:22, 0], [_row(i) for i in range(22)])


def _row(position):
    """Return the weight of the id of a place in the batch."""
    i = 2**24 - 10 + position % 20
    return max(i - (2**24 + 11 - 20), 0)
