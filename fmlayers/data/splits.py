from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import number
from fmlayers.data.errors import DataError


class Split(NamedTuple):
    """The indices (int64, from 0) of the training rows and of the test rows.

    Attributes:
        train: Indices of the training rows.
        test: Indices of the test rows.
    """

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def random_split(n: int, *, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """Splits `n` rows at random.

    The rows are shuffled by `numpy.random.default_rng(seed).permutation(n)`. The first
    `n - round(n * test_fraction)` are for training, the others for testing.

    Args:
        n: Positive integer, the number of rows.
        test_fraction: Fraction of the rows to test on, between 0 and 1. Defaults to
            0.2.
        seed: Random seed. Defaults to 0.

    Returns:
        A `Split`, in shuffled order.

    Raises:
        ValueError: If the training or the test rows would be empty.
    """
    num_train = n - _num_test(n, test_fraction)
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    return Split(order[:num_train], order[num_train:])


def user_split(
    users: npt.ArrayLike | pd.Series, *, test_fraction: float = 0.2, seed: int = 0
) -> Split:
    """Splits the rows of each user at random, in the same proportion.

    Of a user with `c` rows, `round(c * test_fraction)` are test rows, but at most
    `c - 1`: at least one is a training row. The split depends on which rows belong to
    the same user, not on the values of `users`.

    Args:
        users: The user of each row, of shape `(n,)`.
        test_fraction: Fraction of each user's rows to test on, between 0 and 1.
            Defaults to 0.2.
        seed: Random seed. Defaults to 0.

    Returns:
        A `Split`; the training and the test rows are both in ascending order.

    Raises:
        ValueError: If the training or the test rows would be empty.
        DataError: If a user is missing.
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
            "`test_fraction` must be large enough for at least one test row. "
            f"Received: test_fraction={test_fraction}, with at most {counts.max()} "
            "rows per user."
        )
    return Split(np.flatnonzero(~in_test), np.flatnonzero(in_test))


def time_split(
    timestamps: npt.ArrayLike | pd.Series | None, *, test_fraction: float = 0.2
) -> Split:
    """Splits the rows by time: the latest `round(n * test_fraction)` are test rows.

    Rows with the same timestamp keep their order, so that ties at the boundary are
    broken deterministically.

    Args:
        timestamps: The timestamp of each row, numbers or datetimes of shape `(n,)`.
        test_fraction: Fraction of the rows to test on, between 0 and 1. Defaults to
            0.2.

    Returns:
        A `Split`, from the earliest row to the latest.

    Raises:
        ValueError: If the training or the test rows would be empty.
        DataError: If `timestamps` is `None`, one is missing, or all are equal.
    """
    if timestamps is None:
        raise DataError(
            "A split by time needs timestamps, and the data have none. "
            "Use `random_split` or `user_split`."
        )
    times = np.asarray(timestamps)
    n = len(times)
    num_train = n - _num_test(n, test_fraction)
    missing = np.asarray(pd.isna(times))
    if missing.any():
        raise DataError(f"row {missing.argmax() + 1}: the timestamp is missing")
    if times.min() == times.max():
        raise DataError(
            f"A split by time needs different timestamps, and all {n:,} are "
            f"{times[0]}. Use `random_split` or `user_split`."
        )
    order = np.argsort(times, kind="stable").astype(np.int64)
    return Split(order[:num_train], order[num_train:])


def _num_test(n: int, test_fraction: float) -> int:
    rule = "between 0 and 1, both excluded"
    test_fraction = number("test_fraction", test_fraction, rule, lambda x: 0 < x < 1)
    num_test = round(n * test_fraction)
    if not 0 < num_test < n:
        raise ValueError(
            "`test_fraction` must leave at least one training row and one test row. "
            f"Received: test_fraction={test_fraction}, with {n} rows."
        )
    return num_test
