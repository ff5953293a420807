"""Feature names that are invalid names of weights or layers on some backend."""

import json
import re

import keras
import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers import Categorical, FeatureEmbedding, History, MultiCategorical, Numeric
from fmlayers._names import safe_name
from fmlayers.export.signature import signature_of

ODD = ["my user", "naïve", "日本", "$x", "a:b", "a,b", "a\\b", "a/b", ".dot", "a.b"]
ODD += ["x\ty", " ", "é", "%2F", "a\nb"]
SAFE = ["user", "user_id", "Age-2", "1st", "_x", "-x", "a>b"]
OPTIMIZERS = {
    "lazy_adam": fmlayers.optimizers.LazyAdam,
    "adagrad": fmlayers.optimizers.Adagrad,
    "adam": keras.optimizers.Adam,
}
USER = "$ naïve:a,b\\c/d"
FEATURES = [
    Categorical(USER, 5),
    MultiCategorical(".日本", 5, table=USER),
    Numeric("1 st", use_bias=True),
    Numeric("%", use_bias=True),
    Categorical(" ", 5, table="-x/y z"),
    History(
        "my rated/", 5, table="-x/y z", of=USER, num_keys=5, values=" ", num_pairs=3
    ),
    History("_ .", 5, of=" ", num_keys=5, values=USER, num_pairs=3),
]
BATCH = {
    USER: np.array([1, 2, 3], "int32"),
    ".日本": np.array([[1, 2], [0, 0], [3, 0]], "int32"),
    "1 st": np.array([0.1, 0.2, np.nan], "float32"),
    "%": np.array([0.3, np.nan, 0.5], "float32"),
    " ": np.array([1, 4, 2], "int32"),
}


def make_model():
    model = fmlayers.models.FactorizationMachine(FEATURES, dim=2)
    model.factors.set_history("my rated/", [1, 1, 2], [1, 4, 2])
    model.factors.set_history("_ .", [1, 4, 2], [1, 1, 2])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_name_trains_and_is_saved(optimizer, tmp_path):
    model = make_model()
    model.compile(OPTIMIZERS[optimizer](0.01), loss="mse")
    before = ops.convert_to_numpy(model.factors.tables[USER].value).copy()
    model.fit(BATCH, np.ones(3, "float32"), verbose=0)
    after = ops.convert_to_numpy(model.factors.tables[USER].value)
    assert np.abs(after - before).max() > 0.0
    expected = model.predict(BATCH, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(BATCH, verbose=0), expected)
    assert set(loaded.factors.tables) == {USER, "-x/y z", "_ ."}
    assert set(loaded.factors.vectors) == {"1 st", "%"}
    for mine, theirs in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs)
        )
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = make_model()
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.predict(BATCH, verbose=0), expected)


@pytest.mark.slow
def test_any_name_is_exported(tmp_path, backend):
    if backend != "tensorflow":
        pytest.skip("exports are TensorFlow's")
    import tensorflow as tf

    model = make_model()
    expected = ops.convert_to_numpy(model(BATCH))
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    entries = signature_of(model).inputs
    assert {entry.feature for entry in entries} == set(BATCH)
    fed = {
        entry.name: tf.constant(BATCH[entry.feature], entry.dtype) for entry in entries
    }
    scores = served.signatures["serving_default"](**fed)["score"].numpy()
    np.testing.assert_allclose(scores.reshape(-1, 1), expected, rtol=1e-5, atol=1e-7)
    card = tmp_path / "served" / "card.json"
    names = [feature["name"] for feature in json.loads(card.read_text())["features"]]
    assert names == [feature.name for feature in FEATURES]


# A slash is the one character that `keras.Input` refuses in a name.
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
def test_functional_models_take_any_name(tmp_path):
    features = [f for f in FEATURES if not isinstance(f, History)]
    inputs = {feature.name: feature.keras_input() for feature in features}
    vectors = FeatureEmbedding(features, 2)(inputs)
    model = keras.Model(inputs, ops.sum(vectors, axis=(1, 2)))
    model.compile("adam", loss="mse")
    model.train_on_batch(BATCH, np.ones(3, "float32"))
    expected = ops.convert_to_numpy(model(BATCH))
    assert np.abs(expected).max() > 0.0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(BATCH)), expected)


@pytest.mark.slow
def test_ensembles_of_any_name_train():
    features = FEATURES[:3]
    model = fmlayers.models.Ensemble.of(
        2, lambda: fmlayers.models.DeepFM(features, dim=2, hidden_units=[2])
    )
    model.compile(fmlayers.optimizers.LazyAdam(0.01), loss="mse")
    model.fit(BATCH, np.ones(3, "float32"), verbose=0)
    assert model.predict(BATCH, verbose=0).shape == (3, 1)


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_made_safe(name):
    assert re.fullmatch("[A-Za-z0-9_]+", safe_name(name))
    layer = FeatureEmbedding([Categorical(name, 3), Numeric(f"{name}!")], 2)
    layer.build()
    assert list(layer.tables) == [name]
    assert list(layer.vectors) == [f"{name}!"]
    for weight in layer.weights:
        assert re.fullmatch("[A-Za-z0-9_]+", weight.name)


def test_names_that_look_alike_stay_apart():
    names = ["a b", "a_b", "a.b", "a/b", "a:b", "a\u00a0b"]
    layer = FeatureEmbedding([Categorical(name, 3) for name in names], 2)
    layer.build()
    assert list(layer.tables) == names
    assert len({table.name for table in layer.tables.values()}) == len(names)


def test_safe_names_stay_as_they_are():
    features = [Categorical(name, 3) for name in SAFE] + [Numeric("age", use_bias=True)]
    layer = FeatureEmbedding(features, 2, name="factors")
    layer.build()
    assert [weight.path for weight in layer.named_weights().values()] == [
        *(f"factors/{name}_embeddings" for name in SAFE),
        "factors/age_vector",
        "factors/age_bias",
    ]


def test_errors_keep_the_name():
    layer = FeatureEmbedding([Categorical("my user", 3)], 2)
    with pytest.raises(ValueError, match="my user"):
        layer({})
