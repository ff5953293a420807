import math

import keras
import numpy as np
import pandas as pd
import pytest

from fmlayers.metrics import mae, rmse


def test_values_against_loops(rng):
    ratings = rng.integers(1, 6, size=500)
    predictions = rng.uniform(0.0, 6.0, size=500)
    squares, absolutes = 0.0, 0.0
    for rating, prediction in zip(ratings, predictions, strict=True):
        squares += (float(rating) - prediction) ** 2
        absolutes += abs(float(rating) - prediction)
    np.testing.assert_allclose(
        rmse(ratings, predictions), math.sqrt(squares / 500), rtol=1e-12
    )
    np.testing.assert_allclose(mae(ratings, predictions), absolutes / 500, rtol=1e-12)
    assert rmse(ratings, ratings) == mae(ratings, ratings) == 0.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (rmse, keras.metrics.RootMeanSquaredError),
        (mae, keras.metrics.MeanAbsoluteError),
    ],
)
def test_keras_measures_the_same(rng, ours, theirs):
    ratings = rng.uniform(1.0, 5.0, size=(200, 1))
    predictions = rng.uniform(1.0, 5.0, size=(200, 1))
    metric = theirs()
    metric.update_state(ratings, predictions)
    np.testing.assert_allclose(
        ours(ratings, predictions), float(metric.result()), rtol=1e-6
    )


@pytest.mark.parametrize("metric", [rmse, mae])
def test_small_numbers_of_any_type_are_computed_in_float64(metric):
    ratings = np.array([0, 255], dtype=np.uint8)
    predictions = np.array([255, 0], dtype=np.uint8)
    assert metric(ratings, predictions) == 255.0
    assert type(metric(ratings, predictions)) is float
    half = np.array([300.0, 300.0], dtype=np.float16)  # its square overflows float16
    assert metric(half, -half) == 600.0


@pytest.mark.parametrize("metric", [rmse, mae])
@pytest.mark.parametrize("dtype", ["int8", "Int64", "object"])
def test_columns_of_pandas(metric, dtype):
    column = pd.Series([4, 1], dtype=dtype, index=[7, 8])
    assert metric(column, [5.0, 0.0]) == metric([5.0, 0.0], column) == 1.0


@pytest.mark.parametrize("metric", [rmse, mae])
def test_errors(metric):
    match = r"must have the same shape\. Received: \(3,\) and \(3, 1\)\."
    with pytest.raises(ValueError, match=match):
        metric(np.ones(3), np.ones((3, 1)))
    match = r"at least one rating\. Received: shape \(0,\)\."
    with pytest.raises(ValueError, match=match):
        metric([], [])
    match = r"`ratings` must be finite numbers\. Received: nan at index 1\."
    with pytest.raises(ValueError, match=match):
        metric([1.0, np.nan], [1.0, 1.0])
    match = r"`predictions` must be finite numbers\. Received: inf at index 2\."
    with pytest.raises(ValueError, match=match):
        metric([1.0, 2.0, 3.0], [1.0, 1.0, np.inf])
