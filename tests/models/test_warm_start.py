"""A model with a new encoder starts from the weights of an older model."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops

from fmlayers import (
    Categorical,
    FeatureEmbedding,
    History,
    Numeric,
    Vector,
    models,
)
from fmlayers.data import Encoder

COLUMNS = {
    "user": "categorical",
    "item": "categorical",
    "genres": "multi_categorical",
    "age": "numeric",
}
OLD = pd.DataFrame(
    {
        "user": ["ann", "ann", "bob", "cy"],
        "item": [7, 7, 8, 9],
        "genres": ["War|Drama", "Drama", "", "Noir"],
        "age": [20.0, 30.0, 40.0, 50.0],
    }
)
# Values in another order, two new users, an item and a genre less, another scale.
NEW = pd.DataFrame(
    {
        "user": ["dee", "dee", "dee", "cy", "cy", "bob", "ann", "eve"],
        "item": [9, 9, 9, 7, 7, 10, 9, 9],
        "genres": ["Noir", "Noir|War", "Noir", "", "War", "Sport", "", ""],
        "age": [10.0, 80.0, 30.0, np.nan, 60.0, 25.0, 35.0, 15.0],
    }
)
BOTH = pd.DataFrame(  # rows of values that both encoders know, or neither
    {
        "user": ["ann", "bob", "cy", "nobody"],
        "item": [9, 7, 9, 7],
        "genres": ["War", "Noir|War", "", "Noir"],
        "age": [33.0, -5.0, np.nan, 47.0],
    }
)


def numpy(x):
    return ops.convert_to_numpy(x).copy()


def randomized(model, rng):
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.uniform(0.1, 1.0, size=weight.shape))
    return model


def encoder_of(table, columns=COLUMNS):
    return Encoder({name: columns[name] for name in columns}).fit(table)


def features_of(encoder, use_bias=True):
    return [
        replace(feature, use_bias=use_bias) if isinstance(feature, Numeric) else feature
        for feature in encoder.features
    ]


def fm(encoder, cls=models.FactorizationMachine, use_bias=True, **kwargs):
    features = features_of(encoder, use_bias)
    return cls(features, 3, encoder=encoder, **kwargs)


KINDS = {
    "fm": fm,
    "libfm": lambda encoder: fm(encoder, models.LibFM, batch_normalization=True),
    "deepfm": lambda encoder: fm(encoder, models.DeepFM, hidden_units=[12, 4]),
    "ensemble": lambda encoder: models.Ensemble.of(
        2, lambda: models.DeepFM(features_of(encoder), 3), encoder=encoder
    ),
}


def outputs(model, table):
    encoder = model.encoder
    return numpy(model(encoder.transform(table)))


def as_dict(copied):
    return {
        row.weight: (row.kept, row.new, row.dropped)
        for row in copied.itertuples(index=False)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_known_values_score_as_before(kind, rng):
    old = randomized(KINDS[kind](encoder_of(OLD)), rng)
    new = randomized(KINDS[kind](encoder_of(NEW)), rng)
    before = [numpy(weight) for weight in old.weights]
    models.warm_start(new, old)
    np.testing.assert_allclose(outputs(new, BOTH), outputs(old, BOTH), rtol=1e-4)
    for weight, expected in zip(old.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_in_another_place_scores_as_before(kind, rng):
    order = {name: COLUMNS[name] for name in ("age", "genres", "user", "item")}
    old = randomized(KINDS[kind](encoder_of(OLD)), rng)
    new = randomized(KINDS[kind](encoder_of(NEW, order)), rng)
    models.warm_start(new, old)
    np.testing.assert_allclose(outputs(new, BOTH), outputs(old, BOTH), rtol=1e-4)


def test_the_summary_counts_rows(rng):
    old = randomized(fm(encoder_of(OLD)), rng)
    new = randomized(fm(encoder_of(NEW)), rng)
    assert as_dict(models.warm_start(new, old)) == {
        "bias": (1, 0, 0),
        # The rows of the id 0 and of unknown ids are among those that are kept.
        **{
            f"{layer}/{weight}": counts
            for layer in ("factors", "linear")
            for weight, counts in {
                "table user": (5, 2, 0),
                "table item": (4, 1, 1),
                "table genres": (4, 1, 1),
                "vector age": (1, 0, 0),
                "bias age": (1, 0, 0),
            }.items()
        },
    }


def test_new_values_keep_their_initial_rows(rng):
    old = randomized(fm(encoder_of(OLD)), rng)
    new = randomized(fm(encoder_of(NEW)), rng)
    before = numpy(new.factors.tables["user"])
    models.warm_start(new, old)
    after = numpy(new.factors.tables["user"])
    for user, row in zip(new.encoder.vocabulary("user"), range(1, 6), strict=True):
        if user in ("dee", "eve"):
            np.testing.assert_array_equal(after[row], before[row])
        else:
            old_row = 1 + old.encoder.vocabulary("user").index(user)
            expected = numpy(old.factors.tables["user"])[old_row]
            np.testing.assert_array_equal(after[row], expected)
    expected = numpy(old.factors.tables["user"])[[0, -1]]
    np.testing.assert_array_equal(after[[0, -1]], expected)


def field(model, values):
    table = pd.DataFrame({**BOTH, "age": values})
    inputs = model.encoder.transform(table)
    return numpy(model.factors.fields(inputs, ["age"]))[:, 0]


@pytest.mark.parametrize("was", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_numeric_fields_are_the_same_functions(use_bias, was, rng):
    old = randomized(fm(encoder_of(OLD), use_bias=was), rng)
    new = randomized(fm(encoder_of(NEW), use_bias=use_bias), rng)
    models.warm_start(new, old)
    values = [10.0, 25.0, np.nan, 70.0]
    mine, theirs = field(new, values), field(old, values)
    if use_bias:
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    slopes = [(x[3] - x[0]) / 60.0 for x in (mine, theirs)]
    np.testing.assert_allclose(*slopes, rtol=1e-4)
    assert not mine[2].any()


def test_features_come_and_go(rng):
    fewer = {name: COLUMNS[name] for name in ("item", "user", "genres")}
    old = randomized(KINDS["deepfm"](encoder_of(OLD)), rng)
    new = randomized(KINDS["deepfm"](encoder_of(NEW, fewer)), rng)
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/vector age"] == (0, 0, 1)
    assert summary["tower/hidden/Dense_0/kernel"] == (3, 0, 1)
    blocks = [
        dict(
            zip(
                names,
                np.split(numpy(m.tower.hidden[0].kernel), len(names)),
                strict=True,
            )
        )
        for m, names in ((new, list(fewer)), (old, list(COLUMNS)))
    ]
    for name in fewer:
        np.testing.assert_array_equal(blocks[0][name], blocks[1][name])

    back = randomized(KINDS["deepfm"](encoder_of(OLD)), rng)
    before = numpy(back.tower.hidden[0].kernel)
    summary = as_dict(models.warm_start(back, new))
    assert summary["factors/vector age"] == (0, 1, 0)
    assert summary["tower/hidden/Dense_0/kernel"] == (3, 1, 0)
    after = numpy(back.tower.hidden[0].kernel)
    np.testing.assert_array_equal(after[9:], before[9:])  # of the age
    np.testing.assert_array_equal(after[3:6], blocks[0]["item"])


def with_history(table, rng):
    encoder = encoder_of(table, {name: COLUMNS[name] for name in ("user", "item")})
    sizes = {name: len(encoder.vocabulary(name)) + 1 for name in ("user", "item")}
    ids = encoder.transform(table)
    pairs = np.unique(np.stack([ids["user"], ids["item"]], 1), axis=0)
    rated = History(
        "rated",
        sizes["item"],
        of="user",
        num_keys=sizes["user"],
        values="item",
        num_pairs=len(pairs),
    )
    model = models.FactorizationMachine([*encoder.features, rated], 3, encoder=encoder)
    model.factors.set_history("rated", *pairs.T)
    return randomized(model, rng)


def test_histories_keep_rows_and_have_the_new_pairs(rng):
    old, new = with_history(OLD, rng), with_history(NEW, rng)
    lists = numpy(new.factors.histories["rated"].values)
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/table rated"] == (4, 1, 1)
    np.testing.assert_array_equal(numpy(new.factors.histories["rated"].values), lists)
    for item in ("7", "9"):
        rows = [
            numpy(m.factors.tables["rated"])[
                1 + m.encoder.vocabulary("item").index(item)
            ]
            for m in (new, old)
        ]
        np.testing.assert_array_equal(*rows)


def test_a_deepfm_starts_from_a_factorization_machine(rng):
    old = randomized(fm(encoder_of(OLD)), rng)
    new = randomized(KINDS["deepfm"](encoder_of(NEW)), rng)
    before = numpy(new.tower.hidden[0].kernel)
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/table user"] == (5, 2, 0)
    assert summary["tower/hidden/Dense_0/kernel"] == (0, 1, 0)
    np.testing.assert_array_equal(numpy(new.tower.hidden[0].kernel), before)


def test_two_towers_of_a_user_and_an_item(rng):
    columns = {name: COLUMNS[name] for name in ("user", "item")}

    def make(table):
        encoder = encoder_of(table, columns)
        make = models.NeuralMatrixFactorization
        return randomized(make(*encoder.features, 3, encoder=encoder), rng)

    old, new = make(OLD), make(NEW)
    models.warm_start(new, old)
    np.testing.assert_allclose(outputs(new, BOTH), outputs(old, BOTH), rtol=1e-4)


def test_without_encoders_ids_are_values(rng):
    def make(size):
        features = [Categorical("user", size), Categorical("item", 4)]
        return randomized(models.FactorizationMachine(features, 2), rng)

    old, new = make(5), make(8)
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/table user"] == (6, 3, 0)
    rows = [numpy(m.factors.tables["user"]) for m in (new, old)]
    np.testing.assert_array_equal(rows[0][:5], rows[1][:5])
    np.testing.assert_array_equal(rows[0][-1], rows[1][-1])


class Own(keras.Model):
    """A custom model that also has a Keras `Embedding` of an unknown column."""

    def __init__(self, features):
        super().__init__()
        self.vectors = FeatureEmbedding(features, 2)
        self.other = keras.layers.Embedding(9, 2)
        self.head = keras.layers.Dense(1)

    def call(self, inputs):
        pooled = ops.sum(self.vectors(inputs), axis=1)
        return self.head(pooled + self.other(inputs["user"]))


def test_a_custom_model(rng):
    pair = []
    for table in (OLD, NEW):
        encoder = encoder_of(table)
        model = Own(encoder.features)
        model(encoder.transform(table))
        pair.append((randomized(model, rng), encoder))
    (old, old_encoder), (new, encoder) = pair
    before = numpy(new.other.embeddings)
    summary = as_dict(
        models.warm_start(new, old, encoder=encoder, trained_encoder=old_encoder)
    )
    assert summary["vectors/table user"] == (5, 2, 0)
    assert summary["head/kernel"] == (1, 0, 0)
    assert summary["other/embeddings"] == (0, 1, 1)
    np.testing.assert_array_equal(numpy(new.other.embeddings), before)
    with pytest.raises(ValueError, match="must both be set, or neither"):
        models.warm_start(new, old, encoder=encoder)


def test_tables_of_another_dimension_stay(rng):
    encoder = encoder_of(OLD)
    old = randomized(models.FactorizationMachine(encoder.features, 3), rng)
    new = randomized(models.FactorizationMachine(encoder.features, 4), rng)
    before = numpy(new.factors.tables["user"])
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/table user"] == (0, 5, 5)
    assert summary["linear/table user"] == (5, 0, 0)
    np.testing.assert_array_equal(numpy(new.factors.tables["user"]), before)


@pytest.mark.parametrize("use_bias", [True, False])
def test_fields_of_vectors_are_the_same_functions(use_bias, rng):
    tables = [
        pd.DataFrame(
            {"user": ["ann", "bob"], "text": list(scale * rng.normal(size=(2, 3)))}
        )
        for scale in (1.0, 50.0)
    ]
    old, new = (
        randomized(
            models.FactorizationMachine(
                [encoder.features[0], Vector("text", 3, use_bias=use_bias)],
                3,
                encoder=encoder,
            ),
            rng,
        )
        for table in tables
        for encoder in [Encoder({"user": "categorical", "text": "vector"}).fit(table)]
    )
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/vector text"] == (1, 0, 0)
    for table in tables:
        np.testing.assert_allclose(outputs(new, table), outputs(old, table), rtol=1e-4)


def test_a_vector_of_another_size_starts_anew(rng):
    old, new = (
        randomized(models.FactorizationMachine([Vector("text", size)], 3), rng)
        for size in (3, 4)
    )
    summary = as_dict(models.warm_start(new, old))
    assert summary["factors/vector text"] == (0, 1, 1)
    assert summary["bias"] == (1, 0, 0)


@pytest.mark.parametrize("is_array", [True, False])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_frozen_pretrained_vectors_stay(is_frozen, is_array, rng):
    old_encoder, encoder = encoder_of(OLD), encoder_of(NEW)
    old = randomized(fm(old_encoder), rng)
    sizes = {"item": len(encoder.vocabulary("item")) + 1, "age": 2}
    rows = {name: rng.normal(size=(n, 3)) for name, n in sizes.items()}
    new = fm(
        encoder,
        embeddings_initializer=rows if is_array else None,
        trainable=dict.fromkeys(rows, not is_frozen),
    )
    before = numpy(new.factors.tables["item"]), numpy(new.factors.vectors["age"])
    summary = as_dict(models.warm_start(new, old))
    after = numpy(new.factors.tables["item"]), numpy(new.factors.vectors["age"])
    if is_frozen and is_array:
        assert summary["factors/table item"] == (0, 5, 5)
        assert summary["factors/vector age"] == (0, 1, 1)
        assert summary["factors/bias age"] == (0, 1, 1)
        for x, y in zip(after, before, strict=True):
            np.testing.assert_array_equal(x, y)
    else:
        assert summary["factors/table item"] == (4, 1, 1)
        assert summary["factors/vector age"] == (1, 0, 0)
        place = encoder.encode("item", NEW["item"][:1])[0]
        source = old_encoder.encode("item", NEW["item"][:1])[0]
        expected = numpy(old.factors.tables["item"])[source]
        np.testing.assert_array_equal(after[0][place], expected)
    assert summary["linear/table item"][0] > 0


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")
def test_errors(rng):
    model = KINDS["deepfm"](encoder_of(OLD))
    with pytest.raises(ValueError, match="must be two models"):
        models.warm_start(model, model)
    with pytest.raises(ValueError, match="`trained` must be built"):
        models.warm_start(model, Own(encoder_of(OLD).features))
    one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    two = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    with pytest.raises(ValueError, match="weights of the same names and shapes"):
        models.warm_start(one, two)
    quantized = KINDS["deepfm"](encoder_of(OLD))
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="`trained` must not be quantized"):
        models.warm_start(model, quantized)


def started_kinds(kind, table, new_table=None, new_kind=None):
    """Returns two trained encoders and models of a column `x`, one from the other."""
    made = []
    for kind_, rows in ((kind, table), (new_kind or kind, new_table)):
        encoder = Encoder({"user": "categorical", "x": kind_})
        encoder.fit(table if rows is None else rows)
        model = models.FactorizationMachine(encoder.features, 3, encoder=encoder)
        made.append(randomized(model, np.random.default_rng(len(made))))
    old, new = made
    models.warm_start(new, old)
    return old, new


KIND_ROWS = pd.DataFrame({"user": list("ab") * 50, "x": np.arange(100.0)})


def vectors_of_x(model, cells):
    ids = model.encoder.encode("x", pd.Series(cells))
    return numpy(model.factors.tables["x"])[ids]


def test_hashes_of_one_size_keep_their_rows():
    old, new = started_kinds("hash=20", KIND_ROWS, KIND_ROWS.assign(x="other"))
    np.testing.assert_array_equal(vectors_of_x(new, ["a"]), vectors_of_x(old, ["a"]))
    old, new = started_kinds("hash=20", KIND_ROWS, new_kind="hash=21")
    assert (vectors_of_x(new, ["a"]) != vectors_of_x(old, ["a"])).all()


def test_bins_start_from_those_that_contain_their_middles():
    later = KIND_ROWS.assign(x=KIND_ROWS["x"] * 3 + 7)
    old, new = started_kinds("quantiles=4", KIND_ROWS, later, "quantiles=9")
    edges = new.encoder.column("x").edges
    middles = [edges[0], *((edges[:-1] + edges[1:]) / 2), 1e9]
    np.testing.assert_array_equal(
        vectors_of_x(new, middles), vectors_of_x(old, middles)
    )


def test_numbers_of_another_kind_are_not_copied():
    old, new = started_kinds("numeric", KIND_ROWS, new_kind="log1p")
    copied, source = (numpy(x.factors.vectors["x"]) for x in (new, old))
    assert (copied != source).all()
    old, new = started_kinds("log1p", KIND_ROWS)
    copied, source = (numpy(x.factors.vectors["x"]) for x in (new, old))
    np.testing.assert_allclose(copied, source, rtol=1e-6)
