from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from fmlayers import History, MultiCategorical, RatingScaler
from fmlayers._types import WITH_TOWER
from fmlayers.data import DataError, Encoder
from fmlayers.models.deepfm import DeepFM
from fmlayers.models.ensemble import Ensemble
from fmlayers.models.factorization_machine import FactorizationMachine
from fmlayers.models.libfm import LibFM
from fmlayers.models.matrix_factorization import MatrixFactorization
from fmlayers.models.neural_matrix_factorization import NeuralMatrixFactorization
from fmlayers.training.config import HISTORIES, TrainingConfig

OF_FIELDS = {"fm": FactorizationMachine, "deepfm": DeepFM, "libfm": LibFM}
OF_USER_AND_ITEM = {"mf": MatrixFactorization, "neumf": NeuralMatrixFactorization}


def model_from_config(
    config: TrainingConfig, encoder: Encoder, table: pd.DataFrame
) -> keras.Model:
    """Builds the model that a configuration names.

    Args:
        config: The configuration of a run.
        encoder: Fitted on `table`.
        table: The rows to train on. The bias starts at the mean of their ratings, the
            scaler's bounds are the lowest and the highest; the histories are of their
            users and items.

    Raises:
        DataError: If all ratings are the same.
        ValueError: If the model cannot have the encoder's columns.
    """
    ratings = table["rating"].to_numpy(np.float32)
    scaler, bias = None, 0.0  # of clicks, where scores are no ratings
    if config.loss == "mse":
        lowest, highest = float(ratings.min()), float(ratings.max())
        if lowest == highest:
            raise DataError(
                f"All {len(ratings):,} training ratings are {lowest}: there is nothing "
                'to tell apart. Take them as clicks, with the loss "bce" or "bpr".'
            )
        scaler = RatingScaler(lowest, highest, config.scaler)
        bias = scaler.inverse(float(ratings.mean(dtype=np.float64)))
    options: dict[str, Any] = {
        "scaler": scaler,
        "l2": config.l2,
        "embeddings_initializer": keras.initializers.RandomNormal(
            stddev=config.init_stddev
        ),
        "bias_initializer": keras.initializers.Constant(bias),
        "encoder": encoder if config.members == 1 else None,
    }
    if config.model in WITH_TOWER:
        options["dropout"] = config.dropout
        if config.hidden_units is not None:
            options["hidden_units"] = config.hidden_units
    if config.model in OF_FIELDS:
        make = partial(_of_fields, config, encoder, table, options)
    else:
        make = partial(_of_user_and_item, config, encoder, options)
    if config.members == 1:
        return make()
    return Ensemble.of(config.members, make, encoder=encoder)


def _of_fields(
    config: TrainingConfig,
    encoder: Encoder,
    table: pd.DataFrame,
    options: dict[str, Any],
) -> keras.Model:
    pairs = _pairs(encoder, table) if config.histories else None
    features = [
        replace(feature, combiner=config.combiner)
        if isinstance(feature, MultiCategorical)
        else feature
        for feature in encoder.features
    ]
    if pairs is not None:
        sizes = {
            key: len(encoder.vocabulary(key)) + 1  # the id 0
            for key in ("user", "item")
        }
        features += [
            History(
                name,
                sizes[value],
                of=key,
                num_keys=sizes[key],
                values=value,
                num_pairs=len(pairs),
            )
            for name, key, value in zip(
                HISTORIES, ("user", "item"), ("item", "user"), strict=True
            )
        ]
    names = [feature.name for feature in features]
    unknown = sorted(set(config.l2_of) - set(names))
    if unknown:
        raise ValueError(
            f"`l2_of` must name features among {names}. Received: {unknown}."
        )
    l2 = {name: config.l2_of.get(name, config.l2) for name in names}
    model = OF_FIELDS[config.model](
        features,
        config.dim,
        linear_l2=config.linear_l2,
        **{**options, "l2": l2},
    )
    if pairs is not None:
        users, items = pairs.T
        model.factors.set_history(HISTORIES[0], users, items)
        model.factors.set_history(HISTORIES[1], items, users)
    return model


def _pairs(encoder: Encoder, table: pd.DataFrame) -> Any:
    """Returns the ids of users and items that go together in `table`, each once."""
    for column in ("user", "item"):
        if encoder.columns.get(column) != "categorical":
            raise ValueError(
                "`histories` need the features user and item. "
                f"Received: features={list(encoder.columns)}."
            )
    ids = [encoder.encode(column, table[column]) for column in ("user", "item")]
    pairs = np.unique(np.stack(ids, axis=1), axis=0)
    return pairs[(pairs > 0).all(axis=1)]


def _of_user_and_item(
    config: TrainingConfig,
    encoder: Encoder,
    options: dict[str, Any],
) -> keras.Model:
    if list(encoder.columns) != ["user", "item"] or config.histories:
        raise ValueError(
            f"`features` of the model {config.model!r} must be user and item, without "
            f"`histories`. Received: {list(encoder.columns)}, "
            f"histories={config.histories}."
        )
    if config.model == "mf":
        options = {**options, "linear_l2": config.linear_l2}
    user, item = encoder.features
    return OF_USER_AND_ITEM[config.model](user, item, config.dim, **options)
