import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmlayers.metrics import (
    Relevance,
    ranking_metrics_by_user,
    relevant_by_quantile,
    relevant_by_threshold,
)

# Of all real ratings only a few values, so that there are ties; some have no exact
# float, so that the rounding of the interpolation is seen.
RATINGS = st.sampled_from([1.0, 2.0, 2.3, 3.1, 3.7, 4.0, 4.1, 4.9, 5.0])
ROWS = st.lists(st.tuples(st.integers(0, 6), RATINGS), max_size=60)


def columns(rows):
    users = np.array([user for user, _ in rows], dtype=np.int64)
    ratings = np.array([rating for _, rating in rows], dtype=np.float64)
    return users, np.arange(len(rows)), ratings


def by_user_quantile(users, ratings, quantile):
    """The rows that are relevant, a user at a time."""
    keep = []
    for user in set(users.tolist()):
        bar = np.quantile(ratings[users == user], quantile)
        rows = np.flatnonzero(users == user)
        keep += [row for row in rows if ratings[row] >= bar]
    return sorted(keep)


@settings(deadline=None)
@given(rows=ROWS, quantile=st.one_of(st.floats(0, 1), st.sampled_from([0.5, 0.85])))
def test_quantile_is_numpys_of_each_user(rows, quantile):
    users, items, ratings = columns(rows)
    relevant = relevant_by_quantile(users, items, ratings, quantile=quantile)
    keep = by_user_quantile(users, ratings, quantile)
    np.testing.assert_array_equal(relevant.items, keep)
    np.testing.assert_array_equal(relevant.users, users[keep])


def test_quantile_of_many_rows(rng):
    users = (
        rng.integers(0, 300, size=5000) * 1_000_000_007
    )  # positions may be far apart
    ratings = rng.choice([1.0, 2.0, 3.0, 4.0, 5.0, 3.3, 4.7], size=5000)
    for quantile in (0.0, 0.1, 0.85, 0.9, 1.0):
        relevant = relevant_by_quantile(
            users, np.arange(5000), ratings, quantile=quantile
        )
        keep = by_user_quantile(users, ratings, quantile)
        np.testing.assert_array_equal(relevant.items, keep)
    np.testing.assert_array_equal(
        relevant_by_quantile(users, np.arange(5000), ratings).items,
        by_user_quantile(users, ratings, 0.85),
    )


@settings(deadline=None)
@given(rows=ROWS, quantile=st.floats(0, 1))
def test_quantile_leaves_every_user_a_relevant_item(rows, quantile):
    users, items, ratings = columns(rows)
    relevant = relevant_by_quantile(users, items, ratings, quantile=quantile)
    np.testing.assert_array_equal(np.unique(relevant.users), np.unique(users))


@settings(deadline=None)
@given(
    ratings=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1),
    quantile=st.floats(0, 1),
)
@example(ratings=[0.0, 1.0], quantile=1e-17)  # the bar is just above 0 ...
@example(ratings=[1.0, 2.0], quantile=1e-17)  # ... but rounds to 1
@example(ratings=[1000.1] * 56 + [1000.2] * 45, quantile=0.55)  # 0.55 * 100 > 55
def test_quantile_rounds_as_numpys(ratings, quantile):
    rows = np.arange(len(ratings))
    relevant = relevant_by_quantile(0 * rows, rows, ratings, quantile=quantile)
    keep = by_user_quantile(0 * rows, np.array(ratings), quantile)
    np.testing.assert_array_equal(relevant.items, keep)


def test_ratings_are_compared_in_their_own_precision():
    ratings = np.array([4.1, 4.0, 4.2], dtype=np.float32)
    for threshold in (4.1, np.float64(4.1)):
        relevant = relevant_by_threshold([0, 0, 0], [0, 1, 2], ratings, threshold)
        np.testing.assert_array_equal(relevant.items, [0, 2])
    counts = [2**24, 2**24 + 1]
    relevant = relevant_by_threshold([0, 0], [0, 1], counts, 2**24 + 1)
    np.testing.assert_array_equal(relevant.items, [1])
    relevant = relevant_by_quantile([0, 0], [0, 1], counts, quantile=1.0)
    np.testing.assert_array_equal(relevant.items, [1])


def test_quantile_of_float32_is_computed_in_float64():
    # In float32 the bar of the two would round to the lower.
    close = np.array([1.0, 1.0 + 2.0**-23], dtype=np.float32)
    relevant = relevant_by_quantile([0, 0], [0, 1], close, quantile=0.25)
    np.testing.assert_array_equal(relevant.items, [1])
    # In float32 their difference rounds up, and the bar would pass the higher.
    apart = np.array([-6.0, 0.3], dtype=np.float32)
    relevant = relevant_by_quantile([0, 0], [0, 1], apart, quantile=1 - 1e-8)
    np.testing.assert_array_equal(relevant.items, [1])


def test_quantile_of_one_rating_and_of_equal_ones():
    relevant = relevant_by_quantile([4, 2, 2, 2], [0, 1, 2, 3], [1, 3, 3, 3])
    np.testing.assert_array_equal(relevant.users, [4, 2, 2, 2])
    np.testing.assert_array_equal(relevant.items, [0, 1, 2, 3])


@settings(deadline=None)
@given(rows=ROWS, threshold=RATINGS)
def test_threshold_includes_its_own_rating(rows, threshold):
    users, items, ratings = columns(rows)
    relevant = relevant_by_threshold(users, items, ratings, threshold)
    keep = [row for row, (_, rating) in enumerate(rows) if rating >= threshold]
    np.testing.assert_array_equal(relevant.items, keep)
    np.testing.assert_array_equal(relevant.users, users[keep])


@pytest.mark.parametrize(
    "judge",
    [
        lambda u, i, r: relevant_by_threshold(u, i, r, 3.0),
        lambda u, i, r: relevant_by_quantile(u, i, r),
    ],
    ids=["threshold", "quantile"],
)
class TestBoth:
    def test_types(self, judge):
        relevant = judge(
            np.array([1, 0], dtype=np.uint16),
            np.array([3, 2], dtype=np.int32),
            np.array([5.0, 4.0], dtype=np.float32),
        )
        assert isinstance(relevant, Relevance)
        assert relevant.users.dtype == relevant.items.dtype == np.int64
        np.testing.assert_array_equal(relevant.users, [1, 0])
        np.testing.assert_array_equal(relevant.items, [3, 2])

    def test_no_rows(self, judge):
        relevant = judge([], [], [])
        assert len(relevant.users) == len(relevant.items) == 0

    def test_an_item_rated_twice_counts_once(self, judge):
        relevant = judge([0, 0, 0], [2, 2, 1], [5.0, 5.0, 1.0])
        by_user = ranking_metrics_by_user([[0, 2]], relevant, 3, k=2)
        np.testing.assert_array_equal(by_user["recall"], [1.0])

    def test_errors(self, judge):
        match = r"must have the same length\. Received: lengths 2, 2, 3\."
        with pytest.raises(ValueError, match=match):
            judge([0, 1], [0, 1], [1.0, 2.0, 3.0])
        match = r"`users` must be integer positions\. Received: dtype float64\."
        with pytest.raises(ValueError, match=match):
            judge([0.0, 1.0], [0, 1], [1.0, 2.0])
        match = r"`items` must be integer positions\. Received: dtype <U1\."
        with pytest.raises(ValueError, match=match):
            judge([0, 1], ["a", "b"], [1.0, 2.0])
        match = r"`users` must be positions from 0\. Received: -3 in row 2\."
        with pytest.raises(ValueError, match=match):
            judge([0, -3], [0, 1], [1.0, 2.0])
        match = r"`items` must be one-dimensional\. Received: shape \(2, 1\)\."
        with pytest.raises(ValueError, match=match):
            judge([0, 1], [[0], [1]], [1.0, 2.0])
        match = r"`ratings` must be one-dimensional\. Received: shape \(2, 1\)\."
        with pytest.raises(ValueError, match=match):
            judge([0, 1], [0, 1], [[1.0], [2.0]])
        match = r"`ratings` must be finite numbers\. Received: nan in row 2\."
        with pytest.raises(ValueError, match=match):
            judge([0, 1], [0, 1], [1.0, np.nan])


@pytest.mark.parametrize("quantile", [-0.1, 1.1, float("nan")])
def test_quantile_lies_from_0_to_1(quantile):
    match = rf"`quantile` must be from 0 to 1\. Received: quantile={quantile}\."
    with pytest.raises(ValueError, match=match):
        relevant_by_quantile([0], [0], [1.0], quantile=quantile)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_threshold_is_finite(threshold):
    match = rf"must be a finite number\. Received: threshold={threshold}\."
    with pytest.raises(ValueError, match=match):
        relevant_by_threshold([0], [0], [1.0], threshold)
