import hashlib
import re

import numpy as np
import pytest

from fmlayers.data.generated_ratings import (
    SyntheticDataset,
    _moments,
    _share_out,
    synthetic,
)
from fmlayers.data.splits import time_split


@pytest.fixture(scope="module")
def data():
    return synthetic()


def test_tables_have_the_columns_of_movielens(data):
    assert isinstance(data, SyntheticDataset)
    assert data.name == "synthetic"
    assert list(data.ratings) == ["user", "item", "rating", "timestamp"]
    assert list(data.users) == ["user", "age", "sex", "occupation"]
    assert list(data.items) == ["item", "title", "year", "genres"]
    assert (len(data.ratings), len(data.users), len(data.items)) == (30_000, 600, 400)
    assert data.ratings.dtypes.astype(str).tolist() == [
        *("int64", "int64", "float64", "int64"),
    ]
    assert data.items["year"].dtype == "Int64"
    assert set(data.ratings["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert data.users["age"].between(12, 80).all()
    assert set(data.users["sex"]) == {"F", "M"}
    assert data.users["occupation"].nunique() > 10
    assert not data.table().isna().any(axis=None)


def test_films_are_invented_with_years_and_genres(data):
    assert data.items["title"].is_unique
    years = data.items["title"].str.extract(r"^The \w+ \w+ \((\d{4})\)$")[0]
    assert (years.astype("Int64") == data.items["year"]).all()
    num_genres = data.items["genres"].map(len)
    assert 0.03 <= (num_genres == 0).mean() <= 0.1
    assert set(num_genres) == {0, 1, 2, 3}
    assert all(list(one) == sorted(set(one)) for one in data.items["genres"])


def test_many_films_have_different_titles():
    data = synthetic(num_users=10, num_items=1500, num_ratings=100)
    assert data.items["title"].is_unique
    assert re.fullmatch(r"The \w+ \w+ 3 \(\d{4}\)", data.items["title"].iloc[-1])


def test_no_user_rates_a_film_twice(data):
    assert not data.ratings.duplicated(["user", "item"]).any()
    assert data.ratings["user"].nunique() == 600
    full = synthetic(num_users=20, num_items=30, num_ratings=600)
    assert not full.ratings.duplicated(["user", "item"]).any()


def test_few_films_have_many_ratings(data):
    counts = data.ratings["item"].value_counts().to_numpy()
    assert counts[:40].sum() > 0.25 * 30_000
    assert counts[0] > 8 * counts[-1]


def test_times_increase_over_years(data):
    times = data.ratings["timestamp"]
    assert times.is_monotonic_increasing
    assert 2 < (times.iloc[-1] - times.iloc[0]) / (365 * 86_400) < 6
    train, test = time_split(times)
    seen = data.ratings["user"].iloc[test].isin(data.ratings["user"].iloc[train])
    assert 0.2 < seen.mean() < 0.98


def test_the_same_seed_gives_the_same_bytes(data):
    """Pinned, so that another machine or NumPy that draws differently is noticed."""
    small = synthetic(num_users=40, num_items=30, num_ratings=300, seed=7)
    digests = (
        small.fingerprint(),
        hashlib.sha256(small.expected.tobytes()).hexdigest(),
        hashlib.sha256(small.variance.tobytes()).hexdigest(),
    )
    assert [digest[:16] for digest in digests] == [
        "5a54876bc62bf75d",
        "3a5f08a65678a1a3",
        "68bbe6ed54aa0552",
    ]
    assert synthetic().fingerprint() == data.fingerprint()
    assert synthetic(seed=1).fingerprint() != data.fingerprint()


@pytest.mark.parametrize("seed", range(4))
def test_scale_of_signal_and_noise(seed):
    data = synthetic(seed=seed)
    assert 1.05 < data.ratings["rating"].std() < 1.16
    assert 0.75 < data.floor_rmse() < 0.8
    explained = data.expected.var() + data.variance.mean()
    np.testing.assert_allclose(data.ratings["rating"].var(), explained, rtol=0.04)


def additive_residual(values, user, item):
    """Return what is left after the best sum of a number a user and one an item."""
    of_user = np.zeros(user.max() + 1)
    of_item = np.zeros(item.max() + 1)
    users = np.maximum(np.bincount(user), 1)
    items = np.maximum(np.bincount(item), 1)
    for _ in range(50):
        of_user = np.bincount(user, values - of_item[item]) / users
        of_item = np.bincount(item, values - of_user[user]) / items
    return values - of_user[user] - of_item[item]


def test_users_and_items_interact(data):
    user, item = (data.ratings[key].to_numpy() for key in ("user", "item"))
    residual = additive_residual(data.expected, user, item)
    assert residual.std() > 0.35
    # In vectors of length 4 for users and items alike: so many singular values.
    matrix = np.zeros((601, 401))
    matrix[user, item] = residual
    spectrum = np.linalg.svd(matrix, compute_uv=False)
    assert (spectrum[:4] ** 2).sum() > 0.25 * (spectrum**2).sum()


def test_side_features_matter(data):
    """Users of one occupation share more than chance gives 600 users in 14 groups."""
    table = data.table().assign(expected=data.expected)
    by_user = table.groupby("user").agg({"expected": "mean", "occupation": "first"})
    between = by_user.groupby("occupation")["expected"].mean()
    counts = by_user["occupation"].value_counts()
    f_ratio = (
        (counts * (between - by_user["expected"].mean()) ** 2).sum() / (len(counts) - 1)
    ) / by_user.groupby("occupation")["expected"].var().mean()
    assert f_ratio > 2.5


def test_the_floor_is_the_rmse_of_the_expectation():
    data = synthetic(num_users=2000, num_items=500, num_ratings=200_000, seed=1)
    errors = data.ratings["rating"].to_numpy() - data.expected
    squares = errors**2
    for rows in (np.arange(200_000), np.arange(0, 200_000, 7)):
        standard_error = squares[rows].std() / np.sqrt(len(rows))
        floor = data.floor_rmse(rows)
        np.testing.assert_allclose(floor**2, data.variance[rows].mean(), rtol=1e-12)
        assert abs(squares[rows].mean() - floor**2) < 4 * standard_error
    assert data.floor_rmse() == data.floor_rmse(np.arange(200_000))
    # Not only on the whole: wherever the expectation or the variance is high or low.
    for key in (data.expected, data.variance):
        for rows in np.array_split(np.argsort(key), 10):
            standard_error = np.sqrt(data.variance[rows].mean() / len(rows))
            assert abs(errors[rows].mean()) < 4.5 * standard_error
            standard_error = squares[rows].std() / np.sqrt(len(rows))
            assert abs((squares - data.variance)[rows].mean()) < 4.5 * standard_error


@pytest.mark.parametrize("noise", [0.1, 0.8, 3.0])
def test_moments_agree_with_a_simulation(noise, rng):
    signal = np.array([-1.0, 1.2, 2.5, 3.0, 3.49, 4.4, 5.0, 8.0])
    mean, variance = _moments(signal, noise)
    draws = signal + noise * rng.standard_normal((400_000, len(signal)))
    ratings = np.clip(np.floor(draws + 0.5), 1, 5)
    deviations = (ratings - mean) ** 2
    root = np.sqrt(len(draws))
    mean_error = np.maximum(ratings.std(axis=0), 1e-3) / root
    variance_error = np.maximum(deviations.std(axis=0), 1e-3) / root
    assert (np.abs(ratings.mean(axis=0) - mean) < 4.5 * mean_error).all()
    assert (np.abs(deviations.mean(axis=0) - variance) < 4.5 * variance_error).all()


def test_counts_are_shared_out_within_their_limits(rng):
    for total, limit in ((50, 1), (51, 40), (400, 9), (450, 9)):
        counts = _share_out(total, rng.exponential(size=50), limit)
        assert counts.sum() == total
        assert counts.min() >= 1
        assert counts.max() <= limit


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_users": 0}, "`num_users` must be a positive integer.*num_users=0"),
        ({"num_items": 0}, "`num_items` must be a positive integer.*num_items=0"),
        ({"rank": 0}, "`rank` must be a positive integer.*rank=0"),
        ({"num_ratings": 599}, "`num_ratings` must be from `num_users` .*=599"),
        ({"num_ratings": 240_001}, "`num_ratings` must be from .*=240001"),
        ({"noise": 0.0}, r"`noise` must be positive.*noise=0\.0"),
    ],
)
def test_arguments_that_make_no_sense(arguments, match):
    with pytest.raises(ValueError, match=match):
        synthetic(**arguments)


def test_a_floor_of_no_rows(data):
    with pytest.raises(ValueError, match="`rows` must not be empty"):
        data.floor_rmse([])
