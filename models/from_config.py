from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers import RatingScaler
from fmlayers.data import DataError, Encoder
from fmlayers.models.factorization_machine import FactorizationMachine
from fmlayers.models.matrix_factorization import MatrixFactorization
from fmlayers.training import TrainingConfig


def model_from_config(
    config: TrainingConfig, encoder: Encoder, ratings: npt.NDArray[np.float32]
) -> keras.Model:
    """Builds the model that a configuration names, its bias at the mean rating.

    Args:
        config: The configuration of a run.
        encoder: Fitted on the rows that `ratings` come from.
        ratings: The ratings to train on; their bounds are the scaler's.

    Raises:
        DataError: If all ratings are the same.
        ValueError: If the model is unknown, or cannot have the encoder's columns.
    """
    lowest, highest = float(ratings.min()), float(ratings.max())
    if lowest == highest:
        raise DataError(
            f"All {len(ratings):,} training ratings are {lowest}: there is nothing to "
            "tell apart."
        )
    scaler = RatingScaler(lowest, highest, config.scaler)
    mean = scaler.inverse(float(ratings.mean(dtype=np.float64)))
    options: dict[str, Any] = {
        "l2": config.l2,
        "linear_l2": config.linear_l2,
        "bias_initializer": keras.initializers.Constant(mean),
        "encoder": encoder,
    }
    if config.model == "fm":
        return FactorizationMachine(encoder.features, config.dim, scaler, **options)
    if config.model == "mf":
        if list(encoder.columns) != ["user", "item"]:
            raise ValueError(
                "`features` of the model 'mf' must be user and item. "
                f"Received: {list(encoder.columns)}."
            )
        user, item = encoder.features
        return MatrixFactorization(
            user,  # type: ignore[arg-type]  # checked by the model
            item,  # type: ignore[arg-type]
            config.dim,
            True,
            scaler,
            **options,
        )
    raise ValueError(f"`model` must be 'fm' or 'mf'. Received: model={config.model!r}.")
