"""Which items are relevant for whom, told by the ratings of the test.

A recommendation is right or wrong only once somebody has said what is relevant. These
functions say it from test ratings: above one bar for all users, or above each user's
own. Items that a user didn't rate in the test count as not relevant; whether they
would have liked them, nobody knows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlayers._checks import number
from fmlayers.metrics._positions import check_lengths, check_positions


class Relevance(NamedTuple):
    """The relevant items of each user as pairs, in any order.

    A pair that is there twice counts once. Users without a pair have no relevant item,
    and rankings aren't judged by them. For clicks, where each row of the test is
    relevant, make one of the rows' own users and items.

    Attributes:
        users: the user's position (int64, from 0) in each pair, shape `(pairs,)`.
        items: the item's position (int64, from 0) in each pair, shape `(pairs,)`.

    Example:

    >>> fmlayers.metrics.Relevance(users=np.array([0, 0, 2]), items=np.array([7, 3, 7]))
    Relevance(users=array([0, 0, 2]), items=array([7, 3, 7]))
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]


def relevant_by_threshold(
    users: npt.ArrayLike,
    items: npt.ArrayLike,
    ratings: npt.ArrayLike,
    threshold: float,
) -> Relevance:
    """Take the items that a user rated `threshold` or higher for relevant.

    One bar for all: a user who never rates as high has no relevant item, and is left
    out where rankings are judged.

    Args:
        users: position of the user of each test row, integers from 0, shape `(rows,)`.
        items: position of the item of each test row, integers from 0, shape `(rows,)`.
        ratings: the rating of each test row, finite numbers, shape `(rows,)`.
        threshold: the lowest rating that is relevant, in the unit of the ratings;
            rounded to their precision where they are float32 or float16.

    Returns:
        A `Relevance`, in the order of the rows. An item that a user rated twice is
        relevant if one of the two ratings is high enough.

    Raises:
        ValueError: if the rows aren't equally many, users or items aren't positions,
            or a rating or the threshold isn't a finite number.

    Example:

    >>> relevant = fmlayers.metrics.relevant_by_threshold(
    ...     users=[0, 0, 1], items=[3, 7, 7], ratings=[5, 2, 4], threshold=4
    ... )
    >>> relevant.users, relevant.items
    (array([0, 1]), array([3, 7]))

    References:
        Herlocker, J. et al. (2004). Evaluating Collaborative Filtering Recommender
        Systems. ACM TOIS 22(1).
    """
    user_positions, item_positions, values = _check_rows(users, items, ratings)
    threshold = number("threshold", threshold)
    # 4.1 as float32 is less than 4.1: compare in the ratings' own precision.
    keep = values >= values.dtype.type(threshold)
    return Relevance(user_positions[keep], item_positions[keep])


def relevant_by_quantile(
    users: npt.ArrayLike,
    items: npt.ArrayLike,
    ratings: npt.ArrayLike,
    *,
    quantile: float = 0.85,
) -> Relevance:
    """Take the items for relevant that are high among the user's own test ratings.

    A rating is relevant if it is at least

        numpy.quantile(ratings of the same user in these rows, quantile)

    with linear interpolation, in float64. So every user with a test rating has a
    relevant item: also one who rated a single item, however low, and a user who gave
    all items the same rating has them all. The cost is that of one sort of the rows.

    Args:
        users: position of the user of each test row, integers from 0, shape `(rows,)`.
        items: position of the item of each test row, integers from 0, shape `(rows,)`.
        ratings: the rating of each test row, finite numbers, shape `(rows,)`.
        quantile: where the bar lies, from 0 (all are relevant) to 1 (only the user's
            highest are). Defaults to 0.85.

    Returns:
        A `Relevance`, in the order of the rows. An item that a user rated twice is
        relevant if one of the two ratings is high enough.

    Raises:
        ValueError: if the rows aren't equally many, users or items aren't positions,
            a rating isn't a finite number, or `quantile` lies outside 0 and 1.

    Example:

    >>> relevant = fmlayers.metrics.relevant_by_quantile(
    ...     users=[0, 0, 0, 1], items=[3, 5, 7, 7], ratings=[1, 5, 4, 2], quantile=0.5
    ... )
    >>> relevant.users, relevant.items
    (array([0, 0, 1]), array([5, 7, 7]))

    References:
        Hyndman, R. and Fan, Y. (1996). Sample Quantiles in Statistical Packages. The
        American Statistician 50(4), definition 7.
    """
    user_positions, item_positions, values = _check_rows(users, items, ratings)
    quantile = number("quantile", quantile, "from 0 to 1", lambda x: 0 <= x <= 1)
    order = np.lexsort((values, user_positions))  # grouped by user, ratings ascending
    first = np.flatnonzero(np.diff(user_positions[order], prepend=-1))  # (users,)
    counts = np.diff(first, append=len(order))
    ascending = values[order].astype(np.float64)
    place = quantile * (counts - 1)
    below = np.floor(place).astype(np.int64)
    low = ascending[first + below]
    high = ascending[first + np.minimum(below + 1, counts - 1)]
    bar = low + (high - low) * (place - below)
    keep = np.empty(len(order), dtype=bool)
    keep[order] = ascending >= np.repeat(bar, counts)
    return Relevance(user_positions[keep], item_positions[keep])


def _check_rows(
    users: npt.ArrayLike, items: npt.ArrayLike, ratings: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[Any]]:
    user_positions = check_positions("users", users)
    item_positions = check_positions("items", items)
    values = np.asarray(ratings)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"`ratings` must be one-dimensional. Received: shape {values.shape}."
        )
    check_lengths(users=user_positions, items=item_positions, ratings=values)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"`ratings` must be finite numbers. Received: {values[row]} in "
            f"row {row + 1}."
        )
    return user_positions, item_positions, values
