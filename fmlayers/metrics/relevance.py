"""Definitions of the relevant items of each user, from test ratings.

Ranking metrics need to know which items are relevant. These functions call an item
relevant if the user rated it above a threshold, either the same for all users or one
per user. Items that the user did not rate in the test set count as irrelevant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlayers._checks import number
from fmlayers.metrics._positions import check_lengths, check_positions


class Relevance(NamedTuple):
    """Pairs of users and their relevant items, in any order.

    Duplicate pairs count once. Users without a pair have no relevant item, and are left
    out of the ranking metrics. For implicit feedback, where every test row is relevant,
    create it directly from the users and items of these rows.

    Attributes:
        users: Position of the user of each pair, int64 from 0, of shape `(pairs,)`.
        items: Position of the item of each pair, int64 from 0, of shape `(pairs,)`.

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
    """Returns the items that a user rated `threshold` or higher as relevant.

    The threshold is the same for all users. A user without a rating that high has no
    relevant item, and is left out of the ranking metrics.

    Args:
        users: Position of the user of each test row, integers from 0 of shape
            `(rows,)`.
        items: Position of the item of each test row, integers from 0 of shape
            `(rows,)`.
        ratings: Rating of each test row, finite numbers of shape `(rows,)`.
        threshold: The lowest relevant rating, in the unit of the ratings. It is rounded
            to their precision if they are float32 or float16.

    Returns:
        A `Relevance`, in the order of the rows. An item that a user rated more than
        once is relevant if one of the ratings is high enough.

    Raises:
        ValueError: If the arrays differ in length, users or items are not positions,
            or a rating or the threshold is not a finite number.

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
    # 4.1 in float32 is less than 4.1: compare in the precision of the ratings.
    keep = values >= values.dtype.type(threshold)
    return Relevance(user_positions[keep], item_positions[keep])


def relevant_by_quantile(
    users: npt.ArrayLike,
    items: npt.ArrayLike,
    ratings: npt.ArrayLike,
    *,
    quantile: float = 0.85,
) -> Relevance:
    """Returns the items in the upper quantile of each user's ratings as relevant.

    A rating is relevant if it is at least

        numpy.quantile(ratings of the same user in these rows, quantile)

    with linear interpolation, in float64. Every user with a test rating has a relevant
    item, even if the rating is low. If a user gave all items the same rating, all of
    them are relevant. The cost is that of sorting the rows once.

    Args:
        users: Position of the user of each test row, integers from 0 of shape
            `(rows,)`.
        items: Position of the item of each test row, integers from 0 of shape
            `(rows,)`.
        ratings: Rating of each test row, finite numbers of shape `(rows,)`.
        quantile: Float from 0 (all items are relevant) to 1 (only the user's highest
            ratings are). Defaults to 0.85.

    Returns:
        A `Relevance`, in the order of the rows. An item that a user rated more than
        once is relevant if one of the ratings is high enough.

    Raises:
        ValueError: If the arrays differ in length, users or items are not positions,
            a rating is not a finite number, or `quantile` is outside of [0, 1].

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
    thresholds = low + (high - low) * (place - below)
    keep = np.empty(len(order), dtype=bool)
    keep[order] = ascending >= np.repeat(thresholds, counts)
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
