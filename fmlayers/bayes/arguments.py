"""Checks of the arguments of a `GibbsSampler` and of its fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer
from fmlayers.bayes.likelihoods import LikelihoodName
from fmlayers.bayes.priors import Matrix
from fmlayers.features import Feature
from fmlayers.layers import FeatureEmbedding

MAX_BURN_IN = 20  # by default


def check_tables(features: Sequence[Feature]) -> None:
    """Raises `ValueError` unless each feature has a separate table."""
    FeatureEmbedding(features, 1)  # checks the features
    tables = [f.table_name for f in features if f.table_name is not None]
    shared = {name for name in tables if tables.count(name) > 1}
    if shared:
        raise ValueError(
            "`features` must have separate tables. Received: table "
            f"{min(shared)!r} of several features."
        )


def check_callbacks(callbacks: Any) -> None:
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise ValueError(
            "`callbacks` must be a list of functions of the number of the sweep and a "
            "dict of its figures; callbacks of Keras are not supported. "
            f"Received: callbacks={callbacks!r}."
        )


def burn_in_of(burn_in: int | None, sweeps: int) -> int:
    """Returns the number of first sweeps that are not used."""
    if burn_in is None:
        burn_in = min(MAX_BURN_IN, sweeps // 2)
    return integer(
        "burn_in",
        burn_in,
        "a nonnegative integer less than `sweeps`",
        least=0,
        most=sweeps - 1,
        of=f", sweeps={sweeps}",
    )


def targets_of(name: str, targets: npt.ArrayLike, likelihood: LikelihoodName) -> Matrix:
    """Returns the targets of the argument `name` as floats `(examples,)`."""
    y = _numbers(name, targets)
    is_fitted = name == "targets"
    if likelihood == "probit":
        labels = np.unique(y)
        if not np.isin(labels, (0, 1)).all() or (is_fitted and len(labels) < 2):
            raise ValueError(
                f'`{name}` must be labels 0 and 1 with the likelihood "probit"'
                f'{", and contain both" if is_fitted else ""}. Use "normal" for '
                f"other numbers. Received: {labels[:3].tolist()}."
            )
    return y


def weights_of(
    sample_weight: npt.ArrayLike | None, count: int, likelihood: LikelihoodName
) -> Matrix:
    """Returns the weights of `count` examples."""
    if sample_weight is None:
        return np.ones(count)
    if likelihood == "probit":
        raise ValueError(
            '`sample_weight` must be left out with the likelihood "probit". Repeat '
            f"examples instead. Received: {type(sample_weight).__name__}."
        )
    weights = _numbers("sample_weight", sample_weight, count)
    if (weights < 0).any() or not weights.any():
        raise ValueError(
            "`sample_weight` must be nonnegative, and not all 0. Received: weights "
            f"from {weights.min():g} to {weights.max():g}."
        )
    return weights


def pair_of(name: str, value: Any) -> tuple[Any, Any]:
    """Returns the inputs and the targets of the argument `name`."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise ValueError(
            f"`{name}` must be a tuple (inputs, targets). "
            f"Received: {type(value).__name__}{size}."
        )
    inputs, targets = value
    return inputs, targets


def _numbers(name: str, x: npt.ArrayLike, count: int | None = None) -> Matrix:
    wanted = "(examples,), not empty" if count is None else f"({count},)"
    rule = f"`{name}` must be finite numbers of shape {wanted}"
    try:
        numbers = np.asarray(x, np.float64)
    except (TypeError, ValueError) as reason:
        received = str(reason).rstrip(".")
        raise ValueError(f"{rule}. Received: {received}.") from reason
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    is_right = numbers.ndim == 1 and len(numbers) and count in (None, len(numbers))
    if not is_right:
        raise ValueError(f"{rule}. Received: shape {numbers.shape}.")
    missing = np.flatnonzero(~np.isfinite(numbers))
    if len(missing):
        raise ValueError(
            f"{rule}. Remove the rows without one. Received: {numbers[missing[0]]} in "
            f"row {missing[0]}, and {len(missing)} such rows in all."
        )
    return numbers
