"""Initializers and frozen tables by the name of a feature or a table."""

import json
import zipfile

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

import fmlayers
from fmlayers import Categorical, FeatureEmbedding, History, MultiCategorical, Numeric
from fmlayers import models as fm

USER, ITEM = Categorical("user", 5), Categorical("item", 4, mask_zero=True)
LIKED = MultiCategorical("liked", 4, table="item")
AGE = Numeric("age", use_bias=True)
FEATURES = [USER, ITEM, LIKED, AGE]
BATCH = {
    "user": np.array([1, 4, 9], "int32"),
    "item": np.array([3, 1, 9], "int32"),
    "liked": np.array([[1, 2], [3, 0], [0, 0]], "int32"),
    "age": np.array([0.5, np.nan, -1.0], "float32"),
}
RATINGS = np.array([1.0, 3.0, 5.0], "float32")
OF_FIELDS = {
    "fm": lambda **kwargs: fm.FactorizationMachine(FEATURES, 3, **kwargs),
    "libfm": lambda **kwargs: fm.LibFM(FEATURES, 3, **kwargs),
    "deepfm": lambda **kwargs: fm.DeepFM(FEATURES, 3, hidden_units=[12], **kwargs),
    "ensemble": lambda **kwargs: fm.Ensemble.of(
        2, lambda: fm.FactorizationMachine(FEATURES, 3, **kwargs)
    ),
    "mf": lambda **kwargs: fm.MatrixFactorization(USER, ITEM, 3, **kwargs),
    "neumf": lambda **kwargs: fm.NeuralMatrixFactorization(USER, ITEM, 3, **kwargs),
}


def numpy(x):
    return ops.convert_to_numpy(x).copy()


def built(features=FEATURES, dim=3, **kwargs):
    layer = FeatureEmbedding(features, dim, **kwargs)
    layer.build()
    return layer


def embeddings(model):
    """Returns the embeddings of the vectors of a model."""
    return [
        layer
        for member in model.members or [model]
        for name in ("factors", "gmf_factors", "mlp_factors")
        if (layer := getattr(member, name, None)) is not None
    ]


@pytest.mark.parametrize("name", ["item", "liked"])
@pytest.mark.parametrize("out_of_range", ["unknown", "zero", "error"])
def test_a_table_starts_from_an_array(name, out_of_range, rng):
    rows = rng.normal(size=(4, 3))
    initializer = {name: rows, "user": "ones"}
    layer = built(embeddings_initializer=initializer, out_of_range=out_of_range)
    table = numpy(layer.tables["item"])
    np.testing.assert_allclose(table[:4], rows, rtol=1e-6)
    assert len(table) == 4 + (out_of_range == "unknown")
    assert not table[4:].any()
    np.testing.assert_array_equal(numpy(layer.tables["user"])[:5], np.ones((5, 3)))
    vector = numpy(layer.vectors["age"])
    assert 0.0 < np.abs(vector).max() < 0.1  # the default


def test_a_number_starts_from_its_vector_and_bias(rng):
    rows = rng.normal(size=(2, 3)).astype("float32")
    layer = built(embeddings_initializer={"age": rows.tolist()})
    np.testing.assert_allclose(numpy(layer.vectors["age"]), rows[0], rtol=1e-6)
    np.testing.assert_allclose(numpy(layer.biases["age"]), rows[1], rtol=1e-6)


def test_a_tensor_and_an_initializer(rng):
    rows = ops.convert_to_tensor(rng.normal(size=(4, 3)).astype("float32"))
    uniform = keras.initializers.RandomUniform(seed=3)
    layer = built(embeddings_initializer={"item": rows, "user": uniform})
    np.testing.assert_array_equal(numpy(layer.tables["item"])[:4], numpy(rows))
    expected = numpy(keras.initializers.RandomUniform(seed=3)((5, 3)))
    np.testing.assert_array_equal(numpy(layer.tables["user"])[:5], expected)


def test_a_history_starts_from_an_array(rng):
    rated = History("rated", 4, of="user", num_keys=5, values="item", num_pairs=2)
    rows = rng.normal(size=(4, 3)).astype("float32")
    layer = built(
        [USER, ITEM, rated],
        embeddings_initializer={"rated": rows},
        trainable={"rated": False},
    )
    np.testing.assert_array_equal(numpy(layer.tables["rated"])[:4], rows)
    assert not layer.tables["rated"].trainable


@pytest.mark.parametrize("name", OF_FIELDS)
def test_a_frozen_pretrained_table_stays(name, rng, tmp_path):
    rows = rng.normal(size=(4, 3)).astype("float32")
    model = OF_FIELDS[name](
        embeddings_initializer={"item": rows}, trainable={"item": False}
    )
    flags = [weight.trainable for weight in model.weights]
    frozen = len(embeddings(model))
    assert flags.count(False) == frozen
    model.compile(fmlayers.optimizers.Adagrad(0.1), loss="mse", run_eagerly=True)
    model.fit(BATCH, RATINGS, epochs=2, verbose=0)
    expected = numpy(model(BATCH))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = type(model).from_config(model.get_config())
    for copy in (loaded, clone):
        assert [weight.trainable for weight in copy.weights] == flags
    clone.load_weights(tmp_path / "model.keras")
    for copy in (model, loaded, clone):
        np.testing.assert_array_equal(numpy(copy(BATCH)), expected)
        for layer in embeddings(copy):
            np.testing.assert_array_equal(numpy(layer.tables["item"])[:4], rows)
            assert np.abs(numpy(layer.tables["user"])[1]).max() > 0.0
    # The biases of the items are trained.
    if name in ("fm", "mf"):
        assert numpy(model.linear.tables["item"])[3].any()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")
def test_a_quantized_model_with_a_frozen_table_loads(rng, tmp_path):
    rows = rng.normal(size=(4, 3)).astype("float32")
    model = OF_FIELDS["deepfm"](
        embeddings_initializer={"item": rows}, trainable={"item": False}
    )
    model.quantize("int8")
    expected = numpy(model(BATCH))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(BATCH)), expected)
    assert not loaded.factors.tables["item"].trainable


def test_a_file_has_the_array_once(rng, tmp_path):
    item = Categorical("item", 5000)
    rows = rng.normal(size=(5000, 4)).astype("float32")
    model = fm.FactorizationMachine(
        [USER, item], 4, embeddings_initializer={"item": rows}
    )
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert file.getinfo("config.json").file_size < 10_000
        assert file.getinfo("model.weights.h5").file_size < 2 * rows.nbytes


def test_a_config_alone_has_no_values(rng):
    rows = rng.normal(size=(4, 3))
    layer = built(embeddings_initializer={"item": rows})
    clone = FeatureEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
    clone.build()
    assert np.isnan(numpy(clone.tables["item"])[:4]).all()
    assert np.isfinite(numpy(clone.tables["user"])).all()
    clone.set_weights(layer.get_weights())
    np.testing.assert_array_equal(numpy(clone(BATCH)), numpy(layer(BATCH)))


def test_the_config_before_and_after_build(rng):
    flags = {"liked": np.bool_(False), "age": False, "user": True}
    layer = FeatureEmbedding(FEATURES, 3, trainable=flags)
    for _ in range(3):
        config = json.loads(json.dumps(layer.get_config()))
        assert config["trainable"] == {"liked": False, "age": False, "user": True}
        layer = FeatureEmbedding.from_config(config)
    layer.build()
    for _ in range(2):
        found = {key: w.trainable for key, w in layer.named_weights().items()}
        assert found == {
            ("table", "user"): True,
            ("table", "item"): False,
            ("vector", "age"): False,
            ("bias", "age"): False,
        }
        layer = FeatureEmbedding.from_config(json.loads(json.dumps(layer.get_config())))
        layer.build()
    layer = FeatureEmbedding(FEATURES, 3, trainable=flags)
    layer.trainable = False
    assert layer.get_config()["trainable"] is False


def test_names_of_features_come_before_those_of_tables():
    features = [Categorical("a", 3, table="b"), Categorical("c", 3, table="a")]
    layer = built(
        features, trainable={"a": False}, embeddings_initializer={"a": "ones"}
    )
    assert {name: t.trainable for name, t in layer.tables.items()} == {
        "b": False,
        "a": True,
    }
    assert numpy(layer.tables["b"])[0, 0] == 1.0
    features = [Categorical("c", 3, table="age"), Numeric("age")]
    layer = built(features, trainable={"age": False})
    assert layer.tables["age"].trainable
    assert not layer.vectors["age"].trainable


def test_a_feature_may_have_the_name_of_a_key_of_configs(tmp_path, rng):
    features = [Categorical("class_name", 4), Categorical("item", 4)]
    rows = rng.normal(size=(4, 3)).astype("float32")
    for initializer in (rows, "ones"):
        model = fm.FactorizationMachine(
            features,
            3,
            l2={"class_name": 0.1},
            embeddings_initializer={"class_name": initializer},
            trainable={"class_name": False},
        )
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.factors.l2 == {"class_name": 0.1}
        table = numpy(loaded.factors.tables["class_name"])
        np.testing.assert_array_equal(table, numpy(model.factors.tables["class_name"]))
        assert not loaded.factors.tables["class_name"].trainable


def test_equal_values_for_one_table():
    rows = np.ones((4, 3))
    for value in (rows, "ones", {"class_name": "Ones", "config": {}}):
        initializer = {"item": value, "liked": value}
        layer = built(embeddings_initializer=initializer)
        assert numpy(layer.tables["item"])[0, 0] == 1.0
        clone = FeatureEmbedding.from_config(layer.get_config())
        assert set(clone.embeddings_initializer) == {"item", "liked"}
    layer = built(trainable={feature.name: False for feature in FEATURES})
    assert not layer.trainable_weights


def test_a_model_in_a_search_starts_from_an_array(rng):
    keras_tuner = pytest.importorskip("keras_tuner")
    rows = rng.normal(size=(4, 16)).astype("float32")
    hypermodel = fmlayers.tuning.HyperFactorizationMachine(
        [USER, ITEM],
        dim=16,
        embeddings_initializer={"item": rows},
        trainable={"item": False},
    )
    model = hypermodel.build(keras_tuner.HyperParameters())
    np.testing.assert_array_equal(numpy(model.factors.tables["item"])[:4], rows)
    assert not model.factors.tables["item"].trainable


@pytest.mark.parametrize(
    ("initializer", "message"),
    [
        (
            {"film": "ones"},
            r"must name features or tables among .*Received: \['film'\]",
        ),
        ({"item": np.ones((3, 3))}, r"shape \(4, 3\) for feature 'item'.*\(3, 3\)"),
        ({"item": np.ones((4, 2))}, r"shape \(4, 3\) for feature 'item'.*\(4, 2\)"),
        ({"item": np.ones(4)}, r"shape \(4, 3\) for feature 'item'.*\(4,\)"),
        ({"age": np.ones((1, 3))}, r"shape \(2, 3\) for feature 'age'"),
        ({"item": np.full((4, 3), np.nan)}, "finite numbers for 'item'.*float64"),
        ({"item": np.full((4, 3), "x")}, "finite numbers for 'item'"),
        ({"item": np.ones((4, 3), bool)}, "finite numbers for 'item'.*dtype bool"),
        ({"item": [[1.0, 2.0], [3.0]]}, "finite numbers for 'item'.*a list"),
        ({"item": "ones", "liked": "zeros"}, "'item' and 'liked', which share"),
        ({"item": np.ones((4, 3)), "liked": np.ones((4, 3))}, "'item' and 'liked'"),
        (np.ones((4, 3)), r"a dict from the name of a feature.*shape \(4, 3\)"),
        ([1.0], "a dict from the name of a feature.*a list"),
    ],
)
def test_invalid_initializers(initializer, message):
    check_error(message, lambda: built(embeddings_initializer=initializer))


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        ({"film": False}, r"`trainable` must name .*Received: \['film'\]"),
        ({"item": 0}, "`trainable` must be True or False.*trainable=0 for 'item'"),
        ({"item": False, "liked": True}, "`trainable` .*'item' and 'liked'"),
        ("item", "`trainable` must be True or False.*trainable='item'"),
    ],
)
def test_invalid_trainable(trainable, message):
    check_error(message, lambda: built(trainable=trainable))
