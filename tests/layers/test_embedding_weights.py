"""Weights are saved by the names of tables and features, not by position."""

import warnings

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers import Categorical, FeatureEmbedding, History, MultiCategorical, Numeric

USER, ITEM = Categorical("user", 10), Categorical("my item/", 10)
GENRES = MultiCategorical("genres", 10)
AGE, YEAR = Numeric("age", use_bias=True), Numeric("year", use_bias=True)
RATED = History("rated", 10, of="user", num_keys=10, values="my item/", num_pairs=3)
RATERS = History("raters", 10, of="my item/", num_keys=10, values="user", num_pairs=3)
FEATURES = [USER, ITEM, GENRES, AGE, YEAR, RATED, RATERS]
REORDERED = [RATERS, YEAR, GENRES, ITEM, RATED, AGE, USER]
PAIRS = {"rated": ([1, 1, 2], [7, 9, 7]), "raters": ([7, 7, 9], [1, 2, 1])}


@keras.saving.register_keras_serializable(package="tests")
class Embedding(keras.Model):
    """Two embeddings that share their histories."""

    def __init__(self, features, **kwargs):
        super().__init__()
        self.features = features
        self.vectors = FeatureEmbedding(features, 4, name="vectors", **kwargs)
        self.first_order = FeatureEmbedding(features, 1, name="first_order", **kwargs)
        self.vectors.build()
        self.first_order.histories = self.vectors.histories
        self.first_order.build()
        self.built = True

    def call(self, inputs):
        return ops.sum(self.vectors(inputs), axis=(1, 2))

    def get_config(self):
        return {"features": keras.saving.serialize_keras_object(self.features)}


def numpy(x):
    return ops.convert_to_numpy(x).copy()


def contents(layer):
    """Returns every weight of a layer by its name."""
    found = {f"table {name}": table for name, table in layer.tables.items()}
    found |= {f"vector {name}": vector for name, vector in layer.vectors.items()}
    found |= {f"bias {name}": bias for name, bias in layer.biases.items()}
    for name, lists in layer.histories.items():
        found |= {f"offsets {name}": lists.offsets, f"values {name}": lists.values}
    return {name: numpy(weight) for name, weight in found.items()}


def randomize(layer, rng):
    for weights in (layer.tables, layer.vectors, layer.biases):
        for weight in weights.values():
            weight.assign(rng.normal(size=weight.shape))


def trained(rng, features=FEATURES):
    model = Embedding(features)
    randomize(model.vectors, rng)
    randomize(model.first_order, rng)
    for feature in features:
        if isinstance(feature, History):
            model.vectors.set_history(feature.name, *PAIRS[feature.name])
    return model


def check_equal(model, saved):
    for layer in ("vectors", "first_order"):
        found = contents(getattr(model, layer))
        expected = contents(getattr(saved, layer))
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            np.testing.assert_array_equal(found[name], weight, err_msg=name)


@pytest.mark.parametrize("suffix", ["weights.h5", "weights.json", "keras"])
def test_another_order_of_the_features_loads_by_name(suffix, rng, tmp_path):
    saved = trained(rng)
    path = tmp_path / f"model.{suffix}"
    if suffix == "keras":
        saved.save(path)
    elif suffix == "weights.json":
        # A shard holds two tables.
        saved.save_weights(path, max_shard_size=400 / 1024**3)
        assert len(list(tmp_path.glob("*.h5"))) > 3
    else:
        saved.save_weights(path)
    model = Embedding(REORDERED)
    model.load_weights(path)
    check_equal(model, saved)


def test_shared_histories_are_once_in_every_file(rng, tmp_path):
    saved = trained(rng)
    for name in ("first", "second"):
        saved.save_weights(tmp_path / f"{name}.weights.h5")
        with h5py.File(tmp_path / f"{name}.weights.h5") as file:
            keys = []
            file.visit(keys.append)
        assert sum("history.rated" in key for key in keys) == 2
    alone = keras.Sequential([saved.vectors])  # without the layer that came first
    alone.built = True
    alone.save_weights(tmp_path / "alone.weights.h5")
    fresh = FeatureEmbedding(REORDERED, 4)
    fresh.build()
    other = keras.Sequential([fresh])
    other.built = True
    other.load_weights(tmp_path / "alone.weights.h5")
    for name, weight in contents(saved.vectors).items():
        np.testing.assert_array_equal(contents(fresh)[name], weight)


@pytest.mark.parametrize("out_of_range", ["unknown", "zero"])
def test_mismatched_tables_are_skipped_one_by_one(out_of_range, rng, tmp_path):
    saved = trained(rng, [USER, ITEM, GENRES, AGE])
    saved.save_weights(tmp_path / "model.weights.h5")
    grown = Categorical("user", 12)
    features = [YEAR, grown, ITEM, AGE]
    size = 12 + (out_of_range == "unknown")
    model = Embedding(features, out_of_range=out_of_range)
    before = contents(model.vectors)
    with pytest.warns(UserWarning, match="could not be loaded") as caught:
        model.load_weights(tmp_path / "model.weights.h5", skip_mismatch=True)
    (message,) = {str(warning.message) for warning in caught}
    assert (
        f"table 'user' has shape (11, 4) in the file and ({size}, 4) in the layer"
        in message
    ) or "(11, 1)" in message
    for part in (
        "vector 'year' is not in the file",
        "bias 'year' is not in the file",
        "table 'genres' is not in the layer",
        "`fmlayers.models.warm_start`",
    ):
        assert part in message
    after = contents(model.vectors)
    kept = ["vector age", "bias age"]
    kept += ["table my item/"] if out_of_range == "unknown" else []
    for name in kept:
        np.testing.assert_array_equal(after[name], contents(saved.vectors)[name])
    for name in ("table user", "vector year"):
        np.testing.assert_array_equal(after[name], before[name])


def test_a_mismatch_fails_and_names_the_table(rng, tmp_path):
    trained(rng, [USER, AGE]).save_weights(tmp_path / "model.weights.h5")
    model = Embedding([Categorical("user", 12), AGE])
    with pytest.raises(ValueError, match=r"table 'user' has shape \(11, .\) in the fi"):
        model.load_weights(tmp_path / "model.weights.h5")
    model = Embedding([USER])
    with pytest.raises(ValueError, match="vector 'age' is not in the layer"):
        model.load_weights(tmp_path / "model.weights.h5")


def test_histories_load_whole_or_not_at_all(rng, tmp_path):
    saved = trained(rng)
    saved.save_weights(tmp_path / "model.weights.h5")
    longer = History(
        "rated", 10, of="user", num_keys=10, values="my item/", num_pairs=4
    )
    model = Embedding([longer if f is RATED else f for f in FEATURES])
    model.vectors.set_history("rated", [1, 2, 3, 4], [1, 2, 3, 4])
    before = contents(model.vectors)
    with pytest.warns(UserWarning, match="history 'rated' has shape"):
        model.load_weights(tmp_path / "model.weights.h5", skip_mismatch=True)
    after = contents(model.vectors)
    for name in ("offsets rated", "values rated"):
        np.testing.assert_array_equal(after[name], before[name])
    for name in ("table rated", "offsets raters", "values raters"):
        np.testing.assert_array_equal(after[name], contents(saved.vectors)[name])


def test_missing_histories_error(rng, tmp_path):
    trained(rng, [USER, ITEM]).save_weights(tmp_path / "model.weights.h5")
    shared = [
        USER,
        ITEM,
        History(
            "rated",
            10,
            table="user",
            of="user",
            num_keys=10,
            values="my item/",
            num_pairs=3,
        ),
    ]
    with pytest.raises(ValueError, match="history 'rated' is not in the file"):
        Embedding(shared).load_weights(tmp_path / "model.weights.h5")


def write_by_position(model, path):
    """Writes weights as version 0.1.0 did: by position."""
    with h5py.File(path, "w") as file:
        for name in ("first_order", "vectors"):
            layer = getattr(model, name)
            group = file.create_group(f"{name}/vars")
            for i, weight in enumerate(layer.named_weights().values()):
                group[str(i)] = numpy(weight)
        for i, lists in enumerate(model.vectors.histories.values()):
            place = f"history_lists_{i}" if i else "history_lists"
            group = file.create_group(f"first_order/histories/{place}/vars")
            group["0"], group["1"] = numpy(lists.offsets), numpy(lists.values)


def test_files_of_version_0_1_0_load_by_position(rng, tmp_path):
    saved, path = trained(rng), tmp_path / "old.weights.h5"
    write_by_position(saved, path)
    model = Embedding(FEATURES)
    model.load_weights(path)
    check_equal(model, saved)
    with pytest.raises(
        ValueError, match="9 weights by position.*: table 'user', table"
    ):
        Embedding([*FEATURES[:4], RATED, RATERS]).load_weights(path)
    with pytest.raises(ValueError, match=r"table 'user' has shape \(11, .\) in the fi"):
        Embedding([Categorical("user", 12), *FEATURES[1:]]).load_weights(path)


def frozen_layer():
    layer = FeatureEmbedding(FEATURES, 4, name="vectors")
    layer.build()
    layer.tables["user"].trainable = False
    layer.biases["age"].trainable = False
    return layer


def flags(layer):
    return {key: weight.trainable for key, weight in layer.named_weights().items()}


def test_frozen_tables_stay_frozen_in_a_config():
    layer = frozen_layer()
    for _ in range(2):  # the config of a layer that is not built has it, too
        clone = FeatureEmbedding.from_config(layer.get_config())
        again = FeatureEmbedding.from_config(clone.get_config())
        for copy in (clone, again):
            copy.build()
            assert flags(copy) == flags(layer)
            assert not copy.tables["user"].trainable
            assert copy.vectors["age"].trainable
        layer = again
    layer.tables["user"].trainable = True
    layer.biases["age"].trainable = True
    assert "frozen" not in layer.get_config()


def test_a_frozen_layer_stays_frozen():
    layer = frozen_layer()
    layer.trainable = False
    clone = FeatureEmbedding.from_config(layer.get_config())
    clone.build()
    assert not clone.trainable_weights
    assert not clone.trainable


def functional(layer):
    inputs = {f.name: f.keras_input() for f in (USER, AGE)}
    layer = layer or FeatureEmbedding([USER, AGE], 4, name="vectors")
    return keras.Model(inputs, ops.sum(layer(inputs), axis=(1, 2)))


def test_frozen_tables_of_functional_models(tmp_path):
    model = functional(None)
    model.get_layer("vectors").tables["user"].trainable = False
    model.compile(fmlayers.optimizers.LazyAdam(0.1), loss="mse")
    batch = {"user": np.array([1, 2], "int32"), "age": np.array([1, 2], "float32")}
    model.train_on_batch(batch, np.ones(2, "float32"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for copy in (loaded, keras.models.clone_model(model)):
        layer = copy.get_layer("vectors")
        assert not layer.tables["user"].trainable
        assert layer.vectors["age"].trainable
    for mine, theirs in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(numpy(mine), numpy(theirs))


def test_nothing_warns_on_the_way(rng, tmp_path):
    saved = trained(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        saved.save_weights(tmp_path / "model.weights.h5")
        Embedding(FEATURES).load_weights(tmp_path / "model.weights.h5")
