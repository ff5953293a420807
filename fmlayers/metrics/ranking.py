"""How good lists of recommended items are, at the first k places.

What is measured: lists out of the whole catalogue, without the items that the user had
in training, against the items that turned out relevant in the test. That is what a
recommender is for, and nothing else is called by these names here:

- The average precision of ratings that were predicted and cut at a threshold is not
  MAP: it ranks only items that the user went on to rate.
- Lists out of the relevant items and a sample of others give other numbers, which can
  even order two models the other way round (Krichene and Rendle, 2020).
- Items picked from the rows of other users, or a list that names an item many times,
  are no recommendations. Lists with an item twice are refused.

What isn't measured: whether a user would have liked an item that they never rated. It
counts as wrong, which favours models that recommend what is popular.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers.metrics._positions import check_lengths, check_positions
from fmlayers.metrics.relevance import Relevance


def ranking_metrics(
    recommended: npt.ArrayLike,
    relevant: Relevance,
    num_items: int,
    *,
    k: int = 25,
) -> dict[str, float]:
    """Judge lists of recommended items by precision, recall, MAP, NDCG and others.

    Means over the users who have a relevant item. For a user with R of them:

        precision = hits / k
        recall    = hits / R
        map       = 1 / min(k, R)  sum_{i<=k} precision@i rel_i
        ndcg      = sum_{i<=k} rel_i / log2(i + 1)
                    / sum_{i<=min(k, R)} 1 / log2(i + 1)
        hit_rate  = 1 if hits > 0 else 0

    where rel_i is 1 if the item at place i is relevant and 0 if not, hits is their sum
    over the first k places, and precision@i is hits / i over the first i. A list that
    begins with as many relevant items as there are, or as k holds, gets 1, except that
    its precision stays below 1 where R < k and its recall where R > k. Further, over
    all users given, whether they have a relevant item or not:

        coverage  = items in at least one list / num_items

    Beware of other definitions of the same names: ranx, keras-rs and trec_eval divide
    the sum of `map` by R, so that a perfect list of k < R items gets k / R; RecBole,
    implicit and the `map_at_k` of recommenders divide as we do. With k >= R the two
    are equal. A place without an item counts as wrong.

    It works on pairs, one sort and one binary search in all, never on a matrix of
    users by items as scikit-learn's and keras-rs' metrics do.

    Args:
        recommended: positions of the recommended items, integers from 0 to
            `num_items - 1`, best first, shape `(users, places)` with k places or more,
            of which the first k are read. -1 where a place has no item. Row u is the
            list of user u, out of the whole catalogue without the items that the user
            had in training: what was left out, this function can't see.
        relevant: the relevant items of each user.
        num_items: number of items in the catalogue, a positive integer.
        k: number of places to judge, a positive integer. Defaults to 25.

    Returns:
        The numbers above by name, each from 0 to 1, and `"users"`, the number of users
        with a relevant item, whom the means are over.

    Raises:
        ValueError: if no user has a relevant item, a list has fewer than k places or
            an item twice, or a position lies outside the catalogue or the lists.

    Example:

    >>> relevant = fmlayers.metrics.Relevance(
    ...     users=np.array([0, 0, 1]), items=np.array([2, 4, 0])
    ... )
    >>> lists = [[4, 1, 2], [3, 1, -1], [3, 4, 1]]
    >>> metrics = fmlayers.metrics.ranking_metrics(lists, relevant, num_items=5, k=3)
    >>> for name, value in metrics.items():
    ...     print(f"{name:9} {value:.3f}")
    precision 0.333
    recall    0.500
    map       0.417
    ndcg      0.460
    hit_rate  0.500
    coverage  0.800
    users     2.000

    References:
        - Manning, C., Raghavan, P. and Schütze, H. (2008). Introduction to Information
          Retrieval. Section 8.4 (precision, recall, average precision).
        - Järvelin, K. and Kekäläinen, J. (2002). Cumulated Gain-Based Evaluation of IR
          Techniques. ACM TOIS 20(4) (NDCG; their discount begins at place 3).
        - Burges, C. et al. (2005). Learning to Rank Using Gradient Descent. ICML (the
          discount log(i + 1)).
        - Deshpande, M. and Karypis, G. (2004). Item-Based Top-N Recommendation
          Algorithms. ACM TOIS 22(1) (hit rate).
        - Ge, M., Delgado-Battenfeld, C. and Jannach, D. (2010). Beyond Accuracy.
          RecSys (catalogue coverage).
        - Tamm, Y.-M., Damdinov, R. and Vasilev, A. (2021). Quality Metrics in
          Recommender Systems: Do We Calculate Metrics Consistently? RecSys.
        - Krichene, W. and Rendle, S. (2020). On Sampled Metrics for Item
          Recommendation. KDD.
    """
    by_user = ranking_metrics_by_user(recommended, relevant, num_items, k=k)
    num_users = len(by_user["user"])
    if num_users == 0:
        raise ValueError(
            "`relevant` must have a relevant item for at least one user. "
            "Received: none."
        )
    covered = np.zeros(num_items, dtype=bool)
    lists = np.asarray(recommended)[:, :k]
    covered[lists[lists >= 0]] = True
    return {
        "precision": float(by_user["precision"].mean()),
        "recall": float(by_user["recall"].mean()),
        "map": float(by_user["average_precision"].mean()),
        "ndcg": float(by_user["ndcg"].mean()),
        "hit_rate": float(by_user["hit"].mean()),
        "coverage": float(covered.mean()),
        "users": num_users,
    }


def ranking_metrics_by_user(
    recommended: npt.ArrayLike,
    relevant: Relevance,
    num_items: int,
    *,
    k: int = 25,
) -> dict[str, npt.NDArray[Any]]:
    """Judge the list of each user, so as to average over groups of users.

    The formulas are those of `ranking_metrics`, without the means. Coverage isn't
    there: it has no value of a single user.

    Args:
        recommended: positions of the recommended items, shape `(users, places)`, as in
            `ranking_metrics`.
        relevant: the relevant items of each user.
        num_items: number of items in the catalogue, a positive integer.
        k: number of places to judge, a positive integer. Defaults to 25.

    Returns:
        Arrays with one entry for each user who has a relevant item: `"user"`, the row
        of `recommended` (int64, ascending), and `"precision"`, `"recall"`,
        `"average_precision"`, `"ndcg"` and `"hit"` (float64, from 0 to 1).

    Raises:
        ValueError: if a list has fewer than k places or an item twice, or a position
            lies outside the catalogue or the lists.

    Example:

    >>> relevant = fmlayers.metrics.Relevance(
    ...     users=np.array([0, 0, 2]), items=np.array([2, 4, 0])
    ... )
    >>> lists = [[4, 1, 2], [3, 1, -1], [3, 4, 1]]
    >>> by_user = fmlayers.metrics.ranking_metrics_by_user(lists, relevant, 5, k=2)
    >>> by_user["user"], by_user["recall"]
    (array([0, 2]), array([0.5, 0. ]))

    References:
        As in `ranking_metrics`.
    """
    k, num_items = integer("k", k), integer("num_items", num_items)
    lists = _check_lists(recommended, num_items, k)
    users, items = _check_relevant(relevant, num_items, len(lists))
    pairs = np.sort(users * num_items + items)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    num_relevant = np.bincount(pairs // num_items)
    judged = np.flatnonzero(num_relevant)
    lists, num_relevant = lists[judged], num_relevant[judged]

    wanted = judged[:, None] * num_items + lists
    found = pairs.take(np.searchsorted(pairs, wanted), mode="clip") == wanted
    # An empty place, -1, would be the last item of the user before.
    hits = found & (lists >= 0)  # (judged, k)
    num_hits = hits.sum(axis=1)
    places = np.arange(1, k + 1)
    possible = np.minimum(num_relevant, k)

    precisions = hits.cumsum(axis=1) / places
    discounts = 1 / np.log2(places + 1)
    # Summed in the order of the ideal, so that a perfect list gets exactly 1.
    gains = (hits * discounts).cumsum(axis=1)[:, -1]
    return {
        "user": judged,
        "precision": num_hits / k,
        "recall": num_hits / num_relevant,
        "average_precision": (precisions * hits).sum(axis=1) / possible,
        "ndcg": gains / discounts.cumsum()[possible - 1],
        "hit": (num_hits > 0).astype(np.float64),
    }


def _check_lists(
    recommended: npt.ArrayLike, num_items: int, k: int
) -> npt.NDArray[np.int64]:
    lists = np.asarray(recommended)
    if lists.ndim != 2 or lists.shape[1] < k:
        raise ValueError(
            f"`recommended` must have the shape (users, places) with k={k} places or "
            "more. Lower `k`, or fill the lists up with -1. "
            f"Received: shape {lists.shape}."
        )
    if lists.dtype.kind not in "iu":
        raise ValueError(
            f"`recommended` must be integer positions. Received: dtype {lists.dtype}."
        )
    lists = lists[:, :k]
    outside = (lists < -1) | (lists >= num_items)
    if outside.any():
        row, place = np.argwhere(outside)[0]
        raise ValueError(
            "`recommended` must be positions from 0 to num_items - 1, or -1 where a "
            f"place has no item. Received: {lists[row, place]} in row {row}, with "
            f"num_items={num_items}."
        )
    ascending = np.sort(lists, axis=1)
    again = (np.diff(ascending, axis=1) == 0) & (ascending[:, 1:] >= 0)
    if again.any():
        row, place = np.argwhere(again)[0]
        raise ValueError(
            "`recommended` must have an item once in a list. "
            f"Received: item {ascending[row, place]} more than once in row {row}."
        )
    return lists.astype(np.int64)


def _check_relevant(
    relevant: Relevance, num_items: int, num_users: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    users = check_positions("relevant.users", relevant.users)
    items = check_positions("relevant.items", relevant.items)
    check_lengths(**{"relevant.users": users, "relevant.items": items})
    if len(users) and users.max() >= num_users:
        raise ValueError(
            "`relevant.users` must be rows of `recommended`. "
            f"Received: user {users.max()}, with {num_users} rows."
        )
    if len(items) and items.max() >= num_items:
        raise ValueError(
            "`relevant.items` must be positions in the catalogue. "
            f"Received: item {items.max()}, with num_items={num_items}."
        )
    return users, items
