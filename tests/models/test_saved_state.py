"""Files record the order of features, frozen parts and quantized parts."""

from operator import attrgetter

import keras
import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers import Categorical, FeatureEmbedding, MultiCategorical, Numeric, models

USER, ITEM = Categorical("user", 6), Categorical("item", 6)
FEATURES = [USER, ITEM, MultiCategorical("genres", 6), Numeric("age", use_bias=True)]
BATCH = {
    "user": np.array([1, 2, 9, 3], "int32"),
    "item": np.array([5, 1, 0, 3], "int32"),
    "genres": np.array([[1, 2], [0, 0], [3, 0], [4, 5]], "int32"),
    "age": np.array([0.1, -0.2, np.nan, 1.0], "float32"),
}
RATINGS = np.array([1, 2, 3, 4], "float32")
OF_FIELDS = {
    "fm": lambda features: models.FactorizationMachine(features, 3),
    "libfm": lambda features: models.LibFM(features, 3, batch_normalization=True),
    "deepfm": lambda features: models.DeepFM(
        features, 3, hidden_units=[12, 4], batch_normalization=True
    ),
    "ensemble": lambda features: models.Ensemble.of(
        2, lambda: models.DeepFM(features, 3, hidden_units=[12, 4])
    ),
}
MODELS = {
    **{name: lambda make=make: make(FEATURES) for name, make in OF_FIELDS.items()},
    "mf": lambda: models.MatrixFactorization(USER, ITEM, 3),
    "neumf": lambda: models.NeuralMatrixFactorization(USER, ITEM, 3),
}


def numpy(x):
    return ops.convert_to_numpy(x)


def randomized(model, rng):
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.uniform(0.1, 1.0, size=weight.shape))
    return model


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("name", OF_FIELDS)
def test_another_order_of_the_features_computes_the_same(name, rng, tmp_path):
    saved = randomized(OF_FIELDS[name](FEATURES), rng)
    saved.save_weights(tmp_path / "model.weights.h5")
    model = OF_FIELDS[name]([FEATURES[i] for i in (3, 1, 0, 2)])
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(numpy(model(BATCH)), numpy(saved(BATCH)), rtol=1e-5)


def test_swapped_features_compute_the_same(rng, tmp_path):
    saved = randomized(models.NeuralMatrixFactorization(USER, ITEM, 3), rng)
    saved.save_weights(tmp_path / "model.weights.h5")
    model = models.NeuralMatrixFactorization(ITEM, USER, 3)
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(numpy(model(BATCH)), numpy(saved(BATCH)), rtol=1e-5)


@pytest.mark.parametrize("name", ["libfm", "deepfm"])
def test_other_fields_of_the_same_number_do_not_load(name, rng, tmp_path):
    saved = randomized(OF_FIELDS[name](FEATURES), rng)
    saved.save_weights(tmp_path / "m.weights.h5")
    model = OF_FIELDS[name]([*FEATURES[:3], Numeric("year", use_bias=True)])
    with pytest.raises(ValueError, match="could not be loaded"):
        model.load_weights(tmp_path / "m.weights.h5")
    part = attrgetter("normalization" if name == "libfm" else "tower.hidden")
    layer, source = part(model), part(saved)
    if name == "deepfm":
        layer, source = layer[0], source[0]
    store = {}
    source.save_own_variables(store)
    with pytest.raises(
        ValueError, match=r"has the fields .*'age'\] in the file and .*"
    ):
        layer.load_own_variables(store)
    before = [numpy(weight).copy() for weight in layer.weights]
    with pytest.warns(UserWarning, match=layer.name):
        model.load_weights(tmp_path / "m.weights.h5", skip_mismatch=True)
    for weight, expected in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), expected)


def weights_of(model):
    """Returns the weights of a model, with the tables of a variable one by one."""
    parts = [p for p in model._flatten_layers() if isinstance(p, FeatureEmbedding)]
    tables = [table for part in parts for table in part.tables.values()]
    return [*tables, *model.weights]


def freeze_parts(model):
    """Freezes parts of the model; returns the number of frozen weights."""
    for member in model.members or [model]:
        for name in ("factors", "linear", "gmf_factors"):
            if hasattr(member, name):
                getattr(member, name).tables["user"].trainable = False
        if hasattr(member, "tower"):
            member.tower.trainable = False
            member.tower.hidden[-1].trainable = True
        member.bias.trainable = False
    return flags(model).count(False)


def flags(model):
    return [weight.trainable for weight in weights_of(model)]


@pytest.mark.parametrize("name", MODELS)
def test_frozen_parts_stay_frozen(name, tmp_path):
    model = MODELS[name]()
    assert "frozen" not in str(model.get_config())
    assert freeze_parts(model) >= 2
    clone = type(model).from_config(model.get_config())
    again = type(model).from_config(clone.get_config())
    for copy in (clone, again, reloaded(model, tmp_path)):
        assert flags(copy) == flags(model)
        assert len(copy.trainable_weights) == len(model.trainable_weights)
        for part in ("tower", "factors"):
            if hasattr(model, part):
                assert getattr(copy, part).trainable == getattr(model, part).trainable
    before = {w.path: numpy(w).copy() for w in model.weights}
    model.trainable = True
    clone = type(model).from_config(model.get_config())
    assert flags(clone) == flags(model)
    assert before.keys() == {w.path for w in model.weights}


def test_a_frozen_model_of_an_older_file_is_frozen_to_its_parts():
    model = models.DeepFM(FEATURES, 2)
    model.trainable = False
    config = model.get_config()
    del config["frozen"]  # version 0.1.0 had none
    assert not any(flags(models.DeepFM.from_config(config)))


def test_a_frozen_member_stays_frozen(tmp_path):
    model = models.Ensemble.of(2, lambda: models.FactorizationMachine(FEATURES, 2))
    model.members[0].trainable = False
    loaded = reloaded(model, tmp_path)
    assert flags(loaded) == flags(model)
    assert len(loaded.trainable_weights) == len(model.members[1].trainable_weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fm", "ensemble"])
def test_training_resumes_with_frozen_parts(name, tmp_path):
    model = MODELS[name]()
    freeze_parts(model)
    model.compile(fmlayers.optimizers.LazyAdam(0.1), loss="mse", run_eagerly=True)
    model.fit(BATCH, RATINGS, verbose=0)
    loaded = reloaded(model, tmp_path)
    for mine, theirs in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(numpy(mine), numpy(theirs))
    frozen = [w for w in weights_of(loaded) if not w.trainable]
    before = [numpy(w).copy() for w in frozen]
    loaded.fit(BATCH, RATINGS, verbose=0)
    for weight, expected in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), expected)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("deepfm", "int8"),
        *(
            pytest.param(name, mode, marks=pytest.mark.slow)
            for name in MODELS
            for mode in ("int8", "int4", "float8")
            if (name, mode) != ("deepfm", "int8")
        ),
    ],
)
def test_a_quantized_model_loads(name, mode, rng, tmp_path):
    model = randomized(MODELS[name](), rng)
    model.quantize(mode)
    expected = numpy(model(BATCH))
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(numpy(loaded(BATCH)), expected)
    assert [w.dtype for w in loaded.weights] == [w.dtype for w in model.weights]
    model.save_weights(tmp_path / "model.weights.h5")
    clone = type(model).from_config(model.get_config())
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(clone(BATCH)), expected)
