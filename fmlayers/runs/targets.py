"""The targets of a run: numbers, labels, or the positives of implicit feedback."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data import DataError, Dataset
from fmlayers.runs.config import TrainingConfig

# The skewness from which a target has a long tail; that of exponential waiting times,
# without their highest half percent, is 1.7.
LONG_TAIL = 1.5


def with_targets(dataset: Dataset, config: TrainingConfig) -> Dataset:
    """Returns a dataset whose ratings are the targets of a task, with their weights.

    Labels are 1 if the rating is at least `config.positive_threshold`, or as they are
    if there is no threshold. Numbers and implicit feedback stay as they are.

    Raises:
        DataError: If the ratings are not targets of the task, or the weights are
            invalid.
    """
    if config.weight is not None:
        dataset = replace(dataset, weight=config.weight)
    elif dataset.weight is not None:
        raise DataError(
            f"The weights {dataset.weight!r} of {dataset.name} must be named in the "
            "configuration, too: set `weight`, or leave them out of the `Dataset`."
        )
    ratings = dataset.ratings["rating"]
    if config.task == "regression":
        _check_transform(config, dataset)
        return dataset
    values = np.unique(ratings)
    is_label = np.array_equal(values, [0.0, 1.0])
    if config.task == "implicit":
        if not dataset.has_pairs:
            raise DataError(
                f"Implicit feedback needs users and items, which {dataset.name} lacks. "
                "Name their columns with `user` and `item`, or use the task 'binary' "
                "or 'regression'."
            )
        if is_label and config.positive_threshold is None:
            raise DataError(
                f"The target of {dataset.name} is a label, 0 or 1. Predict it with the "
                "task 'binary', or train on the rows of the label 1 with "
                "`positive_threshold` 1."
            )
        return dataset
    if config.positive_threshold is not None:
        labels = (ratings >= config.positive_threshold).astype(np.float64)
        if labels.nunique() < 2:
            raise DataError(
                "`positive_threshold` must leave targets on both sides. Received: "
                f"positive_threshold={config.positive_threshold:g}, with targets from "
                f"{values[0]:g} to {values[-1]:g}."
            )
        return replace(dataset, ratings=dataset.ratings.assign(rating=labels))
    if not is_label:
        raise DataError(
            f"The target of {dataset.name} must be a label with two values for the "
            f"task 'binary'. Received: {len(values):,} values from {values[0]:g} to "
            f"{values[-1]:g}. Choose the positives with `positive_threshold`, or use "
            "the task 'regression'."
        )
    return dataset


def positives(
    config: TrainingConfig, dataset: Dataset, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Returns the rows to train on: all, or the positives of implicit feedback.

    Raises:
        DataError: If no row is a positive.
    """
    if config.task != "implicit" or config.positive_threshold is None:
        return rows
    ratings = dataset.ratings["rating"].to_numpy()
    chosen = rows[ratings[rows] >= config.positive_threshold]
    if not len(chosen):
        raise DataError(
            "`positive_threshold` must be at most the highest target of the training "
            f"rows. Received: positive_threshold={config.positive_threshold:g}."
        )
    return chosen


def _check_transform(config: TrainingConfig, dataset: Dataset) -> None:
    lowest, _ = dataset.rating_bounds
    if config.target_transform == "log1p" and lowest < 0.0:
        raise DataError(
            f"The target of {dataset.name} must be at least 0 for the target transform "
            f"'log1p'. Received: {lowest:g}. Leave out `target_transform`, or add a "
            "constant to the target."
        )


def weights_of(
    config: TrainingConfig, table: pd.DataFrame
) -> npt.NDArray[np.float64] | None:
    """Returns the weights of rows, of mean 1, or `None` if the run has no weights.

    With a mean of 1, the learning rate and the L2 mean the same as without weights.

    Args:
        config: The configuration.
        table: The rows.

    Raises:
        DataError: If all weights are 0.
    """
    if config.weight is None:
        return None
    weights = table[config.weight].to_numpy(np.float64)
    if not weights.any():
        raise DataError(
            f"The weights in column {config.weight!r} must not all be 0 in the "
            "training rows, the validation rows or the test rows."
        )
    weights = weights / weights.max()  # their sum may overflow
    normalized: npt.NDArray[np.float64] = weights / weights.mean()
    return normalized


def transform_hint(config: TrainingConfig, targets: "pd.Series[float]") -> list[str]:
    """Returns a line that advises to transform targets with a long tail, if they have.

    They have one if they are at least 0, their skewness is more than `LONG_TAIL`, and
    their logarithms are less than half as skewed. The lowest and the highest half
    percent are moved to the bounds of the rest, so that single outliers don't count.
    """
    values = targets.to_numpy(np.float64)
    if config.task != "regression" or config.target_transform != "none":
        return []
    if values.min() < 0.0 or _skewness(values) < LONG_TAIL:
        return []
    if abs(_skewness(np.log1p(values))) > _skewness(values) / 2.0:
        return []
    return [
        f"target: its tail is long (median {np.median(values):g}, highest "
        f"{values.max():g}); --target-transform log1p trains on its logarithm"
    ]


def _skewness(values: npt.NDArray[Any]) -> float:
    clipped = np.clip(values, *np.quantile(values, (0.005, 0.995)))
    centered = clipped - clipped.mean()
    deviation = float(centered.std())
    return float(np.mean((centered / deviation) ** 3)) if deviation else 0.0
