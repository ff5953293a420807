"""Training that does not depend on the unit of the targets.

A model is trained on targets of the standard deviation for which the defaults were
chosen, and then rescaled to the unit of the data. The defaults therefore suit ratings
from 1 to 5, percentages and prices alike, and a linear map of the targets maps the
predictions.
"""

from dataclasses import dataclass
from typing import Self

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._training.execution import forget_functions
from fmlayers.layers import RatingScaler
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.targets import weights_of
from fmlayers.scoring_model import ScoringModel

# Of the ratings of MovieLens 100K and 1M, on which the defaults were chosen.
REFERENCE_STD = 1.12


@dataclass(frozen=True)
class Unit:
    """The mean and the size of the targets of a run.

    Attributes:
        mean: Float, the mean of the targets that a model is fitted to.
        size: Float, their standard deviation divided by `REFERENCE_STD`.
    """

    mean: float
    size: float

    @classmethod
    def of(cls, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Self:
        """Returns the unit of the targets that a model is fitted to.

        Args:
            targets: Array of numbers, transformed if the model is trained so.
            weights: Optional array of weights of the rows.
        """
        values = np.asarray(targets, np.float64)
        weights = None if weights is None else np.asarray(weights, np.float64)
        mean = np.average(values, weights=weights)
        variance = np.average(np.square(values - mean), weights=weights)
        # Equal targets have no standard deviation: such a model has nothing to learn.
        return cls(float(mean), float(np.sqrt(variance)) / REFERENCE_STD or 1.0)

    @classmethod
    def of_rows(cls, config: TrainingConfig, table: pd.DataFrame) -> Self:
        """Returns the unit of the targets of the rows to fit to."""
        targets = transformed(config, table["rating"])
        return cls.of(targets, weights_of(config, table))

    def of_data(
        self, config: TrainingConfig, targets: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Returns targets of the data in this unit, as scores of a model."""
        return (transformed(config, targets) - self.mean) / self.size

    def loss_weight(self) -> float:
        """Returns the weight of the squared error that makes it free of the unit."""
        return self.size**-2


def transformed(
    config: TrainingConfig, targets: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Returns targets after the target transform of a run."""
    values = np.asarray(targets, np.float64)
    return np.log1p(values) if config.target_transform == "log1p" else values


def to_unit_of_data(model: keras.Model) -> None:
    """Rescales the weights of a trained model, so that its score is in the data's unit.

    The ratings stay the same, up to rounding. A model that does not define `rescale`
    keeps its weights, and its scaler the unit.
    """
    if not isinstance(model, ScoringModel) or not isinstance(
        model.scaler, RatingScaler
    ):
        return
    scaler = model.scaler
    try:
        model.rescale(scaler.scale, scaler.offset)
    except NotImplementedError:
        return
    for each in (model, *model.members):
        each.scaler.scale, each.scaler.offset = 1.0, 0.0
    forget_functions(model)  # they contain the former unit
