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
    """Finds the sides of a new user from a few ratings, all other weights fixed.

    The user's own weight w and vector p minimise what training would, over their n
    ratings r_j of the items I_j:

        sum_j (r_j - scaler(score_j))^2 + n * linear_l2 * w^2 + n * l2 * |p|^2
        score_j = b + c_R + w + <p, s_R> + c_Ij + <s_R + p, s_Ij>

    with R the query's other features (age, sex, ...), as far as they are given. It is
    one ridge regression on the vectors s_Ij + s_R, of dim + 1 unknowns, the step that
    alternating least squares takes for a user. Under `RatingScaler`'s `"sigmoid"` it
    is repeated about the current solution until that stays (Gauss-Newton); under
    `"clip"` the scores themselves are fitted.

    Fields that read the user's own entry, such as a history, are left out with it. Of
    an `Ensemble` the error is that of the members' mean.

    Args:
        top_n: A `TopN` with its items indexed, of a model that is exact.
        positions: Integers `(n,)`, the positions of the items that the user rated or
            likes, at least one.
        ratings: Optional numbers `(n,)` on the scale of the data. By default every
            item has the scaler's highest rating.
        inputs: Optional dict with the entries of all the query's other features, one
            row. By default nothing is known of them.
        user_feature: Name of the feature whose weights are found. Defaults to
            `"user"`.
        l2: Optional float, at least 0. Defaults to the model's own for the feature.
        linear_l2: As `l2`, for w.
        fit_bias: Boolean, whether w is fitted; without, it is 0, as it is in a model
            without biases. Defaults to `True`.

    Returns:
        c_Q `(1, 1)` and s_Q `(1, dim)` in float32, which `TopN.rank` takes.

    Raises:
        ValueError: If an argument breaks its constraint.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> top = fmlayers.retrieval.TopN(model, ["item"], num_items=90)
    >>> top = top.index({"item": np.arange(90)})
    >>> sides = fmlayers.retrieval.fold_in(top, [3, 7], ratings=[5, 4])
    >>> scores, positions = top.rank(*sides, exclude=np.array([[3, 7]]))

    References:
        - Rendle, S. and Schmidt-Thieme, L. (2008). Online-Updating Regularized Kernel
          Matrix Factorization Models for Large-Scale Recommender Systems. RecSys (new
          users, all else fixed).
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
            "`top_n` must be of a model whose sides make up its score. "
            f"Received: one of {type(model).__name__}."
        )
    scaler = model.scaler
    if not isinstance(scaler, RatingScaler | None):
        raise ValueError(
            "`top_n` must be of a model whose scaler is a `RatingScaler` or None. "
            f"Received: {scaler!r}."
        )
    wanted = _ratings(ratings, len(positions), scaler)
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
    found = _minimise(design, base, wanted, ridge, scaler)
    w, p = found[0], found[1:]
    constant = constant + w + vector @ p[:, None]
    return constant.astype("float32"), (vector + p).astype("float32")


def _minimise(
    design: Floats, base: Floats, wanted: Floats, ridge: Floats, scaler: Any
) -> Floats:
    """Returns x that minimises |wanted - scaler(base + design x)|^2 + sum ridge x^2."""
    x = np.zeros(design.shape[1])

    def residuals(x: Floats) -> tuple[Floats, Floats]:
        rating, slope = _rating_and_slope(base + design @ x, scaler)
        return wanted - rating, slope

    def loss(x: Floats) -> float:
        return float(np.sum(residuals(x)[0] ** 2) + np.sum(ridge * x**2))

    for _ in range(50):
        residual, slope = residuals(x)
        # As one least-squares problem, which has a solution where l2 is 0, too.
        rows = np.concatenate([design * slope[:, None], np.diag(np.sqrt(ridge))])
        aim = np.concatenate([residual, -np.sqrt(ridge) * x])
        step = np.linalg.lstsq(rows, aim, rcond=None)[0]
        size = 1.0
        while size > 1e-6 and loss(x + size * step) > loss(x):
            size /= 2.0
        x = x + size * step
        if size * np.abs(step).max() <= 1e-9 * (1.0 + np.abs(x).max()):
            break
    return x


def _rating_and_slope(score: Floats, scaler: Any) -> tuple[Floats, Floats]:
    if scaler is not None and scaler.method == "sigmoid":
        span = scaler.max_rating - scaler.min_rating
        share = 0.5 * (1.0 + np.tanh(0.5 * score))
        return scaler.min_rating + span * share, span * share * (1.0 - share)
    return score, np.ones_like(score)


def _other_features(top_n: TopN, name: str) -> list[str]:
    """Returns the query's features that read no entry of the user's."""
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
                "`ratings` must be given where the model has no `scaler` to tell the "
                "highest by. Received: ratings=None."
            )
        return np.full(count, scaler.max_rating)
    wanted = np.asarray(ratings, "float64")
    if wanted.shape != (count,) or not np.isfinite(wanted).all():
        raise ValueError(
            f"`ratings` must be finite, one a position, {count} in all. "
            f"Received: {wanted.tolist()}."
        )
    return wanted
