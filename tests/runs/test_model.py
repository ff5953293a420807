import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error
from keras import ops

from fmlayers.data import Encoder
from fmlayers.features import Categorical
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)
from fmlayers.runs import TrainingConfig
from fmlayers.runs.model import Frame, build_model, is_of_package
from fmlayers.runs.prediction import batch_size_of

TABLE = pd.DataFrame(
    {
        "user": ["a", "a", "b", "c", "c", "c", "c"],
        "item": ["x", "y", "x", "x", "z", "w", "x"],  # c rates x twice
        "rating": [1.0, 3.0, 5.0, 4.0, 2.0, 3.0, 3.0],
    }
)
COLUMNS = {"user": "categorical", "item": "categorical"}


def build(min_count=1, **changes):
    encoder = Encoder(COLUMNS, min_count=min_count).fit(TABLE)
    config = TrainingConfig(**{"dim": 4, "min_count": min_count} | changes)
    return build_model(config, encoder, TABLE), encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fm", FactorizationMachine),
        ("mf", MatrixFactorization),
        ("deepfm", DeepFM),
        ("libfm", LibFM),
        ("neumf", NeuralMatrixFactorization),
    ],
)
def test_each_model_starts_at_the_mean(name, kind):
    model, encoder = build(model=name)
    assert type(model) is kind
    assert model.encoder is encoder
    ratings = ops.convert_to_numpy(model(encoder.transform(TABLE)))
    np.testing.assert_allclose(ratings, 3.0, atol=0.05)
    assert (model.scaler.min_rating, model.scaler.max_rating) == (1.0, 5.0)


def test_batches_of_models_with_histories_are_larger():
    model, _ = build()
    with_histories, _ = build(histories=True)
    is_tensorflow = keras.backend.backend() == "tensorflow"
    assert batch_size_of(model) == 8192
    assert batch_size_of(with_histories) == (32_768 if is_tensorflow else 8192)


def test_histories_are_those_of_the_table():
    model, encoder = build(histories=True)
    assert [f.name for f in model.features[2:]] == ["user_history", "item_history"]
    rows = encoder.transform(pd.DataFrame({"user": ["a", "c", "b"], "item": ["z"] * 3}))
    lists = model.factors.histories["user_history"](ops.convert_to_tensor(rows["user"]))
    values, owners, index = (
        ops.convert_to_numpy(x)
        for x in (ops.take(lists.rows, lists.values), lists.owners, lists.index)
    )
    found = [set(encoder.decode("item", values[owners == i].tolist())) for i in index]
    assert found == [{"x", "y"}, {"x", "z", "w"}, {"x"}]
    lists = model.factors.histories["item_history"](ops.convert_to_tensor(rows["item"]))
    values, owners, index = (
        ops.convert_to_numpy(x)
        for x in (ops.take(lists.rows, lists.values), lists.owners, lists.index)
    )
    assert encoder.decode("user", values[owners == index[0]].tolist()) == ["c"]


def test_rare_values_are_in_no_history():
    model, encoder = build(histories=True, min_count=2)
    assert encoder.vocabulary("item") == ["x"]
    assert model.features[2].num_pairs == 2  # a and c with x; b is rare, too


def test_l2_of_single_features():
    l2_of = {"item": 0.1, "user_history": 0.2, "item_history": 0.3}
    model, _ = build(histories=True, l2=0.5, l2_of=l2_of)
    assert model.factors.l2 == {
        "user": 0.5,
        "item": 0.1,
        "user_history": 0.2,
        "item_history": 0.3,
    }
    check_error("`l2_of` must name", lambda: build(l2_of={"age": 1.0}))


def test_how_far_apart_vectors_start():
    model, _ = build(dim=256, init_stddev=0.5)
    table = ops.convert_to_numpy(model.factors.tables["user"])
    assert 0.4 < table[1:].std() < 0.6  # the first row is the unknown's


def test_members_differ_and_the_encoder_is_kept_once():
    model, encoder = build(members=3, histories=True)
    assert type(model) is Ensemble
    assert model.encoder is encoder
    assert [member.encoder for member in model.members] == [None] * 3
    tables = [ops.convert_to_numpy(m.factors.tables["user"]) for m in model.members]
    assert np.abs(tables[0] - tables[1]).max() > 1e-3
    # Each has the lists.
    pairs = [
        m.factors.histories["user_history"].feature.num_pairs for m in model.members
    ]
    assert pairs == [6, 6, 6]


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_scores_of_clicks_are_no_ratings(loss):
    model, _ = build(loss=loss)
    assert model.scaler is None
    assert float(ops.convert_to_numpy(model.bias.value)[0]) == 0.0
    same = TABLE.assign(rating=1.0)
    encoder = Encoder(COLUMNS).fit(same)
    build_model(TrainingConfig(loss=loss), encoder, same)
    check_error(
        "must have at least two values",
        lambda: build_model(TrainingConfig(), encoder, same),
    )


def test_errors():
    check_error("must be user and item", lambda: build(model="mf", histories=True))
    encoder = Encoder({"user": "categorical"}).fit(TABLE)
    for changes, message in (
        ({"model": "neumf"}, "must be user and item"),
        (
            {"histories": True},
            "`histories` must be used with the features user and item",
        ),
    ):
        config = TrainingConfig(**changes)
        check_error(message, lambda c=config: build_model(c, encoder, TABLE))


def test_an_ensemble_with_histories_saves_and_loads(tmp_path):
    model, encoder = build(members=2, histories=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = encoder.transform(TABLE)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(inputs)), ops.convert_to_numpy(model(inputs))
    )


@pytest.mark.parametrize("name", ["deepfm", "neumf"])
def test_hidden_layers_are_those_of_the_configuration(name):
    model, _ = build(model=name, hidden_units=[6, 5], dropout=0.25)
    assert (model.hidden_units, model.dropout) == ((6, 5), 0.25)
    default, _ = build(model=name)
    assert default.hidden_units == {"deepfm": (64, 64), "neumf": (64, 32, 16)}[name]


def test_several_values_are_pooled_as_the_configuration_says():
    table = TABLE.assign(genres=["A|B", "A", "B", "", "A", "B", "A"])
    encoder = Encoder(COLUMNS | {"genres": "multi_categorical"}).fit(table)
    for config in (TrainingConfig(), TrainingConfig(combiner="sum")):
        model = build_model(config, encoder, table)
        assert model.features[2].combiner == config.combiner


def test_fewer_quantiles_of_more_rows_share_no_frame():
    """A number that occurs often has a bin for itself."""
    config = TrainingConfig(data="x", kinds=["price=quantiles=4"])
    table = pd.DataFrame({"price": np.arange(8.0), "rating": np.arange(8.0)})
    often = pd.DataFrame({"price": np.zeros(20), "rating": np.arange(20.0)})
    phases = []
    for rows in (table, pd.concat([table, often], ignore_index=True)):
        phases.append((Encoder({"price": "quantiles=4"}).fit(rows), rows))
    sizes = [encoder.features[0].vocabulary_size for encoder, _ in phases]
    assert sizes[0] > sizes[1]
    assert Frame.of(config, *phases) is None
    features, unit = Frame.of(config, *reversed(phases))
    assert features == phases[0][0].features
    np.testing.assert_allclose(unit.mean, phases[1][1]["rating"].mean())


def test_classes_of_users_are_not_of_the_package():
    class Own(FactorizationMachine):
        """A class of a user."""

    features = [Categorical("user", 9), Categorical("item", 9)]
    for model_class, expected in ((FactorizationMachine, True), (Own, False)):
        assert is_of_package(model_class(features, 2)) is expected
        ensemble = Ensemble.of(2, lambda c=model_class: c(features, 2))
        assert is_of_package(ensemble) is expected
