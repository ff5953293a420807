"""The targets of a run: numbers, labels, or the positives of implicit feedback."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fmlayers.data import DataError, Dataset
from fmlayers.runs.config import TrainingConfig


def with_targets(dataset: Dataset, config: TrainingConfig) -> Dataset:
    """Returns a dataset whose ratings are the targets of a task.

    Labels are 1 if the rating is at least `config.positive_threshold`, or as they are
    if there is no threshold. Numbers and implicit feedback stay as they are.

    Raises:
        DataError: If the ratings are not targets of the task.
    """
    ratings = dataset.ratings["rating"]
    if config.task == "regression":
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
