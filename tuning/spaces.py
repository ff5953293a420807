"""Search spaces of single layers, to be used in a `build(hp)` of your own.

Each function registers its hyperparameters with `hp` and returns keyword arguments:
`fmlayers.FeatureEmbedding(features, **embedding_space(hp))`. Defaults are those of the
layer; of the L2 and the optimizers those of `fmlayers train` on ratings. They are
ordinary hyperparameters of KerasTuner: what a `HyperParameters` given to the tuner
says of a name, a range or an `hp.Fixed`, holds in place of what is said here.
`learning_rate`, if given so, is that of either optimizer; an L2 whose default is 0 is
held at it. For clicks `l2` and `linear_l2` should begin at about 0.005.

| name | values | default |
| --- | --- | --- |
| `dim` | 4 ... 256, powers of 2 | 64 |
| `init_stddev` | 0.001 ... 0.1 | 0.01 |
| `l2`, `l2/FIELD` | 0.001 ... 1 | 0.06 |
| `linear_l2` | 0.0001 ... 0.1 | 0.01 |
| `reduce` | sum, none | sum |
| `combiner` | mean, sum, sqrtn | mean |
| `scaler` | sigmoid, clip, none | sigmoid |
| `hidden_units` | 16 ... 128-64-32 | 64-64 |
| `dropout` | 0 ... 0.6 | 0 |
| `optimizer` | adagrad, lazy_adam | adagrad |
| `learning_rate/adagrad` | 0.005 ... 0.5 | 0.05 |
| `learning_rate/lazy_adam` | 0.0001 ... 0.01 | 0.001 |
| `batch_size` | 16 ... 8192, powers of 2 | 32 |
| `epochs` | 1 ... 128, powers of 2 | 1 |
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras_tuner import HyperParameters

from fmlayers._types import Combiner, OptimizerName, ScalerMethod
from fmlayers.models.specs import find
from fmlayers.runs import TrainingConfig
from fmlayers.runs.fitting import make_optimizer
from fmlayers.tuning.hyperparameters import (
    EPOCHS,
    register_choice,
    register_float,
    register_int,
    register_l2,
    register_learning_rate,
    register_setting,
    register_tower,
)

RUN = TrainingConfig()
LAZY_ADAM = TrainingConfig(optimizer="lazy_adam")


def interaction_space(hp: HyperParameters, reduce: str = "sum") -> dict[str, Any]:
    """Returns arguments of `FMInteraction`: its sum, or the vector before it.

    Search it where layers follow that take either.

    Args:
        hp: The hyperparameters of a trial.
        reduce: The default.
    """
    return {"reduce": register_choice(hp, "reduce", ("sum", "none"), reduce)}


def embedding_space(
    hp: HyperParameters,
    fields: Sequence[str] = (),
    *,
    dim: int = RUN.dim,
    l2: float = RUN.l2,
    init_stddev: float = RUN.init_stddev,
) -> dict[str, Any]:
    """Returns arguments of `FeatureEmbedding`, and of the models: vectors, their L2.

    Args:
        hp: The hyperparameters of a trial.
        fields: Names of all of the features, if each is to have an L2 of its own,
            `l2/FIELD`. Defaults to none: one `l2` for all.
        dim: Default of the size of a vector.
        l2: Default of the L2 of the rows of a batch.
        init_stddev: Default of the standard deviation that vectors start with.
    """
    stddev = register_float(hp, "init_stddev", init_stddev)
    if fields:
        regularizer: Any = {name: register_l2(hp, name, l2) for name in fields}
    else:
        regularizer = register_float(hp, "l2", l2)
    return {
        "dim": register_int(hp, "dim", dim),
        "l2": regularizer,
        "embeddings_initializer": keras.initializers.RandomNormal(stddev=stddev),
    }


def linear_space(
    hp: HyperParameters, linear_l2: float = RUN.linear_l2
) -> dict[str, Any]:
    """Returns the models' argument `linear_l2`, of the first-order term.

    Args:
        hp: The hyperparameters of a trial.
        linear_l2: The default.
    """
    return {"linear_l2": register_float(hp, "linear_l2", linear_l2)}


def pooling_space(hp: HyperParameters, combiner: Combiner = "mean") -> dict[str, Any]:
    """Returns `combiner`, of `MultiCategorical` and `MaskedMeanPooling`.

    Args:
        hp: The hyperparameters of a trial.
        combiner: The default.
    """
    return {"combiner": register_setting(hp, "combiner", combiner)}


def scaler_space(
    hp: HyperParameters, method: ScalerMethod = "sigmoid"
) -> dict[str, Any]:
    """Returns `method`, of `RatingScaler`.

    Args:
        hp: The hyperparameters of a trial.
        method: The default.
    """
    return {"method": register_setting(hp, "scaler", method)}


def tower_space(
    hp: HyperParameters,
    hidden_units: Sequence[int] = find("deepfm").hidden_units,
    dropout: float = RUN.dropout,
) -> dict[str, Any]:
    """Returns arguments of `DeepFM` and `NeuralMatrixFactorization`: hidden layers.

    Args:
        hp: The hyperparameters of a trial.
        hidden_units: Default of the sizes; `DeepFM`'s.
        dropout: Default of the share of their outputs that training drops.
    """
    return register_tower(hp, hidden_units, dropout)


def optimizer_space(
    hp: HyperParameters,
    *,
    batch_size: int = 32,
    optimizer: OptimizerName = RUN.optimizer,
    adagrad: float = RUN.learning_rate,
    lazy_adam: float = LAZY_ADAM.learning_rate,
) -> dict[str, Any]:
    """Returns the argument `optimizer` of `compile`: which, and its rate.

    Args:
        hp: The hyperparameters of a trial.
        batch_size: Rows of a batch. `Adagrad` starts from squared gradients of that
            size, as `fmlayers train` does.
        optimizer: Default of `optimizer`.
        adagrad, lazy_adam: Defaults of the rates.
    """
    name = register_setting(hp, "optimizer", optimizer)
    rate = register_learning_rate(
        hp, name, {"adagrad": adagrad, "lazy_adam": lazy_adam}
    )
    return {"optimizer": make_optimizer(name, rate, batch_size)}


def training_space(
    hp: HyperParameters, *, batch_size: int = 32, epochs: int | None = 1
) -> dict[str, Any]:
    """Returns arguments of `fit`: the size of a batch, how many epochs.

    Args:
        hp: The hyperparameters of a trial.
        batch_size: Default of the rows of a batch; `fit`'s.
        epochs: Default of `epochs`; `fit`'s. `None` leaves it out, for Hyperband, or
            where training stops early.
    """
    arguments = {"batch_size": register_int(hp, "batch_size", batch_size)}
    if epochs is not None:
        arguments["epochs"] = register_int(hp, "epochs", epochs, EPOCHS)
    return arguments
