import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers.losses import BPR


@pytest.mark.parametrize("column", [False, True])
def test_is_the_mean_over_pairs(column, rng):
    labels = rng.integers(0, 3, size=(5, 4)).astype("float32")
    labels[2] = 1.0  # a group with no pair
    scores = rng.normal(size=(5, 4)).astype("float32")
    expected = []
    for y, s in zip(labels, scores, strict=True):
        pairs = [
            np.log1p(np.exp(-(float(s[i]) - float(s[j]))))
            for i in range(4)
            for j in range(4)
            if y[i] > y[j]
        ]
        expected.append(np.mean(pairs) if pairs else 0.0)
    shape = (20, 1) if column else (20,)
    loss = BPR(group_size=4, reduction="none")(
        labels.reshape(shape), scores.reshape(shape)
    )
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_large_margins_are_finite():
    scores = np.array([-1e4, 1e4], "float32")
    loss = float(BPR()(np.array([1.0, 0.0], "float32"), scores))
    np.testing.assert_allclose(loss, 2e4)


def test_an_infinite_score_has_a_finite_gradient():
    # The difference of two equal infinities is NaN, which nobody asks for.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([np.ones((1, 1)), np.zeros(1)])
    model.compile(keras.optimizers.SGD(1.0), BPR(), run_eagerly=True)
    x = np.array([[3e38], [-3e38]], "float32")
    model.layers[0].kernel.assign([[10.0]])  # the scores are infinite
    model.train_on_batch(x, np.array([[1.0], [0.0]], "float32"))
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_is_restored_with_its_group_size():
    loss = BPR(group_size=5, reduction="sum")
    clone = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(clone) is BPR
    assert clone.get_config() == loss.get_config()


@pytest.mark.parametrize("group_size", [1, True, 2.0])
def test_errors(group_size):
    check_error("`group_size` must be", lambda: BPR(group_size))
