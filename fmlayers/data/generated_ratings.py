from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import integer, positive
from fmlayers.data.dataset import Dataset

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_OCCUPATIONS = (
    "artist",
    "doctor",
    "educator",
    "engineer",
    "executive",
    "homemaker",
    "lawyer",
    "other",
    "programmer",
    "retired",
    "scientist",
    "student",
    "technician",
    "writer",
)
_GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Western",
)
_ADJECTIVES = (
    "Amber Borrowed Brass Crooked Distant Drifting Eleventh Folded Gentle Hollow "
    "Inland Juniper Lacquered Mislaid Northern Ochre Patient Quiet Reluctant Silent "
    "Tidal Unwritten Velvet Winter"
)
_NOUNS = (
    "Almanac Barometer Cartographer Dovecote Estuary Ferryman Granary Harbor Inkwell "
    "Jetty Kiln Lighthouse Meridian Nocturne Orchard Pendulum Quarry Rowboat Semaphore "
    "Tollhouse Umbrella Viaduct Weathervane Xylophone"
)

# Lower bounds of the ratings 2, 3, 4 and 5.
_THRESHOLDS = (1.5, 2.5, 3.5, 4.5)
_FIRST_ORDER_STD = 0.62
_PAIRWISE_STD = 0.62
# Scale of the side features' vectors, relative to those of users and items.
_SIDE_STD = 0.3

_START = 883_612_800  # 1998-01-01
_DAY_SECONDS = 86_400


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticDataset(Dataset):
    """A `Dataset` whose best possible predictions are known.

    Attributes:
        expected: Array of E[rating | features], rounded to six decimals. No prediction
            from the features has a lower mean squared error.
        variance: Array of Var(rating | features), rounded to six decimals, the expected
            squared error of these predictions.
    """

    expected: _Floats
    variance: _Floats

    def floor_rmse(self, rows: npt.ArrayLike | None = None) -> float:
        """Returns the expected RMSE of the predictions `expected`, the lowest possible.

        Args:
            rows: Optional indices of ratings, such as the test rows of a split.
                Defaults to all ratings.
        """
        if rows is None:
            return math.sqrt(self.variance.mean())
        positions = np.asarray(rows)
        if not positions.size:
            raise ValueError("`rows` must not be empty. Received: no rows.")
        return math.sqrt(self.variance[positions].mean())


def synthetic(
    *,
    num_users: int = 600,
    num_items: int = 400,
    num_ratings: int = 30_000,
    rank: int = 4,
    noise: float = 0.8,
    seed: int = 0,
) -> SyntheticDataset:
    """Draws ratings from a factorization machine, with the columns of MovieLens.

    Each rating is

        clip(floor(w0 + sum_j w_j x_j + sum_{j<k} <v_j, v_k> x_j x_k + e + 1/2), 1, 5)

    with e ~ N(0, `noise`^2). The fields j are the user, the item, the user's age (one
    vector times the standardized age), sex and occupation, and the item's genres (the
    mean of their vectors, zero if there are none). With the default noise, the
    standard deviation of the ratings is about 1.1, of which 0.78 is noise and rounding.
    The same arguments produce the same data on every machine.

    Args:
        num_users: Positive integer, the number of users. Defaults to 600.
        num_items: Positive integer, the number of items. Defaults to 400.
        num_ratings: Integer from `num_users` to `num_users * num_items`, the number of
            ratings. Every user has at least one, and rates no item twice. Defaults to
            30,000.
        rank: Positive integer, the size of the vectors v. Defaults to 4.
        noise: Positive float, the standard deviation of e, in rating points. Defaults
            to 0.8.
        seed: Random seed. Defaults to 0.

    Returns:
        A `SyntheticDataset`, with its ratings in the order of their timestamps. Item
        popularity is long-tailed. Items and titles are fictional.

    Raises:
        ValueError: If an argument violates its constraint.
    """
    num_users, num_items, num_ratings, rank = (
        integer(name, value)
        for name, value in (
            ("num_users", num_users),
            ("num_items", num_items),
            ("num_ratings", num_ratings),
            ("rank", rank),
        )
    )
    if not num_users <= num_ratings <= num_users * num_items:
        raise ValueError(
            "`num_ratings` must be from `num_users` to `num_users * num_items`. "
            f"Received: num_ratings={num_ratings}, num_users={num_users}, "
            f"num_items={num_items}."
        )
    noise = positive("noise", noise)
    rng = np.random.default_rng(seed)
    users = _draw_users(rng, num_users)
    items = _draw_items(rng, num_items)
    user, item, times = _draw_pairs(rng, num_users, num_items, num_ratings)
    signal = _draw_signal(rng, users, items, user, item, rank)
    noisy = signal + noise * rng.standard_normal(num_ratings)
    expected, variance = _moments(signal, noise)
    ratings = pd.DataFrame(
        {
            "user": user + 1,
            "item": item + 1,
            "rating": np.clip(np.floor(noisy + 0.5), 1.0, 5.0),
            "timestamp": times,
        }
    )
    return SyntheticDataset(
        name="synthetic",
        ratings=ratings,
        users=users,
        items=items,
        expected=expected,
        variance=variance,
    )


def _draw_users(rng: np.random.Generator, num_users: int) -> pd.DataFrame:
    ages = np.clip(np.rint(rng.normal(34.0, 12.0, num_users)), 12, 80)
    return pd.DataFrame(
        {
            "user": np.arange(1, num_users + 1),
            "age": ages.astype(np.int64),
            "sex": np.array(["F", "M"])[rng.integers(2, size=num_users)].tolist(),
            "occupation": [
                _OCCUPATIONS[k] for k in rng.integers(len(_OCCUPATIONS), size=num_users)
            ],
        }
    )


def _draw_items(rng: np.random.Generator, num_items: int) -> pd.DataFrame:
    years = 1999 - np.floor(np.minimum(rng.exponential(12.0, num_items), 69.0))
    names = [
        f"The {adjective} {noun}"
        for adjective in _ADJECTIVES.split()
        for noun in _NOUNS.split()
    ]
    order = rng.permutation(len(names))
    titles = []
    for position, year in enumerate(years):
        sequel, name = divmod(position, len(names))
        number = f" {sequel + 1}" if sequel else ""
        titles.append(f"{names[order[name]]}{number} ({year:.0f})")
    num_genres = rng.integers(1, 4, size=num_items)
    num_genres[rng.permutation(num_items)[: math.ceil(num_items * 0.05)]] = 0
    genres = [
        tuple(_GENRES[k] for k in np.sort(rng.permutation(len(_GENRES))[:count]))
        for count in num_genres
    ]
    return pd.DataFrame(
        {
            "item": np.arange(1, num_items + 1),
            "title": titles,
            "year": pd.array(years.astype(np.int64), dtype="Int64"),
            "genres": pd.Series(genres, dtype=object),
        }
    )


def _draw_pairs(
    rng: np.random.Generator, num_users: int, num_items: int, num_ratings: int
) -> tuple[_Ints, _Ints, _Ints]:
    """Draws distinct pairs of user and item (from 0), in the order of timestamps."""
    activity = np.exp(rng.normal(0.0, 0.8, num_users))
    counts = _share_out(num_ratings, activity, num_items)
    popularity = (np.arange(num_items) + 10.0) ** -1.0
    popularity = popularity[rng.permutation(num_items)]
    # The smallest of exponential variables whose rates are the popularities: items
    # sampled by popularity without replacement.
    item = np.concatenate(
        [
            np.argsort(rng.exponential(size=num_items) / popularity, kind="stable")[:k]
            for k in counts
        ]
    )
    user = np.repeat(np.arange(num_users), counts)
    joined = rng.integers(_START, _START + 700 * _DAY_SECONDS, size=num_users)
    since = np.floor(rng.exponential(60.0 * _DAY_SECONDS, num_ratings)).astype(np.int64)
    times = joined[user] + since
    order = np.lexsort((item, user, times))
    return user[order], item[order], times[order]


def _share_out(total: int, weights: _Floats, limit: int) -> _Ints:
    """Distributes `total` by weight, with at least 1 and at most `limit` for each."""
    counts = np.ones(len(weights), dtype=np.int64)
    while left := total - int(counts.sum()):
        share = np.where(counts < limit, weights, 0.0)
        share = left * share / share.sum()
        more = np.minimum(np.floor(share).astype(np.int64), limit - counts)
        if not more.any():  # fewer are left than there are users below the limit
            more[np.argsort(-share, kind="stable")[:left]] = 1
        counts += more
    return counts


def _draw_signal(
    rng: np.random.Generator,
    users: pd.DataFrame,
    items: pd.DataFrame,
    user: _Ints,
    item: _Ints,
    rank: int,
) -> _Floats:
    ages = users["age"].to_numpy(np.float64)
    sexes = (users["sex"] == "M").to_numpy(np.int64)
    occupations = users["occupation"].map(_OCCUPATIONS.index).to_numpy(np.int64)
    has_genre = np.array([[name in one for name in _GENRES] for one in items["genres"]])
    shares = has_genre / np.maximum(has_genre.sum(axis=1, keepdims=True), 1)

    def field_of(size: int, first_order_std: float, pairwise_std: float) -> _Floats:
        """Draws first-order weights and vectors, concatenated: (size, 1 + rank)."""
        scales = np.array([first_order_std] + [pairwise_std] * rank)
        drawn: _Floats = rng.standard_normal((size, 1 + rank)) * scales
        return drawn

    of_user = field_of(len(users), 0.4, 1.0)
    of_item = field_of(len(items), 0.4, 1.0)
    of_age = field_of(1, 0.1, _SIDE_STD) * ((ages - 34.0) / 12.0)[:, np.newaxis]
    of_sex = field_of(2, 0.1, _SIDE_STD)[sexes]
    of_occupation = field_of(len(_OCCUPATIONS), 0.15, _SIDE_STD)[occupations]
    genres = field_of(len(_GENRES), 0.3, 2 * _SIDE_STD)
    of_genres = (shares[:, :, np.newaxis] * genres).sum(axis=1)

    fields = [of_user[user], of_age[user], of_sex[user], of_occupation[user]]
    fields += [of_item[item], of_genres[item]]
    total = sum(fields[1:], start=fields[0])
    squares = sum((one**2 for one in fields[1:]), start=fields[0] ** 2)
    pairwise = (total**2 - squares)[:, 1:].sum(axis=1) / 2
    return (
        3.5
        + _FIRST_ORDER_STD * _standardized(total[:, 0])
        + _PAIRWISE_STD * _standardized(pairwise)
    )


def _standardized(values: _Floats) -> _Floats:
    """Standardizes values to mean 0 and standard deviation 1; constant ones to 0."""
    centered: _Floats = values - values.mean()
    return centered / (float(centered.std()) or 1.0)


def _moments(signal: _Floats, noise: float) -> tuple[_Floats, _Floats]:
    """Returns the mean and the variance of the ratings conditional on the signal.

    With P_k = P(rating >= k), E[r] = 1 + sum_k P_k and E[r^2] = 1 + sum_k (2k - 1) P_k
    for k from 2 to 5.
    """
    mean = np.ones_like(signal)
    square = np.ones_like(signal)
    for rating, threshold in enumerate(_THRESHOLDS, start=2):
        scaled = (signal - threshold) / (noise * math.sqrt(2.0))
        erf = np.fromiter(map(math.erf, scaled.tolist()), np.float64, len(scaled))
        mean += (1.0 + erf) / 2
        square += (2 * rating - 1) * (1.0 + erf) / 2
    # The last bits depend on the machine; six decimals do not.
    return np.round(mean, 6), np.round(square - mean**2, 6)
