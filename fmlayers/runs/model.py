import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data import DataError, Encoder
from fmlayers.features import Feature, History, MultiCategorical
from fmlayers.layers import RatingScaler
from fmlayers.models.ensemble import Ensemble
from fmlayers.models.specs import ModelSpec, find
from fmlayers.runs.config import HISTORIES, TrainingConfig
from fmlayers.runs.targets import weights_of
from fmlayers.runs.unit import Unit

Pairs = npt.NDArray[np.int64]


class Frame(NamedTuple):
    """What both phases of a run share, so that their models have the same graph.

    Attributes:
        features: The features of the encoder of all training rows.
        unit: The unit of the targets of the rows of the first phase. `None` if the
            targets have no unit.
    """

    features: list[Feature]
    unit: Unit | None

    @classmethod
    def of(
        cls,
        config: TrainingConfig,
        first: tuple[Encoder, pd.DataFrame],
        second: tuple[Encoder, pd.DataFrame],
    ) -> Self | None:
        """Returns the frame of a run.

        Args:
            config: The configuration.
            first: The encoder and the rows of the first phase.
            second: The encoder and the rows of the second phase.

        Returns:
            The frame. `None` if a feature has fewer ids in the second encoder, as
            quantiles of more rows may.
        """
        sizes = [
            [getattr(feature, "vocabulary_size", 0) for feature in encoder.features]
            for encoder, _ in (first, second)
        ]
        if any(one > other for one, other in zip(*sizes, strict=True)):
            return None
        num_pairs = len(_pairs(*second)) if config.histories else 0
        unit = Unit.of_rows(config, first[1]) if config.task == "regression" else None
        return cls(features_of(config, second[0], num_pairs), unit)


def build_model(
    config: TrainingConfig,
    encoder: Encoder,
    table: pd.DataFrame,
    frame: Frame | None = None,
) -> keras.Model:
    """Returns a new model with the settings of a configuration.

    Args:
        config: The configuration of a run.
        encoder: The encoder, fitted on `table`.
        table: The rows to train on. The bias starts at the score of their mean rating,
            the bounds of the scaler are their lowest and highest rating, and the
            histories contain their users and items.
        frame: Optional `Frame`. Defaults to that of `encoder` and `table`.

    Raises:
        DataError: If all ratings are equal, or one is infinite in float32.
        ValueError: If the model does not support the columns of the encoder.
    """
    spec = find(config.model)
    check_columns(spec, list(encoder.columns), histories=config.histories)
    pairs = _pairs(encoder, table) if config.histories else None
    features = features_of(config, encoder, 0 if pairs is None else len(pairs))
    unit = None
    if frame is not None:
        features, unit = frame
    arguments = {
        **_common_arguments(config, features, table, unit),
        **{name: getattr(config, name) for name in spec.settings},
        "encoder": encoder if config.members == 1 else None,
    }
    if arguments.get("hidden_units", ()) is None:
        arguments["hidden_units"] = spec.hidden_units
    make = partial(_model, spec, features, pairs, arguments)
    if config.members == 1:
        return make()
    return Ensemble.of(config.members, make, encoder=encoder)


def is_of_package(model: keras.Model) -> bool:
    """Returns whether a model, and each of its members, has a class of this package."""
    parts = (model, *getattr(model, "members", ()))
    return all(type(part).__module__.split(".")[0] == "fmlayers" for part in parts)


def check_columns(spec: ModelSpec, columns: list[str], *, histories: bool) -> None:
    """Checks that a model supports some columns, with or without histories.

    Raises:
        ValueError: If it does not.
    """
    if spec.columns == "user and item" and (columns != ["user", "item"] or histories):
        raise ValueError(
            f"`features` of the model {spec.name!r} must be user and item, without "
            f"`histories`. Received: {columns}, histories={histories}."
        )


def features_of(
    config: TrainingConfig, encoder: Encoder, num_pairs: int
) -> list[Feature]:
    """Returns the features of a run's model: those of the encoder and the histories.

    Args:
        config: The configuration of the run.
        encoder: The encoder.
        num_pairs: Number of distinct pairs of a user and an item in the histories.
    """
    features: list[Feature] = [
        replace(feature, combiner=config.combiner)
        if isinstance(feature, MultiCategorical)
        else feature
        for feature in encoder.features
    ]
    if not config.histories:
        return features
    # The vocabulary does not include the id 0.
    sizes = {key: len(encoder.vocabulary(key)) + 1 for key in ("user", "item")}
    for name, key, value in zip(
        HISTORIES, ("user", "item"), ("item", "user"), strict=True
    ):
        features.append(
            History(
                name,
                sizes[value],
                of=key,
                num_keys=sizes[key],
                values=value,
                num_pairs=num_pairs,
            )
        )
    return features


def _common_arguments(
    config: TrainingConfig,
    features: list[Feature],
    table: pd.DataFrame,
    unit: Unit | None,
) -> dict[str, Any]:
    names = [feature.name for feature in features]
    unknown = sorted(set(config.l2_of) - set(names))
    if unknown:
        raise ValueError(
            f"`l2_of` must name features among {names}. Received: {unknown}."
        )
    scaler, bias = scaler_and_bias(config, table, unit)
    return {
        "dim": config.dim,
        "scaler": scaler,
        "l2": {name: config.l2_of.get(name, config.l2) for name in names},
        "embeddings_initializer": keras.initializers.RandomNormal(
            stddev=config.init_stddev
        ),
        "bias_initializer": keras.initializers.Constant(bias),
    }


def scaler_and_bias(
    config: TrainingConfig, table: pd.DataFrame, unit: Unit | None = None
) -> tuple[RatingScaler | None, float]:
    """Returns the scaler of a model, and the score of the mean rating.

    Args:
        config: The configuration of a run.
        table: The rows to train on.
        unit: Optional unit of the scores. Defaults to that of the targets of `table`.

    Raises:
        DataError: If all ratings are equal, or one is infinite in float32.
    """
    if config.task == "implicit":
        return None, 0.0
    with np.errstate(over="ignore"):
        ratings = table["rating"].to_numpy(np.float32)
    if config.task == "binary":
        labels = ratings.astype(np.float64)
        share = float(np.average(labels, weights=weights_of(config, table)))
        return None, RatingScaler(0.0, 1.0, "sigmoid").inverse(share)
    lowest, highest = float(ratings.min()), float(ratings.max())
    if not np.isfinite(ratings).all():
        raise DataError(
            "The training ratings must be finite in float32. Received: ratings from "
            f"{table['rating'].min()} to {table['rating'].max()}. Scale them down."
        )
    if lowest == highest:
        raise DataError(
            "The training ratings must have at least two values. Received: "
            f"{len(ratings):,} ratings of {lowest}. Train on them as implicit "
            'feedback, with the task "implicit".'
        )
    own = Unit.of_rows(config, table)
    unit = own if unit is None else unit
    affine = {"offset": unit.mean, "scale": unit.size}
    if config.scaler == "sigmoid":
        affine = {}  # its scores have no unit
    transform = config.target_transform
    scaler = RatingScaler(lowest, highest, config.scaler, transform=transform, **affine)
    mean = math.expm1(own.mean) if transform == "log1p" else own.mean
    # Rounded, the mean of equal ratings may lie outside the bounds.
    return scaler, scaler.inverse(min(max(mean, lowest), highest))


def _model(
    spec: ModelSpec,
    features: list[Feature],
    pairs: Pairs | None,
    arguments: dict[str, Any],
) -> keras.Model:
    model = spec.make(features, **arguments)
    if pairs is not None:
        users, items = pairs.T
        # A `Frame` has room for the pairs of all training rows.
        model.set_history(HISTORIES[0], users, items, leaves_room=True)
        model.set_history(HISTORIES[1], items, users, leaves_room=True)
    return model


def _pairs(encoder: Encoder, table: pd.DataFrame) -> Pairs:
    """Returns the distinct pairs of user id and item id in `table`."""
    for column in ("user", "item"):
        if encoder.columns.get(column) != "categorical":
            raise ValueError(
                "`histories` must be used with the features user and item. "
                f"Received: features={list(encoder.columns)}."
            )
    ids = [encoder.encode(column, table[column]) for column in ("user", "item")]
    pairs: Pairs = np.unique(np.stack(ids, axis=1), axis=0)
    return pairs[(pairs > 0).all(axis=1)]
