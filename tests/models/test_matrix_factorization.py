import inspect

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, Numeric, RatingScaler
from fmlayers.models import MatrixFactorization

USER, ITEM = Categorical("user", 4), Categorical("item", 6)
BATCH = {
    "user": np.array([0, 3, 2, -1, 3], "int32"),
    "item": np.array([[5], [5], [0], [1], [99]], "int32"),
}


def predict(model, batch):
    """Loops over examples; the last row of a table is for unknown ids."""
    p, q = (ops.convert_to_numpy(model.factors.tables[n].value) for n in batch)
    ratings = []
    for user, item in zip(batch["user"].ravel(), batch["item"].ravel(), strict=True):
        u, i = (n if 0 <= n < size else size for n, size in ((user, 4), (item, 6)))
        score = sum(float(a) * float(b) for a, b in zip(p[u], q[i], strict=True))
        if model.use_bias:
            b_user, b_item = (
                ops.convert_to_numpy(model.linear.tables[n].value) for n in batch
            )
            bias = ops.convert_to_numpy(model.bias.value)
            score += bias[0] + b_user[u, 0] + b_item[i, 0]
        if model.scaler is not None:
            score = 1.0 + 4.0 / (1.0 + np.exp(-score))
        ratings.append([score])
    return np.array(ratings)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scaler", [None, RatingScaler(1, 5)])
def test_values(use_bias, scaler, rng):
    model = MatrixFactorization(USER, ITEM, 3, use_bias, scaler)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    expected = predict(model, BATCH)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(BATCH)), expected, rtol=1e-5, atol=1e-5
    )
    found = model.predict(BATCH, batch_size=2, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_example_sees_itself_alone(rng):
    """A contraction over batch and dim together would sum over the batch."""
    model = MatrixFactorization(USER, ITEM, 3)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    together = ops.convert_to_numpy(model(BATCH))
    for row in range(5):
        one = {name: ids[row : row + 1] for name, ids in BATCH.items()}
        alone = ops.convert_to_numpy(model(one))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-6)


def test_exists_before_it_sees_data():
    model = MatrixFactorization(USER, ITEM, 3)
    # Tables have one row more, for the unknown.
    assert model.count_params() == 3 * (5 + 7) + (5 + 7) + 1
    plain = MatrixFactorization(USER, ITEM, 3, use_bias=False)
    assert plain.count_params() == 3 * (5 + 7)


def test_bias_initializer():
    scaler = RatingScaler(1, 5)
    start = keras.initializers.Constant(scaler.inverse(3.6))
    model = MatrixFactorization(USER, ITEM, 3, scaler=scaler, bias_initializer=start)
    np.testing.assert_allclose(ops.convert_to_numpy(model(BATCH)), 3.6, atol=1e-2)


def test_config_has_every_argument():
    model = MatrixFactorization(USER, ITEM, 3)
    config = model.get_config()
    arguments = set(inspect.signature(MatrixFactorization.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    assert MatrixFactorization.from_config(config).get_config() == config


def test_errors():
    check_error(
        "`item` must be a `Categorical`",
        lambda: MatrixFactorization(USER, Numeric("item"), 3),
    )
    check_error("`dim` must be", lambda: MatrixFactorization(USER, ITEM, 0))
    model = MatrixFactorization(USER, ITEM, 3)
    check_error("entry 'item'", lambda: model({"user": np.array([1])}))


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_decomposition_adds_up_to_the_score(use_bias, rng):
    model = MatrixFactorization(USER, ITEM, 3, use_bias)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    c_u, p = (ops.convert_to_numpy(x) for x in model.decompose(BATCH, ["user"]))
    c_i, q = (ops.convert_to_numpy(x) for x in model.decompose(BATCH, ["item"]))
    found = c_u + c_i + np.sum(p * q, axis=1, keepdims=True)
    if use_bias:
        found = found + ops.convert_to_numpy(model.bias.value)
    np.testing.assert_allclose(
        found, ops.convert_to_numpy(model.score(BATCH)), rtol=1e-4, atol=1e-5
    )
    check_error(
        "`names` must have either", lambda: model.decompose(BATCH, ["user", "item"])
    )
