"""Models that read texts, by Keras' lookup layers, go into a SavedModel whole."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import fmlayers
from fmlayers.export import export

pytestmark = pytest.mark.usefixtures("on_tensorflow")

FEATURES = [fmlayers.Categorical(name, 6) for name in ("user", "year", "tag")]
BATCH = {
    "user": np.array(["ann", "bob", "who?", ""], object),
    "year": np.array([1999, 2001, 7, 2001]),
    "tag": np.array(["a", "b", "c", "d"], object),
}
LOAD = """
import sys
import tensorflow as tf
run = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = run(
    user=tf.constant(["ann", "bob", "who?", ""]),
    year=tf.constant([1999, 2001, 7, 2001], tf.int64),
    tag=tf.constant(["a", "b", "c", "d"]),
)
print(*found["pairs"].numpy().ravel())
"""


def lookups():
    return {
        "user": keras.layers.StringLookup(vocabulary=["ann", "bob"]),
        "year": keras.layers.IntegerLookup(vocabulary=[1999, 2000, 2001]),
        "tag": keras.layers.Hashing(6),
    }


@pytest.fixture(scope="module")
def functional(shaken, on_tensorflow):
    dtypes = {"user": "string", "year": "int64", "tag": "string"}
    inputs = {n: keras.Input((), dtype=dtype, name=n) for n, dtype in dtypes.items()}
    ids = {name: layer(inputs[name]) for name, layer in lookups().items()}
    vectors = fmlayers.FeatureEmbedding(FEATURES, 2)(ids)
    return shaken(keras.Model(inputs, fmlayers.FMInteraction(name="pairs")(vectors)))


def loaded(path):
    command = [sys.executable, "-c", LOAD, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return np.array(result.stdout.split(), float)[:, None]


@pytest.mark.slow
def test_a_functional_model(functional, tmp_path):
    path = export(functional, tmp_path / "model")
    expected = functional.predict(BATCH, verbose=0)
    assert len(np.unique(expected)) == 4
    np.testing.assert_allclose(loaded(path), expected, rtol=1e-5)
    card = (path / "README.md").read_text()
    assert "| `user` | string | (batch,) |" in card


@pytest.mark.slow
def test_a_subclassed_model(shaken, tmp_path):
    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.lookups = lookups()
            self.vectors = fmlayers.FeatureEmbedding(FEATURES, 2)
            self.pairs = fmlayers.FMInteraction()

        def call(self, inputs):
            ids = {name: layer(inputs[name]) for name, layer in self.lookups.items()}
            return {"pairs": self.pairs(self.vectors(ids))}

    model = Reader()
    expected = model(BATCH)["pairs"]
    shaken(model)
    expected = model(BATCH)["pairs"]
    texts = {
        "user": keras.InputSpec(shape=(None,), dtype="string"),
        "tag": keras.InputSpec(shape=(None,), dtype="string"),
    }
    path = export(model, tmp_path / "model", input_signature=texts)
    np.testing.assert_allclose(loaded(path), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("format", "file"), [("litert", "m.tflite"), ("onnx", "m.onnx")]
)
def test_formats_without_texts_error(format, file, functional, tmp_path):
    message = f"'{format}' does not support text inputs.*saved_model.*'user', 'tag'"
    with pytest.raises(ValueError, match=message):
        export(functional, tmp_path / file, format)
    year = {"year": keras.Input((), dtype="int64", name="year")}
    ids = {
        "year": keras.layers.IntegerLookup(vocabulary=[1], name="years")(year["year"])
    }
    vectors = fmlayers.FeatureEmbedding(FEATURES[1:2], 2)(ids)
    with pytest.raises(ValueError, match=r"lookup layers \['years'\]"):
        export(keras.Model(year, vectors), tmp_path / file, format)
    assert list(tmp_path.iterdir()) == []
