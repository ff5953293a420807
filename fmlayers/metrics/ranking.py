"""Metrics of top-k recommendations.

The metrics compare recommendations from the whole catalog, without the items that the
user had in training, with the items that are relevant in the test set. Other
procedures that go by the same names measure something else:

- Predicted ratings cut at a threshold have no meaningful MAP: only items that the user
  rated are ranked.
- Rankings of the relevant items among a sample of other items have different values,
  which can even reverse the order of two models (Krichene and Rendle, 2020).
- Recommendations that contain an item more than once are invalid; they are rejected.

An item that the user did not rate counts as irrelevant, although the user might have
liked it. This favors models that recommend popular items.
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
    """Computes precision, recall, MAP, NDCG and other metrics of recommendations.

    The metrics are means over the users who have a relevant item. For a user with R
    relevant items:

        precision = hits / k
        recall    = hits / R
        map       = 1 / min(k, R)  sum_{i<=k} precision@i rel_i
        ndcg      = sum_{i<=k} rel_i / log2(i + 1)
                    / sum_{i<=min(k, R)} 1 / log2(i + 1)
        hit_rate  = 1 if hits > 0 else 0

    where rel_i is 1 if the item at rank i is relevant and 0 otherwise, hits is the sum
    of the rel_i of the first k ranks, and precision@i is the precision of the first i
    ranks. Recommendations that start with min(k, R) relevant items score 1, except
    that their precision is below 1 if R < k and their recall is below 1 if R > k. A
    rank without an item counts as irrelevant. One more metric covers all users,
    including those without a relevant item:

        coverage  = distinct recommended items / num_items

    Other libraries define MAP differently: ranx, keras-rs and trec_eval divide the sum
    by R, so perfect recommendations score k / R if k < R. RecBole, implicit and the
    `map_at_k` of recommenders use the definition above. Both agree if k >= R.

    The computation takes one sort and one binary search over pairs of users and items.
    Unlike the metrics of scikit-learn and keras-rs, it needs no matrix of users by
    items.

    Args:
        recommended: Positions of the recommended items in the catalog, integers from 0
            to `num_items - 1` of shape `(users, ranks)`, the best first, with -1 for a
            rank without an item. There must be at least k ranks; the first k are
            evaluated. The items that the user had in training must be excluded
            beforehand: this function cannot check it.
        relevant: `Relevance`, the relevant items of each user. The users are rows of
            `recommended`.
        num_items: Positive integer, the number of items in the catalog.
        k: Positive integer, the number of ranks to evaluate. Defaults to 25.

    Returns:
        A dict with the metrics above, each from 0 to 1, and `"users"`, the number of
        users who have a relevant item.

    Raises:
        ValueError: If no user has a relevant item, `recommended` has fewer than k
            ranks or an item twice in a row, or a position is out of range.

    Example:

    >>> relevant = fmlayers.metrics.Relevance(
    ...     users=np.array([0, 0, 1]), items=np.array([2, 4, 0])
    ... )
    >>> top = [[4, 1, 2], [3, 1, -1], [3, 4, 1]]
    >>> metrics = fmlayers.metrics.ranking_metrics(top, relevant, num_items=5, k=3)
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
          Techniques. ACM TOIS 20(4) (NDCG; its discount starts at rank 3).
        - Burges, C. et al. (2005). Learning to Rank Using Gradient Descent. ICML (the
          discount log(i + 1)).
        - Deshpande, M. and Karypis, G. (2004). Item-Based Top-N Recommendation
          Algorithms. ACM TOIS 22(1) (hit rate).
        - Ge, M., Delgado-Battenfeld, C. and Jannach, D. (2010). Beyond Accuracy.
          RecSys (catalog coverage).
        - Tamm, Y.-M., Damdinov, R. and Vasilev, A. (2021). Quality Metrics in
          Recommender Systems: Do We Calculate Metrics Consistently? RecSys.
        - Krichene, W. and Rendle, S. (2020). On Sampled Metrics for Item
          Recommendation. KDD.
    """
    by_user = ranking_metrics_by_user(recommended, relevant, num_items, k=k)
    num_users = len(by_user["user"])
    if num_users == 0:
        raise ValueError(
            "`relevant` must contain at least one pair of a user and an item. "
            "Received: none."
        )
    covered = np.zeros(num_items, dtype=bool)
    top = np.asarray(recommended)[:, :k]
    covered[top[top >= 0]] = True
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
    """Computes the ranking metrics of each user.

    Use it to average over groups of users. See `ranking_metrics` for the formulas.
    Coverage is not included, since it is not defined for a single user.

    Args:
        recommended: Same as in `ranking_metrics`.
        relevant: Same as in `ranking_metrics`.
        num_items: Same as in `ranking_metrics`.
        k: Same as in `ranking_metrics`.

    Returns:
        A dict of arrays with one entry for each user who has a relevant item:
        `"user"`, the row of `recommended` (int64, ascending), and `"precision"`,
        `"recall"`, `"average_precision"`, `"ndcg"` and `"hit"` (float64, from 0 to 1).

    Raises:
        ValueError: If `recommended` has fewer than k ranks or an item twice in a row,
            or a position is out of range.

    Example:

    >>> relevant = fmlayers.metrics.Relevance(
    ...     users=np.array([0, 0, 2]), items=np.array([2, 4, 0])
    ... )
    >>> top = [[4, 1, 2], [3, 1, -1], [3, 4, 1]]
    >>> by_user = fmlayers.metrics.ranking_metrics_by_user(top, relevant, 5, k=2)
    >>> by_user["user"], by_user["recall"]
    (array([0, 2]), array([0.5, 0. ]))

    References:
        See `ranking_metrics`.
    """
    k, num_items = integer("k", k), integer("num_items", num_items)
    top = _check_recommended(recommended, num_items, k)
    users, items = _check_relevant(relevant, num_items, len(top))
    pairs = np.sort(users * num_items + items)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    num_relevant = np.bincount(pairs // num_items)
    evaluated = np.flatnonzero(num_relevant)
    top, num_relevant = top[evaluated], num_relevant[evaluated]

    recommended_pairs = evaluated[:, None] * num_items + top
    nearest = pairs.take(np.searchsorted(pairs, recommended_pairs), mode="clip")
    # An item of -1 would be the last item of the previous user.
    hits = (nearest == recommended_pairs) & (top >= 0)  # (evaluated, k)
    num_hits = hits.sum(axis=1)
    ranks = np.arange(1, k + 1)
    possible = np.minimum(num_relevant, k)

    precisions = hits.cumsum(axis=1) / ranks
    discounts = 1 / np.log2(ranks + 1)
    # Summed in the same order as the ideal, so that a perfect NDCG is exactly 1.
    gains = (hits * discounts).cumsum(axis=1)[:, -1]
    return {
        "user": evaluated,
        "precision": num_hits / k,
        "recall": num_hits / num_relevant,
        "average_precision": (precisions * hits).sum(axis=1) / possible,
        "ndcg": gains / discounts.cumsum()[possible - 1],
        "hit": (num_hits > 0).astype(np.float64),
    }


def _check_recommended(
    recommended: npt.ArrayLike, num_items: int, k: int
) -> npt.NDArray[np.int64]:
    top = np.asarray(recommended)
    if top.ndim != 2 or top.shape[1] < k:
        raise ValueError(
            f"`recommended` must have the shape (users, ranks) with at least k={k} "
            "ranks. Lower `k`, or pad the rows with -1. "
            f"Received: shape {top.shape}."
        )
    if top.dtype.kind not in "iu":
        raise ValueError(
            f"`recommended` must be integer positions. Received: dtype {top.dtype}."
        )
    top = top[:, :k]
    outside = (top < -1) | (top >= num_items)
    if outside.any():
        row, rank = np.argwhere(outside)[0]
        raise ValueError(
            "`recommended` must be positions from 0 to num_items - 1, or -1 for a rank "
            f"without an item. Received: {top[row, rank]} in row {row}, with "
            f"num_items={num_items}."
        )
    ascending = np.sort(top, axis=1)
    repeated = (np.diff(ascending, axis=1) == 0) & (ascending[:, 1:] >= 0)
    if repeated.any():
        row, rank = np.argwhere(repeated)[0]
        raise ValueError(
            "`recommended` must not contain an item twice in a row. "
            f"Received: item {ascending[row, rank]} more than once in row {row}."
        )
    return top.astype(np.int64)


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
            "`relevant.items` must be positions in the catalog. "
            f"Received: item {items.max()}, with num_items={num_items}."
        )
    return users, items
