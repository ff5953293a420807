"""Splits of a table's rows into training and test rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import number
from fmlayers.data.errors import DataError


class Split(NamedTuple):
    """Positions (int64, from 0) of the training rows and of the test rows."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def random_split(n: int, *, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """Split `n` rows at random.

    The rows are `numpy.random.default_rng(seed).permutation(n)`; the first
    `n - round(n * test_fraction)` of them train, the others test.

    Args:
        n: number of rows, a positive integer.
        test_fraction: share of the test rows, between 0 and 1. Defaults to 0.2.
        seed: seed of the permutation. Defaults to 0.

    Returns:
        A `Split`, in the order of the permutation.

    Raises:
        ValueError: if either side would be empty.
    """
    num_train = n - _num_test(n, test_fraction)
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    return Split(order[:num_train], order[num_train:])


def user_split(
    users: npt.ArrayLike | pd.Series, *, test_fraction: float = 0.2, seed: int = 0
) -> Split:
    """Split the rows of each user at random in the same fraction.

    A user with `c` rows has `round(c * test_fraction)` of them in the test, and at
    least one left to train on. The choice depends on which rows share a user, not on
    the users' names.

    Args:
        users: the user of each row, shape `(n,)`.
        test_fraction: share of each user's test rows, between 0 and 1. Defaults to
            0.2.
        seed: seed of the choice. Defaults to 0.

    Returns:
        A `Split`, each side in the order of the rows.

    Raises:
        ValueError: if either side would be empty.
        DataError: if a row has no user.
    """
    codes = pd.factorize(np.asarray(users))[0]
    n = len(codes)
    _num_test(n, test_fraction)
    if codes.min() < 0:
        raise DataError(f"row {codes.argmin() + 1}: the user is missing")
    counts = np.bincount(codes)
    num_test = np.minimum(np.rint(counts * test_fraction), counts - 1)
    shuffled = np.random.default_rng(seed).permutation(n)
    order = shuffled[np.argsort(codes[shuffled], kind="stable")]  # grouped by user
    starts = np.cumsum(counts) - counts
    in_test = np.empty(n, dtype=bool)
    in_test[order] = np.arange(n) - starts[codes[order]] < num_test[codes[order]]
    if not in_test.any():
        raise ValueError(
            "`test_fraction` must give some user a test row. "
            f"Received: test_fraction={test_fraction}, where no user has more than "
            f"{counts.max()} rows."
        )
    return Split(np.flatnonzero(~in_test), np.flatnonzero(in_test))


def time_split(
    timestamps: npt.ArrayLike | pd.Series | None, *, test_fraction: float = 0.2
) -> Split:
    """Split by time: the latest `round(n * test_fraction)` rows test.

    Rows of the same time keep their order, so that a tie at the boundary is always
    cut in the same place.

    Args:
        timestamps: the time of each row, shape `(n,)`, numbers or datetimes.
        test_fraction: share of the test rows, between 0 and 1. Defaults to 0.2.

    Returns:
        A `Split`, from the earliest row to the latest.

    Raises:
        ValueError: if either side would be empty.
        DataError: if there are no timestamps, if one is missing, or if all are equal.
    """
    if timestamps is None:
        raise DataError(
            "a split by time needs timestamps, and there are none. "
            "Split with `random_split` or `user_split`."
        )
    times = np.asarray(timestamps)
    n = len(times)
    num_train = n - _num_test(n, test_fraction)
    missing = np.asarray(pd.isna(times))
    if missing.any():
        raise DataError(f"row {missing.argmax() + 1}: the timestamp is missing")
    if times.min() == times.max():
        raise DataError(
            f"a split by time needs timestamps that differ, and all {n:,} are "
            f"{times[0]}. Split with `random_split` or `user_split`."
        )
    order = np.argsort(times, kind="stable").astype(np.int64)
    return Split(order[:num_train], order[num_train:])


def _num_test(n: int, test_fraction: float) -> int:
    rule = "between 0 and 1, both excluded"
    test_fraction = number("test_fraction", test_fraction, rule, lambda x: 0 < x < 1)
    num_test = round(n * test_fraction)
    if not 0 < num_test < n:
        raise ValueError(
            "`test_fraction` must leave a row to train on and a row to test on. "
            f"Received: test_fraction={test_fraction}, of {n} rows."
        )
    return num_test
