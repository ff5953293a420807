import math

import keras
import numpy as np
import pytest
from checks import check_error, check_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from fmlayers import RatingScaler

METHODS = ["sigmoid", "clip", "none"]


def scale(weights, inputs, method, offset=0.0, scale=1.0):
    output = np.empty(inputs.shape)
    for index in np.ndindex(inputs.shape):
        x = offset + scale * float(inputs[index])
        output[index] = {
            "sigmoid": 1.0 + 4.0 / (1.0 + np.exp(-x)),
            "clip": min(max(x, 1.0), 5.0),
            "none": x,
        }[method]
    return output


@pytest.mark.parametrize("method", METHODS)
def test_layer(method, tmp_path):
    # Within the bounds, where the slope of "clip" is its reference's.
    score = np.array([[1.5], [2.25], [4.9]], "float32")
    check_layer(
        lambda **kwargs: RatingScaler(1, 5, method, **kwargs),
        {"inputs": score},
        lambda weights, inputs: scale(weights, inputs, method),
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("method", ["clip", "none"])
def test_offset_and_scale(method, tmp_path):
    affine = {"offset": 3.0, "scale": 0.5}
    score = np.array([[-1.5], [0.25], [2.9]], "float32")
    check_layer(
        lambda **kwargs: RatingScaler(1, 5, method, **affine, **kwargs),
        {"inputs": score},
        lambda weights, inputs: scale(weights, inputs, method, **affine),
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )
    scaler = RatingScaler(1, 5, method, **affine)
    assert float(scaler(np.array([scaler.inverse(4.25)]))[0]) == 4.25
    check_error("`scale` must be positive", lambda: RatingScaler(1, 5, "clip", scale=0))
    check_error("`offset` must be", lambda: RatingScaler(1, 5, "clip", offset=np.nan))
    check_error("must be left out", lambda: RatingScaler(1, 5, "sigmoid", scale=2.0))


def scale_logarithms(weights, inputs, method):
    """Like `scale`, between the logarithms of the bounds 1 and 6."""
    output = np.empty(inputs.shape)
    low, high = math.log(2.0), math.log(7.0)
    for i, x in np.ndenumerate(inputs):
        logarithm = {
            "sigmoid": low + (high - low) / (1.0 + math.exp(-x)),
            "clip": min(max(x, low), high),
            "none": x,
        }[method]
        output[i] = math.exp(logarithm) - 1.0
    return output


@pytest.mark.parametrize("method", METHODS)
def test_transform(method, tmp_path):
    score = np.array([[0.8], [1.25], [1.9]], "float32")
    check_layer(
        lambda **kwargs: RatingScaler(1, 6, method, transform="log1p", **kwargs),
        {"inputs": score},
        lambda weights, inputs: scale_logarithms(weights, inputs, method),
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )
    scaler = RatingScaler(1, 6, method, transform="log1p")
    rating = float(scaler(np.array([scaler.inverse(4.25)]))[0])
    np.testing.assert_allclose(rating, 4.25, rtol=1e-6)
    ends = ops.convert_to_numpy(scaler(np.array([-40.0, 40.0])))
    if method != "none":
        np.testing.assert_allclose(ends, [1.0, 6.0], rtol=1e-6)
    check_error(
        "`min_rating` must be at least 0",
        lambda: RatingScaler(-1, 6, method, transform="log1p"),
    )
    check_error("`transform` must be", lambda: RatingScaler(1, 6, transform="log"))
    check_error("`rating` must lie", lambda: scaler.inverse(-1.0))


@pytest.mark.parametrize("method", ["sigmoid", "clip"])
def test_ratings_stay_inside_the_bounds(method):
    score = np.array([-np.inf, -1e8, -3.0, 0.0, 5.3, 1e8, np.inf], "float32")
    rating = ops.convert_to_numpy(RatingScaler(1, 5, method)(score))
    np.testing.assert_allclose(rating, scale(None, np.clip(score, -99, 99), method))
    assert rating.min() >= 1.0
    assert rating.max() <= 5.0


def test_clip_passes_gradients_straight_through():
    inputs = keras.Input((1,))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, RatingScaler(1, 5, "clip")(dense(inputs)))
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    # Score 7, rating 5, error 1: d(error^2)/d(score) = 2, d(score)/d(kernel) = 7.
    model.train_on_batch(np.array([[7.0]]), np.array([[4.0]]))
    np.testing.assert_allclose(dense.get_weights()[0], [[1.0 - 2 * 7.0]], rtol=1e-6)
    # Rating 5 is right, however far beyond it the score lies: nothing moves.
    dense.set_weights([np.array([[1.0]])])
    model.train_on_batch(np.array([[7.0]]), np.array([[5.0]]))
    np.testing.assert_array_equal(dense.get_weights()[0], [[1.0]])


def test_scores_are_not_rounded_under_a_mixed_policy():
    layer = RatingScaler(1, 1000, "clip", dtype="mixed_bfloat16")
    rating = ops.convert_to_numpy(layer(np.array([[257.25]], "float32")))
    np.testing.assert_array_equal(rating, [[257.25]])


@settings(max_examples=50, deadline=None)
@given(st.floats(-100, 100), st.floats(0.1, 100), st.floats(0.001, 0.999))
def test_inverse(low, span, share):
    rating = low + span * share
    for method in METHODS:
        scaler = RatingScaler(low, low + span, method)
        score = np.array([scaler.inverse(rating)], "float32")
        found = ops.convert_to_numpy(scaler(score))
        np.testing.assert_allclose(found, rating, atol=1e-4 * (abs(low) + span))


def test_inverse_at_a_bound_is_finite():
    scaler = RatingScaler(1, 5)
    scores = [scaler.inverse(1), scaler.inverse(5)]
    np.testing.assert_allclose(scores, [-13.815510, 13.815510], rtol=1e-6)


def test_errors():
    check_error("must be finite", lambda: RatingScaler(5, 1))
    check_error("must be finite", lambda: RatingScaler(1, float("inf")))
    check_error("must be finite", lambda: RatingScaler(float("nan"), 5))
    check_error("`method` must be", lambda: RatingScaler(1, 5, "tanh"))
    check_error("`rating` must lie within", lambda: RatingScaler(1, 5).inverse(6))
    check_error(
        "`rating` must lie within",
        lambda: RatingScaler(1, 5, "none").inverse(float("nan")),
    )
