import keras
import numpy as np
import pytest
from checks import check_error
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import fmlayers
from fmlayers import (
    Categorical,
    History,
    MultiCategorical,
    Numeric,
    RatingScaler,
)
from fmlayers.explain import (
    explain,
    field_matrix,
    mean_field_matrix,
    ranked_terms,
    term_sizes,
)
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

USER, ITEM = Categorical("user", 4), Categorical("item", 6)
FEATURES = [USER, ITEM, Numeric("age", use_bias=True), MultiCategorical("genres", 5)]
SEEN = History("seen", 6, of="user", num_keys=4, values="item", num_pairs=5)
BATCH = {
    "user": np.array([0, 3, 2, -1, 3], "int32"),
    "item": np.array([5, 5, 0, 99, 1], "int32"),
    "age": np.array([0.5, np.nan, -1.0, 2.0, 0.0], "float32"),
    "genres": np.array([[1, 2], [0, 0], [4, 0], [3, 9], [1, 1]], "int32"),
}


def with_history():
    model = FactorizationMachine([*FEATURES, SEEN], 3)
    model.factors.set_history("seen", [0, 0, 2, 3, 3], [5, 1, 2, 5, 4])
    return model


MAKE = {
    "fm": lambda: FactorizationMachine(FEATURES, 3),
    "fm, scaled": lambda: FactorizationMachine(FEATURES, 3, RatingScaler(1, 5)),
    "fm, history": with_history,
    "fm, one field": lambda: FactorizationMachine([USER], 3),
    "mf": lambda: MatrixFactorization(USER, ITEM, 3),
    "mf, no bias": lambda: MatrixFactorization(USER, ITEM, 3, False),
    "libfm": lambda: LibFM(FEATURES, 3, positive=True),
    "libfm, normalized": lambda: LibFM(FEATURES, 3, batch_normalization=True),
    "deepfm": lambda: DeepFM(FEATURES, 3, hidden_units=[5], dropout=0.5),
    "deepfm, normalized": lambda: DeepFM(
        FEATURES, 3, hidden_units=[4, 3], batch_normalization=True
    ),
    "ensemble": lambda: Ensemble.of(3, lambda: FactorizationMachine(FEATURES, 2)),
    "ensemble, deepfm": lambda: Ensemble.of(
        2, lambda: DeepFM(FEATURES, 2, hidden_units=[3])
    ),
}


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "int" in weight.dtype:
            continue  # the lists of a history
        values = rng.normal(size=weight.shape)
        weight.assign(np.exp(values) if "variance" in weight.name else values)
    return model


@pytest.fixture(scope="module")
def built():
    return {name: make() for name, make in MAKE.items()}


@pytest.fixture
def models(built):
    """Return the models with the same random weights for every test."""
    return {name: randomize(model) for name, model in built.items()}


def numpy(x):
    return np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), "float64")


def reference(model, inputs):
    """Returns the terms and the constant, in plain loops."""
    if model.members:
        found = [reference(member, inputs) for member in model.members]
        return tuple(sum(parts) / len(found) for parts in zip(*found, strict=True))
    vectors = numpy(model.factors(inputs))
    rows, size, _ = vectors.shape
    first_order = np.zeros((rows, size))
    constant = 0.0
    if getattr(model, "use_bias", True):
        first_order = numpy(model.linear(inputs))[:, :, 0]
        constant = numpy(model.bias)[0]
    scales = np.ones(size)
    layer = getattr(model, "normalization", None)
    if layer is not None:
        for f in range(size):
            scales[f] = (
                numpy(layer.gamma)[f]
                / (numpy(layer.moving_variance)[f] + layer.epsilon) ** 0.5
            )
            shift = numpy(layer.beta)[f] - scales[f] * numpy(layer.moving_mean)[f]
            constant += shift / 2
    matrix = np.zeros((rows, size, size))
    for b in range(rows):
        for f in range(size):
            matrix[b, f, f] = first_order[b, f]
            for g in range(f + 1, size):
                weight = (scales[f] + scales[g]) / 2
                matrix[b, f, g] = weight * (vectors[b, f] @ vectors[b, g])
    return matrix, constant


@pytest.mark.parametrize("name", MAKE)
def test_parts_are_those_of_plain_loops(name, models):
    model = models[name]
    matrix, constant = reference(model, BATCH)
    parts = explain(model, BATCH)
    assert parts.matrix.dtype == np.float32
    np.testing.assert_allclose(parts.matrix, matrix, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts.bias, constant, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(field_matrix(model, BATCH), parts.matrix)
    np.testing.assert_array_equal(np.tril(parts.matrix, k=-1), 0.0)
    assert parts.fields == tuple(feature.name for feature in model.features)


@pytest.mark.parametrize("name", MAKE)
@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    ids=st.lists(
        st.tuples(st.integers(-2, 5), st.integers(-2, 7)), min_size=1, max_size=4
    ),
)
def test_parts_add_up_to_the_score(name, seed, ids, built):
    model = randomize(built[name], seed)
    rng = np.random.default_rng(seed)
    user, item = np.array(ids, "int32").T
    inputs = {
        "user": user,
        "item": item,
        "age": rng.normal(size=len(ids)).astype("float32"),
        "genres": rng.integers(-1, 6, (len(ids), 3)).astype("int32"),
    }
    parts = explain(model, inputs)
    score = numpy(model.score(inputs))[:, 0]
    np.testing.assert_array_equal(parts.score, score)
    terms = parts.matrix.astype("float64")
    total = parts.bias + terms.sum(axis=(1, 2)) + parts.rest
    scale = 1.0 + np.abs(terms).sum(axis=(1, 2)) + np.abs(parts.rest)
    np.testing.assert_array_less(np.abs(total - score), 2e-5 * scale)


@pytest.mark.parametrize("name", ["deepfm", "deepfm, normalized", "ensemble, deepfm"])
def test_the_rest_is_the_deep_part(name, models):
    model = models[name]
    rest = explain(model, BATCH).rest
    members = model.members or [model]
    deep = np.mean([numpy(member.deep(BATCH))[:, 0] for member in members], axis=0)
    np.testing.assert_allclose(rest, deep, rtol=1e-5)
    assert rest.std() > 0.01


@pytest.mark.parametrize("name", [name for name in MAKE if "deep" not in name])
def test_there_is_no_rest_without_a_deep_part(name, models):
    np.testing.assert_array_equal(explain(models[name], BATCH).rest, np.zeros(5))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_explained_as_it_is_scored(policy, models):
    mixed = FactorizationMachine(FEATURES, 3, dtype=policy)
    mixed.set_weights(models["fm"].get_weights())
    parts = explain(mixed, BATCH)
    total = parts.bias + parts.matrix.sum(axis=(1, 2))
    np.testing.assert_allclose(total, numpy(mixed(BATCH))[:, 0], rtol=1e-4, atol=1e-4)
    assert parts.matrix.dtype == np.float32


@pytest.mark.parametrize("name", MAKE)
def test_explaining_leaves_the_model_as_it_was(name, models):
    model = models[name]
    weights = [weight.path for weight in model.weights]
    before = model.get_weights()
    model(BATCH)
    losses = [numpy(loss) for loss in model.losses]
    explain(model, BATCH)
    assert [weight.path for weight in model.weights] == weights
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model(BATCH)
    np.testing.assert_allclose([numpy(x) for x in model.losses], losses, rtol=1e-6)


@pytest.mark.parametrize("measure", ["std", "abs"])
@pytest.mark.parametrize("batch_size", [2, 100])
@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_sizes_are_those_of_all_examples_at_once(name, batch_size, measure, models):
    model = models[name]
    matrix, _ = reference(model, BATCH)
    deep = numpy(model.deep(BATCH)) if name == "deepfm" else np.zeros(5)
    size = {"std": np.std, "abs": lambda x, axis: np.abs(x).mean(axis=axis)}[measure]
    found = term_sizes(model, BATCH, batch_size, measure=measure)
    np.testing.assert_allclose(found.matrix, size(matrix, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.rest, size(deep, axis=None), rtol=1e-4)
    score = numpy(model.score(BATCH))
    np.testing.assert_allclose(found.score, size(score, axis=None), rtol=1e-4)
    assert (found.rows, found.measure) == (5, measure)
    assert found.fields == ("user", "item", "age", "genres")
    assert found.matrix.dtype == np.float32
    np.testing.assert_array_equal(
        mean_field_matrix(model, BATCH, batch_size, measure=measure), found.matrix
    )


def test_what_is_the_same_for_all_does_not_move_the_scores(models):
    inputs = {**BATCH, "user": np.full(5, 3, "int32")}
    by_std = mean_field_matrix(models["fm"], inputs, 2)
    by_abs = mean_field_matrix(models["fm"], inputs, 2, measure="abs")
    assert by_std[0, 0] == 0.0
    assert by_abs[0, 0] > 0.01
    assert by_std[0, 1] > 0.01  # its pairs still do


def test_a_small_deviation_of_a_large_term_is_not_lost(models):
    model = randomize(MAKE["fm"]())
    table = numpy(model.linear.tables["user"])
    table[:3, 0] = [1000.0, 1000.25, 1000.5]
    model.linear.tables["user"].assign(table)
    inputs = {name: x[:3] for name, x in BATCH.items()}
    inputs["user"] = np.array([0, 1, 2], "int32")
    found = mean_field_matrix(model, inputs, 1)[0, 0]
    np.testing.assert_allclose(found, np.std([0.0, 0.25, 0.5]), rtol=1e-6)


def test_terms_are_ranked_by_size():
    matrix = np.array([[0.1, -3.0], [0.0, 2.0]])
    assert ranked_terms(matrix, ["user", "item"]) == [
        (("user", "item"), -3.0),
        (("item",), 2.0),
        (("user",), 0.1),
    ]


def test_errors(models):
    check_error(
        "must be a `ScoringModel` that defines.*`DeepFM`.*Received: a NeuralMatrixFact",
        lambda: explain(NeuralMatrixFactorization(USER, ITEM, 3), BATCH),
    )
    members = [NeuralMatrixFactorization(USER, ITEM, 3) for _ in range(2)]
    check_error(
        "Received: a NeuralMatrixFact", lambda: field_matrix(Ensemble(members), BATCH)
    )
    inputs = keras.Input((3,))
    plain = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    check_error(
        "Received: a Functional", lambda: field_matrix(plain, {"x": np.zeros((1, 3))})
    )
    model = models["fm"]
    check_error("`batch_size` must be", lambda: mean_field_matrix(model, BATCH, 0))
    check_error(
        "`measure` must be", lambda: mean_field_matrix(model, BATCH, measure="mean")
    )
    empty = {name: x[:0] for name, x in BATCH.items()}
    check_error("`inputs` must not be empty", lambda: term_sizes(model, empty))
    check_error(
        r"`matrix` must have one row.*\(2, 2\) and 3 fields",
        lambda: ranked_terms(np.zeros((2, 2)), ["a", "b", "c"]),
    )


def test_parts_that_do_not_add_up_are_refused():
    class Tilted(FactorizationMachine):
        def score(self, inputs, training=None):
            return super().score(inputs, training) + 0.1

    model = randomize(Tilted(FEATURES, 3))
    check_error(
        r"must add up to its score.*a Tilted whose scores differ from the sum by "
        r"up to 0\.1",
        lambda: explain(model, BATCH),
    )


def test_the_subpackage_is_reached_from_the_package():
    assert fmlayers.explain.explain is explain
    assert {"explain", "plots"} <= set(dir(fmlayers))
