import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmlayers.data.errors import DataError
from fmlayers.data.splits import Split, random_split, time_split, user_split


def check_partition(split, n):
    assert isinstance(split, Split)
    assert split.train.dtype == split.test.dtype == np.int64
    both = np.concatenate([split.train, split.test])
    np.testing.assert_array_equal(np.sort(both), np.arange(n))


def test_random_split_is_the_permutation_of_the_seed():
    split = random_split(100_000, seed=3)
    order = np.random.default_rng(3).permutation(100_000)
    np.testing.assert_array_equal(split.train, order[:80_000])
    np.testing.assert_array_equal(split.test, order[80_000:])
    assert split.train.dtype == split.test.dtype == np.int64


@given(
    n=st.integers(2, 200),
    test_fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_random_split_is_a_partition(n, test_fraction, seed):
    if not 0 < round(n * test_fraction) < n:
        with pytest.raises(ValueError, match="must leave at least one training row"):
            random_split(n, test_fraction=test_fraction, seed=seed)
        return
    split = random_split(n, test_fraction=test_fraction, seed=seed)
    check_partition(split, n)
    assert len(split.test) == round(n * test_fraction)


def test_user_split_takes_the_fraction_of_each_user(rng):
    users = rng.choice(
        ["a", "b", "c", "d", "e"], size=400, p=[0.5, 0.3, 0.1, 0.08, 0.02]
    )
    users = np.append(users, "once")
    split = user_split(pd.Series(users), test_fraction=0.3, seed=5)
    check_partition(split, len(users))
    for user in set(users):
        rows = int((users == user).sum())
        in_test = int((users[split.test] == user).sum())
        assert in_test == min(round(rows * 0.3), rows - 1)
    assert "once" not in users[split.test]
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.test) > 0).all()


def test_user_split_is_random_within_a_user():
    users = np.repeat([7, 8], 500)
    splits = [user_split(users, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(splits[0].test, splits[1].test)
    assert len(np.intersect1d(splits[0].test, splits[2].test)) < 100
    tested = splits[0].test[splits[0].test < 500]
    # 100 of 500 positions: their mean has a standard deviation of 13.
    assert abs(tested.mean() - 249.5) < 5 * 13


def test_user_split_does_not_depend_on_names():
    users = np.array([5, 3, 5, 5, 3, 9, 3, 5, 9, 9] * 5)
    names = np.array([f"user {9 - user}" for user in users])
    np.testing.assert_array_equal(
        user_split(users, seed=2).test, user_split(names, seed=2).test
    )


def test_user_split_trains_on_some_of_every_user():
    split = user_split([1, 1, 2, 2, 3, 3], test_fraction=0.9)
    check_partition(split, 6)
    np.testing.assert_array_equal(np.array([1, 1, 2, 2, 3, 3])[split.train], [1, 2, 3])


def test_user_split_errors():
    with pytest.raises(ValueError, match="with at most 2 rows per user"):
        user_split([1, 1, 2, 2, 3, 4], test_fraction=0.2)
    with pytest.raises(DataError, match="row 3: the user is missing"):
        user_split(pd.Series(["a", "b", None, "a"]))


def test_time_split_tests_on_the_latest():
    split = time_split([50, 10, 40, 20, 30, 0, 60, 5, 6, 7], test_fraction=0.3)
    np.testing.assert_array_equal(split.train, [5, 7, 8, 9, 1, 3, 4])
    np.testing.assert_array_equal(split.test, [2, 0, 6])
    check_partition(split, 10)


def test_time_split_keeps_the_order_of_ties(rng):
    times = rng.integers(0, 5, size=1000)
    split = time_split(pd.Series(times), test_fraction=0.5)
    order = sorted(range(1000), key=lambda row: (times[row], row))
    np.testing.assert_array_equal(np.concatenate(split), order)
    assert len(split.test) == 500


def test_time_split_of_datetimes():
    times = pd.Series(pd.to_datetime(["2001-01-01", "1999-01-01", "2000-01-01"]))
    np.testing.assert_array_equal(time_split(times).test, [0])


def test_time_split_errors():
    with pytest.raises(DataError, match="needs timestamps, and the data have none"):
        time_split(None)
    with pytest.raises(
        DataError, match=r"different timestamps, and all 1,000 are 0\. Use"
    ):
        time_split(np.zeros(1000, dtype=int))
    with pytest.raises(DataError, match="row 2: the timestamp is missing"):
        time_split([1.0, np.nan, 3.0])


@pytest.mark.parametrize("test_fraction", [0, 1, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize(
    "split",
    [
        lambda test_fraction: random_split(10, test_fraction=test_fraction),
        lambda test_fraction: user_split([1] * 10, test_fraction=test_fraction),
        lambda test_fraction: time_split(range(10), test_fraction=test_fraction),
    ],
    ids=["random", "user", "time"],
)
def test_the_fraction_lies_between_0_and_1(split, test_fraction):
    match = f"`test_fraction` must be between 0 and 1.*test_fraction={test_fraction}"
    with pytest.raises(ValueError, match=match):
        split(test_fraction)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_no_side_is_empty(n):
    with pytest.raises(ValueError, match=f"must leave at least .* with {n} rows"):
        random_split(n)
    with pytest.raises(ValueError, match=f"must leave at least .* with {n} rows"):
        time_split(np.arange(n))
    with pytest.raises(ValueError, match=f"must leave at least .* with {n} rows"):
        user_split(np.arange(n))
