"""The properties of the kinds of features, and a new kind in two classes."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import (
    Categorical,
    FeatureEmbedding,
    History,
    MultiCategorical,
    Numeric,
    Vector,
    features,
    select_inputs,
)
from fmlayers._entries import NumberEntry
from fmlayers.layers import _fields
from fmlayers.layers._fields.field import Field
from fmlayers.models import FactorizationMachine

HISTORY = History("rated", 6, of="user", num_keys=5, values="film", num_pairs=4)
FEATURES = [
    Categorical("user", 5),
    Categorical("sex", 3, mask_zero=True),
    Categorical("one", 1),
    MultiCategorical("genres", 4, table="shared"),
    Numeric("age", use_bias=True),
    Numeric("year"),
    MultiCategorical("tags", 4, weights="shares"),
    Vector("text", 3, use_bias=True),
    HISTORY,
]


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_the_layer_reads_the_entries(feature):
    layer = FeatureEmbedding([feature], 2)
    examples = {entry.name: np.array(entry.example) for entry in feature.entries}
    blanks = {entry.name: entry.blank(2) for entry in feature.entries}
    for batch in (examples, blanks):
        assert layer(batch).shape == (2, 1, 2)
        assert list(select_inputs([feature], {**batch, "other": 1})) == list(batch)
    for entry in feature.entries:
        blank = blanks[entry.name]
        assert entry.keras_input().dtype == blank.dtype
        assert len(entry.keras_input().shape) == blank.ndim == len(entry.shape)
        assert np.min(examples[entry.name]) >= 0
    inputs = {entry.name: entry.keras_input() for entry in feature.entries}
    assert layer(inputs).shape == (None, 1, 2)


def test_meanings_of_entries():
    meanings = [[entry.meaning for entry in f.entries] for f in FEATURES]
    assert meanings == [
        ["an id 0 ... 4"],
        ["an id 1 ... 2; 0: missing"],
        ["an id 0 ... 0"],
        ["ids 1 ... 3, padded with 0"],
        ["a number, as the encoder scales it; NaN: missing"],
        ["a number, as the encoder scales it; NaN: missing"],
        ["ids 1 ... 3, padded with 0", "the weights of tags"],
        ["a vector of 3 numbers, as the encoder scales it; NaN: missing"],
        [
            "an id 0 ... 4, the key of rated",
            "the example's own value, left out of rated; 0: none",
        ],
    ]


def test_a_kind_defines_entries_and_rows():
    assert all(issubclass(kind, features.Feature) for kind in _fields.FIELDS)
    with pytest.raises(TypeError, match="entries.*num_rows"):
        features.Feature("user")


def test_rows_and_tables():
    assert [f.num_rows for f in FEATURES] == [5, 3, 1, 4, 2, 1, 4, 4, 6]
    tables = ["user", "sex", "one", "shared", None, None, "tags", None, "rated"]
    assert [f.table_name for f in FEATURES] == tables
    assert HISTORY.ids_entry == "film"
    assert FEATURES[3].ids_entry == "genres"
    assert HISTORY.inputs == ("user",)
    assert not hasattr(HISTORY, "keras_input")
    layer = FeatureEmbedding(FEATURES, 2, out_of_range="zero")
    layer.build()
    found = sum(w.shape[0] if len(w.shape) == 2 else 1 for w in layer.trainable_weights)
    assert found == sum(feature.num_rows for feature in FEATURES)


def test_weights_by_role_and_name():
    layer = FeatureEmbedding([*FEATURES, Categorical("film", 6, table="rated")], 2)
    layer.build()
    named = layer.named_weights()
    assert list(named) == [
        ("table", "user"),
        ("table", "sex"),
        ("table", "one"),
        ("table", "shared"),
        ("vector", "age"),
        ("bias", "age"),
        ("vector", "year"),
        ("table", "tags"),
        ("vector", "text"),
        ("bias", "text"),
        ("table", "rated"),
    ]
    sizes = sum(np.prod(weight.shape) for weight in named.values())
    assert sizes == sum(np.prod(weight.shape) for weight in layer.trainable_weights)


@keras.saving.register_keras_serializable(package="test_fields")
@dataclass(frozen=True)
class Angle(features.Feature):
    """An angle, as sin(x) a + cos(x) b."""

    @property
    def entries(self):
        meaning, remedy = "an angle", "It is one number."
        return (NumberEntry(self.name, feature=self, meaning=meaning, remedy=remedy),)

    @property
    def num_rows(self):
        return 2


class AngleField(Field):
    def build(self):
        for name in self._names():
            self.layer.vectors[name] = self.layer.add_weight(
                shape=(self.layer.dim,), initializer=self.fresh_initializer()
            )

    def weights(self):
        for name in self._names():
            yield ("vector", name), self.layer.vectors[name]

    def embed(self, inputs):
        (entry,) = self.feature.entries
        x = ops.expand_dims(ops.cast(entry.read(inputs), self.dtype), -1)
        a, b = (self.layer.vectors[name] for name in self._names())
        vectors = ops.sin(x) * a + ops.cos(x) * b
        return vectors, ops.sum(ops.square(vectors), axis=-1)

    def _names(self):
        return [f"{self.feature.name}/{part}" for part in ("sin", "cos")]


def test_a_kind_is_a_description_and_a_field(monkeypatch, tmp_path, rng):
    kinds = [Angle("hour"), Categorical("user", 5), Numeric("age")]
    check_error("or `History`. Received", lambda: FeatureEmbedding(kinds, 3))
    monkeypatch.setitem(_fields.FIELDS, Angle, AngleField)
    layer = FeatureEmbedding(kinds, 3, l2=0.5)
    layer.build()
    for weight in layer.named_weights().values():
        weight.assign(rng.normal(size=weight.shape))
    a, b, table, _ = (numpy(weight) for weight in layer.named_weights().values())
    batch = {
        "hour": np.array([[0.5], [2.0]], "float32"),
        "user": np.array([1, 4]),
        "age": np.array([0.5, np.nan], "float32"),
    }
    hours = np.sin(batch["hour"]) * a + np.cos(batch["hour"]) * b
    found = numpy(layer(batch))
    np.testing.assert_allclose(found[:, 0], hours, rtol=1e-5)
    np.testing.assert_allclose(found[:, 1], table[[1, 4]], rtol=1e-5)
    penalty = 0.5 * np.mean(np.sum(np.square(hours), axis=-1))
    np.testing.assert_allclose(numpy(layer.losses[0]), penalty, rtol=1e-5)
    message = r"Angle feature 'hour' must be of shape \(batch,\).*It is one number"
    bad = {**batch, "hour": np.zeros((2, 3))}
    check_error(message, lambda: layer(bad))

    model = FactorizationMachine(kinds, 3, embeddings_initializer="glorot_uniform")
    expected = numpy(model(batch))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(batch)), expected, rtol=1e-6)
    model.save_weights(tmp_path / "model.weights.h5")
    turned = FactorizationMachine(kinds[::-1], 3)
    turned.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(numpy(turned(batch)), expected, rtol=1e-5, atol=1e-6)
