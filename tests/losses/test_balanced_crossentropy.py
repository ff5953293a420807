import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers.losses import BalancedCrossentropy


@pytest.mark.parametrize("column", [False, True])
def test_is_the_weighted_loss_of_the_shifted_score(column, rng):
    labels = rng.integers(0, 2, size=50).astype("float32")
    scores = rng.normal(size=50).astype("float32")
    p = 1.0 / (1.0 + np.exp(-(scores.astype("float64") + np.log(7.0))))
    expected = -np.where(labels == 1, 7.0 * np.log(p), np.log1p(-p))
    shape = (50, 1) if column else (50,)
    loss = BalancedCrossentropy(7.0, reduction="none")(
        labels, ops.reshape(scores, shape)
    )
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_a_weight_of_one_is_the_crossentropy(rng):
    labels = rng.integers(0, 2, size=(50, 1)).astype("float32")
    scores = rng.normal(size=(50, 1)).astype("float32")
    usual = keras.losses.BinaryCrossentropy(from_logits=True)(labels, scores)
    np.testing.assert_allclose(BalancedCrossentropy()(labels, scores), usual, rtol=1e-6)


def test_its_minimum_is_the_probability_of_the_label():
    """Of a model with a bias alone, whatever the weight."""
    labels = np.array([1.0] + [0.0] * 9)
    odds = np.linspace(0.05, 0.6, 5000)
    for weight in (1.0, 30.0):
        loss = BalancedCrossentropy(weight)
        losses = [float(loss(labels, np.full(10, np.log(o)))) for o in odds[::50]]
        np.testing.assert_allclose(odds[::50][np.argmin(losses)], 1 / 9, atol=0.01)


def test_rows_have_weights(rng):
    labels, scores = rng.integers(0, 2, size=6), rng.normal(size=(6, 1))
    weights = np.array([1, 2, 0, 3, 1, 1], "float32")
    rows = np.repeat(np.arange(6), weights.astype(int))
    loss = BalancedCrossentropy(4.0, reduction="sum")
    weighted = loss(labels, scores, sample_weight=weights)
    np.testing.assert_allclose(weighted, loss(labels[rows], scores[rows]), rtol=1e-5)


def test_is_restored_with_its_weight():
    loss = BalancedCrossentropy(5.0, reduction="sum")
    clone = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(clone) is BalancedCrossentropy
    assert clone.get_config() == loss.get_config()


@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, True])
def test_errors(weight):
    check_error("`positive_weight` must be", lambda: BalancedCrossentropy(weight))
