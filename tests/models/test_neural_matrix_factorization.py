import inspect

import keras
import numpy as np
import pytest
from checks import by_feature, check_error, check_layer, multiplies
from keras import ops

from fmlayers import Categorical, FeatureEmbedding, Numeric, RatingScaler
from fmlayers.models import MatrixFactorization, NeuralMatrixFactorization

USER, ITEM = Categorical("user", 4), Categorical("item", 6)
BATCH = {
    "user": np.array([0, 3, 2, -1, 3], "int32"),
    "item": np.array([[5], [5], [0], [1], [99]], "int32"),
}


def numpy(x):
    return ops.convert_to_numpy(x)


def randomize(model, rng):
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


def reference(
    variables, inputs, activation=lambda x: np.maximum(x, 0.0), features=(USER, ITEM)
):
    """Both towers in float64 loops; the last row of a table is for unknown ids."""
    bias, gmf, mlp, *hidden, h, g = (np.array(v, "float64") for v in variables)
    (p, q), (r, s) = (by_feature([tables], features) for tables in (gmf, mlp))
    gmf, mlp = [], []
    for user, item in zip(inputs["user"].ravel(), inputs["item"].ravel(), strict=True):
        u = user if 0 <= user < len(p) - 1 else -1
        i = item if 0 <= item < len(q) - 1 else -1
        gmf.append([sum(h[d, 0] * p[u, d] * q[i, d] for d in range(p.shape[1]))])
        x = [*r[u], *s[i]]
        for kernel, shift in zip(hidden[::2], hidden[1::2], strict=True):
            x = [
                activation(sum(a * w for a, w in zip(x, column, strict=True)) + c)
                for column, c in zip(kernel.T, shift, strict=True)
            ]
        mlp.append([sum(a * w for a, w in zip(x, g[:, 0], strict=True))])
    return bias, np.array(gmf).reshape(-1, 1), np.array(mlp).reshape(-1, 1)


@pytest.mark.parametrize("mlp_dim", [None, 2])
@pytest.mark.parametrize("scaler", [None, RatingScaler(1, 5)])
def test_values(mlp_dim, scaler, rng):
    model = NeuralMatrixFactorization(
        USER, ITEM, 3, scaler, hidden_units=(5, 4), mlp_dim=mlp_dim
    )
    randomize(model, rng)
    bias, gmf, mlp = reference(model.get_weights(), BATCH)
    for found, expected in (
        (model.gmf(BATCH), gmf),
        (model.mlp(BATCH), mlp),
        (model.score(BATCH), bias + gmf + mlp),
    ):
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(numpy(found), expected, rtol=1e-4, atol=1e-5)
    rating = bias + gmf + mlp
    if scaler is not None:
        rating = 1.0 + 4.0 / (1.0 + np.exp(-rating))
    np.testing.assert_allclose(numpy(model(BATCH)), rating, rtol=1e-4, atol=1e-5)
    found = model.predict(BATCH, batch_size=2, verbose=0)  # the last batch is of one
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, rating, rtol=1e-4, atol=1e-5)


def test_gradients_shapes_and_files(tmp_path):
    """As in `check_layer`, with short tables: each weight is perturbed in turn."""
    user, item = Categorical("user", 2), Categorical("item", 3)
    inputs = {
        "user": np.array([0, 1, 7], "int32"),
        "item": np.array([2, 0, 1], "int32"),
    }

    def penalty(variables, inputs):
        total = 0.0
        for u, i in zip(inputs["user"], inputs["item"], strict=True):
            for tables in variables[1:3]:
                p, q = by_feature([tables], (user, item))
                u = min(u, 2)
                total += 0.5 * (p[u] @ p[u]) + 0.25 * (q[i] @ q[i])
        return total / max(len(inputs["user"]), 1)

    check_layer(
        lambda **kwargs: NeuralMatrixFactorization(
            user,
            item,
            2,
            hidden_units=(3, 2),
            mlp_dim=1,
            activation="tanh",
            l2={"user": 0.5, "item": 0.25},
            **kwargs,
        ),
        {"inputs": inputs},
        lambda variables, inputs: sum(
            reference(variables, inputs, np.tanh, (user, item))
        ),
        penalty=penalty,
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.slow
def test_learns_what_it_can_express(jit_compile, rng):
    user, item = Categorical("user", 8), Categorical("item", 8)
    batch = {"user": rng.integers(0, 8, 1024), "item": rng.integers(0, 8, 1024)}
    # A table of full rank: far more than the products of vectors of size 2 hold.
    table = rng.normal(size=(8, 8))
    ratings = table[batch["user"], batch["item"]]
    model = NeuralMatrixFactorization(
        user,
        item,
        2,
        mlp_dim=8,
        l2=0.0,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.5),
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
    model.fit(batch, ratings, epochs=40, batch_size=256, verbose=0)
    found = model.predict(batch, verbose=0)[:, 0]
    assert np.sqrt(np.mean((found - ratings) ** 2)) < 0.1 * ratings.std()


def test_first_tower_is_the_matrix_factorization(rng):
    model = randomize(NeuralMatrixFactorization(USER, ITEM, 3), rng)
    model.gmf_output.kernel.assign(np.ones((3, 1)))
    mf = MatrixFactorization(USER, ITEM, 3, use_bias=False)
    mf.factors.set_weights(model.gmf_factors.get_weights())
    np.testing.assert_allclose(
        numpy(model.gmf(BATCH)), numpy(mf.score(BATCH)), rtol=1e-4, atol=1e-5
    )


def test_towers_share_no_weight():
    model = NeuralMatrixFactorization(USER, ITEM, 3, l2=0.0)
    # Tables have one row more, for the unknown.
    tables = 2 * 3 * (5 + 7)
    layers = (6 * 64 + 64) + (64 * 32 + 32) + (32 * 16 + 16)
    assert model.count_params() == tables + layers + 3 + 16 + 1
    small = NeuralMatrixFactorization(USER, ITEM, 3, mlp_dim=2, hidden_units=[4])
    assert small.count_params() == (3 + 2) * (5 + 7) + (4 * 4 + 4) + 3 + 4 + 1
    gmf = numpy(model.gmf_factors.tables["user"].value)
    mlp = numpy(model.mlp_factors.tables["user"].value)
    assert np.all(gmf[:-1] != mlp[:-1])
    before = model.get_weights()
    model.build()
    model.build({name: x.shape for name, x in BATCH.items()})
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_l2_is_of_both_towers():
    model = NeuralMatrixFactorization(USER, ITEM, 3, l2=0.5, mlp_dim=2)
    expected = 0.0
    for factors, dim in ((model.gmf_factors, 3), (model.mlp_factors, 2)):
        layer = FeatureEmbedding([USER, ITEM], dim, l2=0.5)
        layer.build()
        layer.set_weights(factors.get_weights())
        layer(BATCH)
        expected += sum(float(numpy(loss)) for loss in layer.losses)
    model(BATCH)
    assert expected > 0.0
    found = sum(float(numpy(loss)) for loss in model.losses)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dropout_is_of_training_alone(rng):
    model = randomize(NeuralMatrixFactorization(USER, ITEM, 3, dropout=0.5), rng)
    plain = NeuralMatrixFactorization(USER, ITEM, 3)
    plain.set_weights(model.get_weights())
    for found in (
        numpy(model(BATCH)),
        numpy(model.score(BATCH)),
        numpy(model(BATCH, training=False)),
        model.predict(BATCH, verbose=0),
    ):
        np.testing.assert_allclose(found, numpy(plain(BATCH)), rtol=1e-5, atol=1e-5)
    for call in (model, model.score, model.mlp):
        first, second = (numpy(call(BATCH, training=True)) for _ in range(2))
        assert np.all(np.abs(first - second) > 1e-4)


def test_fit_drops_and_evaluate_does_not(rng):
    model = NeuralMatrixFactorization(USER, ITEM, 3, dropout=0.5, l2=0.0)
    randomize(model, rng)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    ratings = np.zeros((5, 1), "float32")
    losses = [float(model.train_on_batch(BATCH, ratings)) for _ in range(2)]
    evaluated = [model.evaluate(BATCH, ratings, verbose=0) for _ in range(2)]
    assert evaluated[0] == evaluated[1]
    assert len({*losses, evaluated[0]}) == 3


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_weights_and_ratings_in_float32(policy, rng):
    if not multiplies(policy):
        pytest.skip("the backend cannot multiply matrices under the policy")
    model = randomize(NeuralMatrixFactorization(USER, ITEM, 3, hidden_units=[4]), rng)
    mixed = NeuralMatrixFactorization(USER, ITEM, 3, hidden_units=[4], dtype=policy)
    mixed.set_weights(model.get_weights())
    assert all(weight.dtype == "float32" for weight in mixed.weights)
    for method in ("score", "gmf", "mlp"):
        found = getattr(mixed, method)(BATCH)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        expected = numpy(getattr(model, method)(BATCH))
        np.testing.assert_allclose(numpy(found), expected, atol=0.1)
    assert mixed.tower.compute_dtype == policy.removeprefix("mixed_")
    # Without vectors and shifts nothing is rounded: the bias is in float32.
    for each in (model, mixed):
        for layer in (each.gmf_factors, each.mlp_factors, each.tower):
            layer.set_weights([0.0 * w for w in layer.get_weights()])
        each.bias.assign([1.0 + 2.0**-20])
    np.testing.assert_array_equal(numpy(mixed(BATCH)), 1.0 + 2.0**-20)


def test_bias_initializer():
    scaler = RatingScaler(1, 5)
    start = keras.initializers.Constant(scaler.inverse(3.6))
    model = NeuralMatrixFactorization(USER, ITEM, 3, scaler, bias_initializer=start)
    np.testing.assert_allclose(numpy(model(BATCH)), 3.6, atol=0.05)


def test_an_example_sees_itself_alone(rng):
    model = randomize(NeuralMatrixFactorization(USER, ITEM, 3), rng)
    together = numpy(model(BATCH))
    for row in range(5):
        alone = numpy(model({name: x[row : row + 1] for name, x in BATCH.items()}))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_composes_as_a_layer(rng):
    inputs = {feature.name: feature.keras_input() for feature in (USER, ITEM)}
    inner = randomize(NeuralMatrixFactorization(USER, ITEM, 3, dropout=0.5), rng)
    model = keras.Model(inputs, inner(inputs))
    assert model.output_shape == (None, 1)
    batch = {name: x.ravel() for name, x in BATCH.items()}
    np.testing.assert_allclose(numpy(model(batch)), numpy(inner(batch)), rtol=1e-6)
    first, second = (numpy(model(batch, training=True)) for _ in range(2))
    assert np.any(first != second)
    spec = inner.compute_output_spec(inputs, training=True)
    assert (spec.shape, spec.dtype) == ((None, 1), "float32")


def test_config_has_every_argument(rng):
    model = NeuralMatrixFactorization(
        USER,
        ITEM,
        3,
        RatingScaler(1, 5),
        hidden_units=(5, 4),
        mlp_dim=2,
        dropout=0.25,
        activation="tanh",
        l2={"user": 0.125},
        out_of_range="zero",
        embeddings_initializer="ones",
        bias_initializer=keras.initializers.Constant(2.0),
    )
    randomize(model, rng)
    config = model.get_config()
    arguments = set(inspect.signature(NeuralMatrixFactorization.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    clone = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model)
    )
    assert clone.get_config() == config
    assert clone.dropout == 0.25
    assert clone.mlp_factors.l2 == clone.gmf_factors.l2 == {"user": 0.125}
    assert np.all(numpy(NeuralMatrixFactorization.from_config(config).bias.value) == 2)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy(clone(BATCH)), numpy(model(BATCH)))


def test_errors():
    def make(*arguments, **kwargs):
        return lambda: NeuralMatrixFactorization(*arguments, **kwargs)

    check_error("`item` must be a `Categorical`", make(USER, Numeric("item"), 3))
    check_error("`user` must be a `Categorical`", make(Numeric("user"), ITEM, 3))
    check_error("`dim` must be", make(USER, ITEM, 0))
    check_error("`mlp_dim` must be", make(USER, ITEM, 3, mlp_dim=0))
    check_error("`hidden_units` must be", make(USER, ITEM, 3, hidden_units=()))
    check_error("`dropout` must be", make(USER, ITEM, 3, dropout=1.0))
    model = NeuralMatrixFactorization(USER, ITEM, 3)
    check_error("entry 'item'", lambda: model({"user": np.array([1])}))
