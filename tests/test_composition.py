"""The layers in custom models, saved and loaded in a fresh process."""

import importlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers import (
    Categorical,
    FeatureEmbedding,
    FMInteraction,
    MaskedMeanPooling,
    MultiCategorical,
    Numeric,
    RatingScaler,
)
from fmlayers.models import (
    DeepFM,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

FEATURES = [Categorical("user", 9), Categorical("item", 7), Numeric("age")]
BATCH = {
    "user": np.array([1, -4, 8], "int32"),
    "item": np.array([6, 0, 70], "int32"),
    "age": np.array([0.5, np.nan, -1.0], "float32"),
    "words": np.array([[1, 2, 0], [0, 0, 0], [3, 0, 0]], "int32"),
}
RATINGS = np.array([1.0, 4.0, 5.0], "float32")

# A user's own subclass: it is declared again in the fresh process, as its owner would.
SUBCLASS = """
import keras
from keras import ops
import fmlayers

@keras.saving.register_keras_serializable(package="test")
class Ranker(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        features = [fmlayers.Categorical("user", 9), fmlayers.Categorical("item", 7),
                    fmlayers.Numeric("age")]
        self.fields = fmlayers.FeatureEmbedding(features, 4, l2=0.01)
        self.words = keras.layers.Embedding(5, 4, mask_zero=True)
        self.pooling = fmlayers.MaskedMeanPooling(combiner="sqrtn")
        self.interaction = fmlayers.FMInteraction("none")
        self.hidden = keras.layers.Dense(3, activation="relu")
        self.score = keras.layers.Dense(1)
        self.scaler = fmlayers.RatingScaler(1, 5)

    def call(self, inputs):
        words = ops.expand_dims(self.pooling(self.words(inputs["words"])), 1)
        vectors = ops.concatenate([self.fields(inputs), words], axis=1)
        return self.scaler(self.score(self.hidden(self.interaction(vectors))))
"""


def functional_model():
    inputs = {feature.name: feature.keras_input() for feature in FEATURES}
    inputs["words"] = keras.Input((3,), dtype="int32", name="words")
    embedded = keras.layers.Embedding(5, 4, mask_zero=True)(inputs["words"])
    words = keras.layers.Reshape((1, 4))(MaskedMeanPooling()(embedded))
    fields = FeatureEmbedding(FEATURES, 4, l2=0.01)(inputs)
    vectors = keras.layers.Concatenate(axis=1)([fields, words])
    pairs = FMInteraction("none")(vectors)
    hidden = keras.layers.Dense(3, activation="relu")(pairs)
    output = RatingScaler(1, 5)(keras.layers.Dense(1)(hidden))
    return keras.Model(inputs, output)


def subclassed_model():
    names = {}
    exec(SUBCLASS, names)
    return names["Ranker"]()


def fm_model():
    features = [*FEATURES, MultiCategorical("words", 5)]
    return FactorizationMachine(features, 4, RatingScaler(1, 5))


def mf_model():
    scaler = RatingScaler(1, 5, "clip")
    start = keras.initializers.Constant(3.0)  # where the scaler does not clip
    return MatrixFactorization(*FEATURES[:2], 4, scaler=scaler, bias_initializer=start)


def libfm_model():
    features = [*FEATURES, MultiCategorical("words", 5)]
    start = keras.initializers.Constant(3.0)
    return LibFM(
        features, 4, positive=True, batch_normalization=True, bias_initializer=start
    )


def deepfm_model():
    features = [*FEATURES, MultiCategorical("words", 5)]
    scaler = RatingScaler(1, 5)
    return DeepFM(features, 4, scaler, dropout=0.1, batch_normalization=True)


def neumf_model():
    scaler = RatingScaler(1, 5)
    return NeuralMatrixFactorization(*FEATURES[:2], 4, scaler, dropout=0.1)


OURS = [functional_model, fm_model, mf_model, libfm_model, deepfm_model, neumf_model]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("makes", "preamble"), [(OURS, "import fmlayers"), ([subclassed_model], SUBCLASS)]
)
def test_trained_models_load_in_a_fresh_process(makes, preamble, tmp_path):
    expected = {}
    for make in makes:
        model = make()
        model.compile("adam", loss="mse")
        history = model.fit(BATCH, RATINGS, epochs=3, verbose=0).history["loss"]
        assert history[-1] < history[0]
        assert all(np.isfinite(history))
        path = tmp_path / f"{make.__name__}.keras"
        model.save(path)
        expected[str(path)] = model.predict(BATCH, verbose=0)

    batch = {name: x.tolist() for name, x in BATCH.items()}
    script = f"""
import json, sys
{preamble}
import keras, numpy as np
batch, paths = json.load(sys.stdin)
batch = {{name: np.array(x, "float32" if name == "age" else "int32")
         for name, x in batch.items()}}
models = map(keras.models.load_model, paths)
found = [model.predict(batch, verbose=0).tolist() for model in models]
print("PREDICTED", json.dumps(found))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([batch, list(expected)]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.split("PREDICTED")[1])
    for path, one in zip(expected, found, strict=True):
        assert expected[path].shape == (3, 1)
        assert ((expected[path] >= 1.0) & (expected[path] <= 5.0)).all(), path
        np.testing.assert_allclose(one, expected[path], rtol=1e-6, err_msg=path)


def test_models_are_built_twice_without_harm():
    model = fm_model()
    before = model.get_weights()
    model.build()
    model.build({name: x.shape for name, x in BATCH.items()})
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_reaches_only_the_rows_of_the_batch():
    model = fm_model()
    model.compile(fmlayers_optimizer(), loss="mse")
    before = ops.convert_to_numpy(model.factors.tables["user"].value).copy()
    model.train_on_batch(BATCH, RATINGS)
    after = ops.convert_to_numpy(model.factors.tables["user"].value)
    moved = np.any(after != before, axis=1)
    # Users 1, 8 and the unknown's row; the L2 of the model reaches no other.
    np.testing.assert_array_equal(np.flatnonzero(moved), [1, 8, 9])


def fmlayers_optimizer():
    from fmlayers.optimizers import Adagrad

    return Adagrad(0.1)


def test_empty_rows_train_without_nan():
    model = fm_model()
    model.compile("sgd", loss="mse")
    empty = {**BATCH, "words": np.zeros((3, 3), "int32")}
    for _ in range(3):
        model.train_on_batch(empty, RATINGS)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_public_names_are_registered_for_loading():
    from fmlayers import _registry, data, models, optimizers

    for module in (models, optimizers, data):
        for name in module.__all__:
            cls = getattr(module, name)
            if hasattr(cls, "from_config"):
                found = importlib.import_module(_registry.modules()[name])
                assert getattr(found, name) is cls
                assert found.__name__.startswith(module.__name__)
    for name in fmlayers.__all__:
        public = getattr(fmlayers, name)
        # Only subclasses of a `ScoringModel` are saved.
        if isinstance(public, type) and public is not fmlayers.ScoringModel:
            registered = keras.saving.get_registered_name(public)
            assert registered == f"fmlayers>{name}"
