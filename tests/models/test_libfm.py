import inspect

import keras
import numpy as np
import pytest
from checks import by_feature, check_error, check_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from fmlayers import (
    Categorical,
    FMInteraction,
    MultiCategorical,
    Numeric,
    RatingScaler,
)
from fmlayers.models import FactorizationMachine, LibFM

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


def numpy(x):
    return ops.convert_to_numpy(x)


def randomize(model, rng):
    def draw(weight):
        values = rng.normal(scale=0.5, size=weight.shape)
        return values**2 + 0.5 if weight.path.endswith("variance") else values

    model.set_weights([draw(weight) for weight in model.weights])
    return model


def products(model):
    """The product of each field with all others, in float64 loops."""
    vectors = numpy(model.factors(BATCH)).astype("float64")
    found = np.zeros((4, 4))
    for b in range(4):
        for f in range(4):
            for g in range(4):
                found[b, f] += (f != g) * (vectors[b, f] @ vectors[b, g])
    return found


def expected_score(model, training=False):
    x = products(model)
    if model.batch_normalization:
        gamma, beta, mean, variance = model.normalization.get_weights()
        if training:
            mean = x.sum(axis=0) / 4
            variance = ((x - mean) ** 2).sum(axis=0) / 4
        x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    weights = numpy(model.linear(BATCH)).astype("float64")
    return np.array(
        [
            [
                numpy(model.bias.value)[0]
                + sum(weights[b, f, 0] for f in range(4))
                + sum(x[b, f] for f in range(4)) / 2
            ]
            for b in range(4)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch_normalization", [False, True])
@pytest.mark.parametrize("head", ["none", "scaler", "positive"])
def test_values(batch_normalization, head, rng):
    scaler = RatingScaler(1, 5, "clip") if head == "scaler" else None
    model = LibFM(
        FEATURES,
        3,
        scaler,
        batch_normalization=batch_normalization,
        positive=head == "positive",
    )
    randomize(model, rng)
    score = expected_score(model)
    np.testing.assert_allclose(numpy(model.score(BATCH)), score, rtol=1e-4, atol=1e-5)
    rating = {
        "none": score,
        "scaler": np.minimum(np.maximum(score, 1.0), 5.0),
        "positive": np.log(1.0 + np.exp(score)),
    }[head]
    assert head == "none" or np.any(np.abs(rating - score) > 0.1)
    np.testing.assert_allclose(numpy(model(BATCH)), rating, rtol=1e-4, atol=1e-5)
    found = model.predict(BATCH, batch_size=3, verbose=0)  # the last batch is of one
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, rating, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaler", [None, RatingScaler(1, 5)])
def test_is_the_factorization_machine_without_its_options(scaler, rng):
    model = randomize(LibFM(FEATURES, 3, scaler), rng)
    fm = FactorizationMachine(FEATURES, 3, scaler)
    fm.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(model(BATCH)), numpy(fm(BATCH)), rtol=1e-4)
    before = model.get_weights()
    losses = []
    for each in (model, fm):
        # At rate 1 the step is the gradient, that of the L2 included.
        each.compile(keras.optimizers.SGD(1.0), "mse")
        losses.append(each.train_on_batch(BATCH, np.ones((4, 1), "float32")))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    steps = zip(before, model.get_weights(), fm.get_weights(), strict=True)
    for start, found, expected in steps:
        assert np.any(found != start)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1)
)
def test_products_with_the_others_are_the_square_of_the_sum(batch, fields, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(batch, fields, dim))
    names = [f"f{i}" for i in range(fields)]
    model = LibFM([Numeric(name) for name in names], dim)
    ones = {name: np.ones(batch, "float32") for name in names}
    # Vectors are those of the first example; a number of 1 hands them on.
    for name, vector in zip(names, vectors[0], strict=True):
        model.factors.vectors[name].assign(vector)
    found = numpy(model.pairs(ones))
    expected = numpy(FMInteraction()(vectors[:1].astype("float32")))
    scale = np.square(np.abs(vectors[0]).sum())
    np.testing.assert_allclose(
        found, np.repeat(expected, batch, axis=0), rtol=1e-4, atol=1e-5 * (1.0 + scale)
    )


@pytest.mark.slow
@pytest.mark.parametrize("positive", [False, True])
def test_gradients_shapes_and_files(positive, tmp_path):
    """As in `check_layer`, with few features: each weight is perturbed in turn."""
    features = [Categorical("user", 3), Numeric("age"), Numeric("year")]
    inputs = {
        "user": np.array([0, 2, 7], "int32"),
        "age": np.array([0.5, np.nan, -1.0], "float32"),
        "year": np.array([1.5, 0.25, -0.5], "float32"),
    }

    def reference(variables, inputs):
        bias, *embeddings = variables
        user, age, year = by_feature(embeddings[:2], features)
        w_user, w_age, w_year = by_feature(embeddings[2:], features)
        ratings = []
        for u, a, y in zip(*inputs.values(), strict=True):
            row, a = min(u, 3), 0.0 if np.isnan(a) else a
            score = bias[0] + w_user[row, 0] + a * w_age[0] + y * w_year[0]
            vectors = [user[row], a * age, y * year]
            score += sum(vectors[f] @ vectors[g] for f, g in ((0, 1), (0, 2), (1, 2)))
            ratings.append([np.log1p(np.exp(score)) if positive else score])
        return np.array(ratings).reshape(-1, 1)

    check_layer(
        lambda **kwargs: LibFM(
            features, 2, positive=positive, l2=0.0, linear_l2=0.0, **kwargs
        ),
        {"inputs": inputs},
        reference,
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.slow
def test_learns_what_it_can_express(jit_compile, rng):
    options = {"batch_normalization": True, "positive": True}
    planted = randomize(LibFM(FEATURES, 3, **options), rng)
    batch = {
        "user": rng.integers(0, 4, 1024),
        "item": rng.integers(0, 6, 1024),
        "age": rng.normal(size=1024).astype("float32"),
        "genres": rng.integers(0, 5, (1024, 2)),
    }
    ratings = planted.predict(batch, verbose=0)
    model = LibFM(
        FEATURES,
        3,
        l2=0.0,
        linear_l2=0.0,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.3),
        **options,
    )
    model.compile(
        keras.optimizers.Adam(0.05, clipnorm=1.0), "mse", jit_compile=jit_compile
    )
    model.fit(batch, ratings, epochs=20, batch_size=128, verbose=0)
    found = model.predict(batch, verbose=0)
    assert found.min() > 0.0
    assert np.sqrt(np.mean((found - ratings) ** 2)) < 0.2 * ratings.std()


def test_positive_is_so_for_any_score_and_its_bias_starts_at_the_mean(rng):
    model = LibFM(FEATURES, 3, positive=True)
    for bias in (-30.0, 0.0, 30.0, 200.0):
        model.bias.assign([bias])
        found = numpy(model(BATCH))
        assert np.all(found > 0.0)
        np.testing.assert_allclose(
            found, np.logaddexp(0.0, numpy(model.score(BATCH))), rtol=1e-4
        )
    start = keras.initializers.Constant(np.log(np.expm1(3.6)))
    model = LibFM(FEATURES, 3, positive=True, bias_initializer=start)
    np.testing.assert_allclose(numpy(model(BATCH)), 3.6, atol=1e-2)


def test_batch_normalization_in_training_is_by_the_batch(rng):
    model = randomize(LibFM(FEATURES, 3, batch_normalization=True), rng)
    before = [numpy(w.value).copy() for w in model.non_trainable_weights]
    expected = expected_score(model, training=True)
    assert np.abs(expected - expected_score(model)).max() > 0.1
    means = products(model).mean(axis=0)
    found = numpy(model(BATCH, training=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    after = [numpy(w.value).copy() for w in model.non_trainable_weights]
    np.testing.assert_allclose(
        after[0], 0.99 * before[0] + 0.01 * means, rtol=1e-4, atol=1e-5
    )
    # `score` and `fit` go the same way, prediction leaves the averages alone.
    found = numpy(model.score(BATCH, training=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    after = [numpy(w.value).copy() for w in model.non_trainable_weights]
    model.train_on_batch(BATCH, np.zeros((4, 1), "float32"))
    moved = [numpy(w.value).copy() for w in model.non_trainable_weights]
    assert len(moved) == 2
    assert all(np.all(a != b) for a, b in zip(after, moved, strict=True))
    model.predict(BATCH, verbose=0)
    model.evaluate(BATCH, np.zeros((4, 1), "float32"), verbose=0)
    for a, b in zip(moved, model.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(a, numpy(b.value))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("batch_normalization", [False, True])
def test_mixed_precision_keeps_weights_and_ratings_in_float32(
    policy, batch_normalization, rng
):
    options = {"batch_normalization": batch_normalization, "positive": True}
    model = randomize(LibFM(FEATURES, 3, **options), rng)
    mixed = LibFM(FEATURES, 3, dtype=policy, **options)
    mixed.set_weights(model.get_weights())
    assert all(weight.dtype == "float32" for weight in mixed.weights)
    found = mixed(BATCH)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(numpy(found), numpy(model(BATCH)), atol=0.1)
    # Without pairs nothing is rounded: all else is in float32.
    for each in (model, mixed):
        each.factors.set_weights([0.0 * w for w in each.factors.get_weights()])
    np.testing.assert_allclose(numpy(mixed(BATCH)), numpy(model(BATCH)), rtol=1e-6)


def test_l2_is_counted_once():
    options = {"l2": 0.5, "linear_l2": {"age": 0.25}}
    model = LibFM(FEATURES, 3, batch_normalization=True, **options)
    fm = FactorizationMachine(FEATURES, 3, **options)
    fm.factors.set_weights(model.factors.get_weights())
    losses = []
    for each in (model, fm):
        each(BATCH)
        losses.append(sum(float(numpy(loss)) for loss in each.losses))
    assert losses[0] > 0.0
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_an_example_sees_itself_alone(rng):
    model = randomize(LibFM(FEATURES, 3, batch_normalization=True), rng)
    together = numpy(model(BATCH))
    for row in range(4):
        alone = numpy(model({name: x[row : row + 1] for name, x in BATCH.items()}))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)
    one = {name: x[:1] for name, x in BATCH.items()}
    assert np.all(np.isfinite(numpy(model(one, training=True))))


def test_the_decomposition_adds_up_to_the_score_unless_normalized(rng):
    model = randomize(LibFM(FEATURES, 3), rng)
    c_q, s_q = (numpy(x) for x in model.decompose(BATCH, ["item"]))
    c_i, s_i = (numpy(x) for x in model.decompose(BATCH, ["user", "age", "genres"]))
    found = numpy(model.bias.value) + c_q + c_i + np.sum(s_q * s_i, 1, keepdims=True)
    np.testing.assert_allclose(found, numpy(model.score(BATCH)), rtol=1e-4, atol=1e-5)
    assert model.decomposition == "exact"
    model = LibFM(FEATURES, 3, batch_normalization=True)
    assert model.decomposition is None
    check_error(
        "must be False for `decompose`", lambda: model.decompose(BATCH, ["user"])
    )


def test_composes_as_a_layer(rng):
    inputs = {feature.name: feature.keras_input() for feature in FEATURES[:3]}
    inner = randomize(
        LibFM(FEATURES[:3], 3, batch_normalization=True, positive=True), rng
    )
    model = keras.Model(inputs, inner(inputs))
    assert model.output_shape == (None, 1)
    batch = {name: BATCH[name] for name in inputs}
    np.testing.assert_allclose(numpy(model(batch)), numpy(inner(batch)), rtol=1e-6)
    spec = inner.compute_output_spec(inputs, training=True)
    assert (spec.shape, spec.dtype) == ((None, 1), "float32")


def test_exists_before_it_sees_data_and_builds_twice():
    model = LibFM(FEATURES, 3, batch_normalization=True)
    fm = FactorizationMachine(FEATURES, 3)
    assert model.count_params() == fm.count_params() + 4 * 4
    assert LibFM(FEATURES, 3, positive=True).count_params() == fm.count_params()
    before = model.get_weights()
    model.build()
    model.build({name: x.shape for name, x in BATCH.items()})
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {"scaler": RatingScaler(1, 5)},
        {"batch_normalization": True, "positive": True, "l2": 0.125},
    ],
)
def test_config_has_every_argument(options, rng):
    model = randomize(LibFM(FEATURES, 3, **options), rng)
    config = model.get_config()
    for kind in (LibFM, FactorizationMachine):
        arguments = set(inspect.signature(kind.__init__).parameters)
        assert arguments - {"self", "kwargs"} <= set(config)
    clone = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model)
    )
    assert clone.get_config() == config
    for name in ("batch_normalization", "positive"):
        assert getattr(clone, name) is options.get(name, False)
    assert clone.factors.l2 == options.get("l2", 0.01)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy(clone(BATCH)), numpy(model(BATCH)))


def test_errors():
    check_error(
        "`positive` must be False with a `scaler`",
        lambda: LibFM(FEATURES, 3, RatingScaler(1, 5), positive=True),
    )
    check_error("`dim` must be", lambda: LibFM(FEATURES, -1))
    check_error("`l2` must be", lambda: LibFM(FEATURES, 3, l2=-1.0))
    model = LibFM(FEATURES, 3)
    check_error(
        "'item' must be integers",
        lambda: model({**BATCH, "item": BATCH["item"].astype("float32")}),
    )
