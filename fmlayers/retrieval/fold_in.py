from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._checks import coefficient
from fmlayers.layers import RatingScaler
from fmlayers.retrieval.top_n import TopN

Floats = npt.NDArray[np.float64]


def fold_in(
    top_n: TopN,
    positions: npt.ArrayLike,
    ratings: npt.ArrayLike | None = None,
    inputs: Mapping[str, Any] | None = None,
    *,
    user_feature: str = "user",
    l2: float | None = None,
    linear_l2: float | None = None,
    fit_bias: bool = True,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fits the query embedding of a new user to a few ratings.

    All weights of the model stay fixed. The first-order weight w and the vector p of
    the user minimize the training objective over the user's n ratings r_j of the items
    I_j:

        sum_j (r_j - scaler(score_j))^2 + n * linear_l2 * w^2 + n * l2 * |p|^2
        score_j = b + c_R + w + <p, s_R> + c_Ij + <s_R + p, s_Ij>

    where R are the other features of the query (age, sex, ...) in `inputs`. This is a
    ridge regression on the vectors s_Ij + s_R with dim + 1 unknowns, the update of a
    user in alternating least squares. For a `RatingScaler` with `"sigmoid"`, it is
    iterated until convergence (Gauss-Newton). For `"clip"`, the unclipped scores are
    fitted.

    Features that read the entry of the user, such as a history, are left out. For an
    `Ensemble`, the mean of the members is fitted.

    Args:
        top_n: A `TopN` with indexed items, of a model with an exact decomposition.
        positions: Integers of shape `(n,)`, the positions of the items that the user
            rated or likes, at least one.
        ratings: Optional numbers of shape `(n,)`, in the unit of the data. Defaults to
            the highest rating of the scaler for every item.
        inputs: Optional dict with one row for each entry of the other features of the
            query. Defaults to `None` (these features are unknown).
        user_feature: Name of the feature whose weights are fitted. Defaults to
            `"user"`.
        l2: Optional non-negative float, the L2 of p. Defaults to that of the feature
            in the model.
        linear_l2: Optional non-negative float, the L2 of w. Defaults to that of the
            feature in the model.
        fit_bias: Whether to fit w. If `False`, and for a model without biases, w is 0.
            Defaults to `True`.

    Returns:
        A tuple of the constant c_Q `(1, 1)` and the vector s_Q `(1, dim)` of the query
        in float32, for `TopN.rank`.

    Raises:
        ValueError: If an argument violates its constraint.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> top = fmlayers.retrieval.TopN(model, ["item"], num_items=90)
    >>> top = top.index({"item": np.arange(90)})
    >>> query = fmlayers.retrieval.fold_in(top, [3, 7], ratings=[5, 4])
    >>> scores, positions = top.rank(*query, exclude=np.array([[3, 7]]))

    References:
        - Rendle, S. and Schmidt-Thieme, L. (2008). Online-Updating Regularized Kernel
          Matrix Factorization Models for Large-Scale Recommender Systems. RecSys (new
          users, with all other weights fixed).
        - Zhou, Y., Wilkinson, D., Schreiber, R. and Pan, R. (2008). Large-Scale
          Parallel Collaborative Filtering for the Netflix Prize. AAIM, section 3 (the
          ridge regression, its L2 weighted by the number of ratings).
    """
    model = top_n.model
    rest = _other_features(top_n, user_feature)
    positions = np.asarray(positions)
    if (
        positions.ndim != 1
        or not positions.size
        or not np.issubdtype(positions.dtype, np.integer)
        or not 0 <= positions.min() <= positions.max() < top_n.num_items
    ):
        raise ValueError(
            "`positions` must be integers of shape (n,), at least one, from 0 to "
            f"{top_n.num_items - 1}. Received: {positions.tolist()}."
        )
    if not top_n.is_exact:
        raise ValueError(
            "`top_n` must be of a model with an exact decomposition. "
            f"Received: a model of type {type(model).__name__}."
        )
    scaler = model.scaler
    if not isinstance(scaler, RatingScaler | None):
        raise ValueError(
            "`top_n` must be of a model whose scaler is a `RatingScaler` or None. "
            f"Received: scaler={scaler!r}."
        )
    targets = _ratings(ratings, len(positions), scaler)
    item_constants = ops.convert_to_numpy(top_n.item_constants)[positions]
    item_vectors = ops.convert_to_numpy(top_n.item_vectors)[positions]
    constant, vector = np.zeros((1, 1)), np.zeros((1, item_vectors.shape[1]))
    if inputs is not None and rest:
        constant, vector = (
            ops.convert_to_numpy(x) for x in model.decompose(inputs, rest)
        )
    constant, vector = constant.astype("float64"), vector.astype("float64")
    if constant.shape != (1, 1):
        raise ValueError(
            f"`inputs` must have one row. Received: {constant.shape[0]} rows."
        )
    bias = model.bias
    base = constant[0] + item_constants + item_vectors @ vector[0]
    if bias is not None:
        base = base + ops.convert_to_numpy(bias)
    fit_bias = fit_bias and bias is not None
    design = np.column_stack(
        [np.full(len(positions), float(fit_bias)), item_vectors + vector]
    )
    trained = model.l2_of(user_feature)
    l2 = trained[0] if l2 is None else coefficient("l2", l2)
    linear_l2 = trained[1] if linear_l2 is None else coefficient("linear_l2", linear_l2)
    ridge = np.array([linear_l2] + [l2] * (design.shape[1] - 1)) * len(positions)
    solution = _minimize(design, base, targets, ridge, scaler)
    w, p = solution[0], solution[1:]
    constant = constant + w + vector @ p[:, None]
    return constant.astype("float32"), (vector + p).astype("float32")


def _minimize(
    design: Floats, base: Floats, targets: Floats, ridge: Floats, scaler: Any
) -> Floats:
    """Minimizes |targets - scaler(base + design x)|^2 + sum ridge x^2 over x."""
    x = np.zeros(design.shape[1])

    def residuals(x: Floats) -> tuple[Floats, Floats]:
        rating, slope = _rating_and_slope(base + design @ x, scaler)
        return targets - rating, slope

    def loss(x: Floats) -> float:
        return float(np.sum(residuals(x)[0] ** 2) + np.sum(ridge * x**2))

    for _ in range(50):
        residual, slope = residuals(x)
        # As a least-squares problem, which has a solution even if l2 is 0.
        rows = np.concatenate([design * slope[:, None], np.diag(np.sqrt(ridge))])
        goal = np.concatenate([residual, -np.sqrt(ridge) * x])
        step = np.linalg.lstsq(rows, goal, rcond=None)[0]
        size = 1.0
        while size > 1e-6 and loss(x + size * step) > loss(x):
            size /= 2.0
        x = x + size * step
        if size * np.abs(step).max() <= 1e-9 * (1.0 + np.abs(x).max()):
            break
    return x


def _rating_and_slope(score: Floats, scaler: Any) -> tuple[Floats, Floats]:
    if scaler is not None and scaler.method == "sigmoid":
        lowest, highest = scaler.bounds
        span = highest - lowest
        share = 0.5 * (1.0 + np.tanh(0.5 * score))
        return lowest + span * share, span * share * (1.0 - share)
    return score, np.ones_like(score)


def _other_features(top_n: TopN, name: str) -> list[str]:
    """Returns the features of the query that read no entry of the user feature."""
    query = [f for f in top_n.model.features if f.name in top_n.query_features]
    user = next((feature for feature in query if feature.name == name), None)
    if user is None:
        raise ValueError(
            f"`user_feature` must be one of {top_n.query_features}. Received: {name!r}."
        )
    return [f.name for f in query if not set(user.inputs) & set(f.inputs)]


def _ratings(ratings: npt.ArrayLike | None, count: int, scaler: Any) -> Floats:
    if ratings is None:
        if scaler is None:
            raise ValueError(
                "`ratings` must not be None for a model without a `scaler`, whose "
                "highest rating is unknown. Received: ratings=None."
            )
        return np.full(count, scaler.bounds[1])
    targets = np.asarray(ratings, "float64")
    if targets.shape != (count,) or not np.isfinite(targets).all():
        raise ValueError(
            f"`ratings` must be finite numbers, one per position, {count} in all. "
            f"Received: {targets.tolist()}."
        )
    if scaler is None or scaler.transform == "none":
        return targets
    if targets.min() < 0.0:
        raise ValueError(
            "`ratings` must be at least 0 for a model with a transform. "
            f"Received: {targets.tolist()}."
        )
    logarithms: Floats = np.log1p(targets)
    return logarithms
