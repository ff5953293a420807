import inspect

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import (
    Categorical,
    FeatureEmbedding,
    FMInteraction,
    MultiCategorical,
    Numeric,
    RatingScaler,
    ScoringModel,
)
from fmlayers.explain import explain
from fmlayers.models import FactorizationMachine, MatrixFactorization

FEATURES = [
    Categorical("user", 4),
    Categorical("item", 6),
    Numeric("age", use_bias=True),
    MultiCategorical("genres", 5),
]
BATCH = {
    "user": np.array([0, 3, 2, -1], "int32"),
    "item": np.array([5, 5, 0, 99], "int32"),
    "age": np.array([0.5, np.nan, -1.0, 2.0], "float32"),
    "genres": np.array([[1, 2], [0, 0], [4, 0], [3, 9]], "int32"),
}


def randomize(model, rng):
    model.set_weights([rng.normal(scale=0.5, size=w.shape) for w in model.weights])
    return model


@pytest.mark.parametrize("scaler", [None, RatingScaler(1, 5, "clip")])
def test_values(scaler, rng):
    model = randomize(FactorizationMachine(FEATURES, 3, scaler), rng)
    vectors = ops.convert_to_numpy(model.factors(BATCH)).astype("float64")
    weights = ops.convert_to_numpy(model.linear(BATCH)).astype("float64")
    expected = []
    for b in range(4):
        score = float(ops.convert_to_numpy(model.bias.value)[0])
        for f in range(4):
            score += weights[b, f, 0]
            for g in range(f + 1, 4):
                score += vectors[b, f] @ vectors[b, g]
        expected.append([score if scaler is None else min(max(score, 1.0), 5.0)])
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(BATCH)), expected, rtol=1e-4, atol=1e-5
    )


def test_of_user_and_item_is_the_biased_matrix_factorization(rng):
    fm = randomize(FactorizationMachine(FEATURES[:2], 3), rng)
    mf = MatrixFactorization(*FEATURES[:2], 3)
    mf.set_weights(fm.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(fm(BATCH)), ops.convert_to_numpy(mf(BATCH)), rtol=1e-4
    )


@pytest.mark.slow
def test_learns_what_it_can_express(jit_compile, rng):
    planted = randomize(FactorizationMachine(FEATURES, 3), rng)
    batch = {
        "user": rng.integers(0, 4, 512),
        "item": rng.integers(0, 6, 512),
        "age": rng.normal(size=512).astype("float32"),
        "genres": rng.integers(0, 5, (512, 2)),
    }
    ratings = planted.predict(batch, verbose=0)
    model = FactorizationMachine(
        FEATURES, 3, l2=0.0, linear_l2=0.0, embeddings_initializer="random_normal"
    )
    model.compile(
        keras.optimizers.Adam(0.05),
        loss="mse",
        metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
        jit_compile=jit_compile,
    )
    model.fit(batch, ratings, epochs=60, batch_size=64, verbose=0)
    rmse = model.evaluate(batch, ratings, return_dict=True, verbose=0)["rmse"]
    assert rmse < 0.05 * ratings.std()


def test_is_evaluated_without_the_l2():
    model = FactorizationMachine(FEATURES, 3, l2=0.5, embeddings_initializer="ones")
    targets = np.arange(len(BATCH["user"]), dtype="float32")
    model.compile("sgd", loss="mse")
    error = ops.convert_to_numpy(model(BATCH))[:, 0] - targets
    loss = model.evaluate(BATCH, targets, verbose=0)
    np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-5)


def test_training_step_is_that_of_every_scoring_model():
    assert FactorizationMachine.train_step is ScoringModel.train_step
    assert MatrixFactorization.train_step is ScoringModel.train_step


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_weights_and_ratings_in_float32(policy, rng):
    model = randomize(FactorizationMachine(FEATURES, 3), rng)
    mixed = FactorizationMachine(FEATURES, 3, dtype=policy)
    mixed.set_weights(model.get_weights())
    assert all(weight.dtype == "float32" for weight in mixed.weights)
    found = mixed(BATCH)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = ops.convert_to_numpy(model(BATCH))
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=0.1)
    # Without pairs nothing is rounded: bias and first order are in float32.
    for model_ in (model, mixed):
        model_.factors.set_weights([0.0 * w for w in model_.factors.get_weights()])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(mixed(BATCH)), ops.convert_to_numpy(model(BATCH))
    )


def test_l2_is_that_of_its_parts():
    model = FactorizationMachine(FEATURES, 3, l2=0.5, linear_l2={"age": 0.25})
    model(BATCH)
    factors = FeatureEmbedding(FEATURES, 3, l2=0.5)
    factors.build()
    factors.set_weights(model.factors.get_weights())
    factors(BATCH)
    expected = sum(float(ops.convert_to_numpy(x)) for x in factors.losses)
    assert expected > 0.0
    found = sum(float(ops.convert_to_numpy(x)) for x in model.losses)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # linear starts at 0


def test_composes_as_a_layer(rng):
    """Inside a functional model with a mixed policy."""
    inputs = {feature.name: feature.keras_input() for feature in FEATURES[:3]}
    fm = randomize(FactorizationMachine(FEATURES[:3], 3), rng)
    model = keras.Model(inputs, fm(inputs))
    batch = {name: BATCH[name] for name in inputs}
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(batch)), ops.convert_to_numpy(fm(batch)), rtol=1e-6
    )
    vectors = FeatureEmbedding(FEATURES[:3], 3)(inputs)
    assert FMInteraction()(vectors).shape == (None, 1)


def test_config_has_every_argument():
    model = FactorizationMachine(FEATURES, 3, RatingScaler(1, 5))
    config = model.get_config()
    arguments = set(inspect.signature(FactorizationMachine.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    assert FactorizationMachine.from_config(config).get_config() == config


def test_errors():
    check_error("`features` must not be empty", lambda: FactorizationMachine([], 3))
    check_error("`dim` must be", lambda: FactorizationMachine(FEATURES, -1))
    check_error(
        "`linear_l2` must|`l2` must",
        lambda: FactorizationMachine(FEATURES, 3, linear_l2=-1.0),
    )
    model = FactorizationMachine(FEATURES, 3)
    check_error(
        "'item' must be integers",
        lambda: model({**BATCH, "item": BATCH["item"].astype("float32")}),
    )


@pytest.mark.parametrize("names", [["user"], ["age", "user"], ["user", "genres"]])
def test_the_decomposition_adds_up_to_the_score(names, rng):
    model = randomize(FactorizationMachine(FEATURES, 3), rng)
    others = [feature.name for feature in FEATURES if feature.name not in names]
    sides = [
        [
            ops.convert_to_numpy(x)
            for x in model.decompose({n: BATCH[n] for n in side}, side)
        ]
        for side in (names, others)
    ]
    (c_q, s_q), (c_i, s_i) = sides
    bias = ops.convert_to_numpy(model.bias.value)
    found = bias + c_q + c_i + np.sum(s_q * s_i, axis=1, keepdims=True)
    np.testing.assert_allclose(
        found, ops.convert_to_numpy(model.score(BATCH)), rtol=1e-4, atol=1e-5
    )


def test_decomposition_and_terms_keep_the_error_bound():
    """A field a million times as large changes no digit of the other pairs."""
    features = [Categorical(f"f{i}", 40) for i in range(6)]
    model = FactorizationMachine(features, 8)
    rng = np.random.default_rng(0)
    tables = {f.name: rng.normal(scale=0.1, size=(41, 8)) for f in features}
    tables["f2"] *= 1e6
    for name, table in tables.items():
        model.factors.tables[name].assign(table)
    batch = {f.name: rng.integers(0, 40, 500).astype("int32") for f in features}
    x = np.stack([tables[n].astype("float32")[batch[n]] for n in batch], axis=1)
    x = x.astype("float64")
    pairs = [(i, j) for i in range(6) for j in range(i)]
    exact = sum(np.sum(x[:, i] * x[:, j], axis=1) for i, j in pairs)
    scale = sum(np.sum(np.abs(x[:, i] * x[:, j]), axis=1) for i, j in pairs)
    # (fields + dim) / 2 epsilon, and what the sum of the parts rounds.
    bound = ((6 + 8) / 2 + 6) * 2.0**-23 * scale

    def check(score):
        assert (np.abs(np.asarray(score, "float64") - exact) <= bound).all()

    check(ops.convert_to_numpy(model.score(batch))[:, 0])
    sides = [
        [ops.convert_to_numpy(part) for part in model.decompose(batch, names)]
        for names in (["f0", "f3", "f4"], ["f1", "f2", "f5"])
    ]
    (query, query_vector), (item, item_vector) = sides
    products = np.sum(query_vector * item_vector, axis=1, dtype="float32")
    check(query[:, 0] + item[:, 0] + products)
    parts = explain(model, batch)
    check(parts.bias + parts.matrix.sum(axis=(1, 2)) + parts.rest)
