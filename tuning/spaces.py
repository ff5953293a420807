"""Search spaces of single layers, for custom `build(hp)` functions.

Each function registers its hyperparameters with `hp` and returns keyword arguments:
`fmlayers.FeatureEmbedding(features, **embedding_space(hp))`. The defaults are those of
the layer, except that L2 and the optimizers use the defaults of `fmlayers train` on
ratings. For implicit feedback, lower the defaults of `l2` and `linear_l2` to about
0.005.

The hyperparameters are ordinary ones of KerasTuner. A range or an `hp.Fixed` in the
`HyperParameters` that you pass to the tuner replaces the one in this table. A
`learning_rate` that you register applies to both optimizers. An L2 with a default of 0
is fixed.

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
    """Returns `reduce`, an argument of `FMInteraction`.

    Search over it if the layers that follow accept both outputs, the sum and the vector
    before the sum.

    Args:
        hp: The hyperparameters of a trial.
        reduce: Default of `reduce`. Defaults to `"sum"`.
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
    """Returns `dim`, `l2` and `embeddings_initializer` of `FeatureEmbedding`.

    The models take the same arguments.

    Args:
        hp: The hyperparameters of a trial.
        fields: Names of all features, to search over a separate L2 for each,
            `l2/FIELD`. Defaults to `()`, which shares one `l2`.
        dim: Default of the embedding dimension.
        l2: Default of the L2 of the embeddings in a batch.
        init_stddev: Default of the standard deviation of the initial embeddings.
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
    """Returns `linear_l2`, the L2 of the first-order term of the models.

    Args:
        hp: The hyperparameters of a trial.
        linear_l2: Default of `linear_l2`.
    """
    return {"linear_l2": register_float(hp, "linear_l2", linear_l2)}


def pooling_space(hp: HyperParameters, combiner: Combiner = "mean") -> dict[str, Any]:
    """Returns `combiner`, an argument of `MultiCategorical` and `MaskedMeanPooling`.

    Args:
        hp: The hyperparameters of a trial.
        combiner: Default of `combiner`. Defaults to `"mean"`.
    """
    return {"combiner": register_setting(hp, "combiner", combiner)}


def scaler_space(
    hp: HyperParameters, method: ScalerMethod = "sigmoid"
) -> dict[str, Any]:
    """Returns `method`, an argument of `RatingScaler`.

    Args:
        hp: The hyperparameters of a trial.
        method: Default of `method`. Defaults to `"sigmoid"`.
    """
    return {"method": register_setting(hp, "scaler", method)}


def tower_space(
    hp: HyperParameters,
    hidden_units: Sequence[int] = find("deepfm").hidden_units,
    dropout: float = RUN.dropout,
) -> dict[str, Any]:
    """Returns `hidden_units` and `dropout` of `DeepFM` and `NeuralMatrixFactorization`.

    Args:
        hp: The hyperparameters of a trial.
        hidden_units: Default sizes of the hidden layers. Defaults to those of `DeepFM`.
        dropout: Default of the dropout rate of the hidden layers.
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
    """Returns `optimizer`, an argument of `compile`, with a learning rate.

    Args:
        hp: The hyperparameters of a trial.
        batch_size: Number of rows in a batch. As in `fmlayers train`, the initial
            accumulator of `Adagrad` depends on it. Defaults to 32.
        optimizer: Default of `optimizer`.
        adagrad: Default learning rate of `Adagrad`.
        lazy_adam: Default learning rate of `LazyAdam`.
    """
    name = register_setting(hp, "optimizer", optimizer)
    rate = register_learning_rate(
        hp, name, {"adagrad": adagrad, "lazy_adam": lazy_adam}
    )
    return {"optimizer": make_optimizer(name, rate, batch_size)}


def training_space(
    hp: HyperParameters, *, batch_size: int = 32, epochs: int | None = 1
) -> dict[str, Any]:
    """Returns `batch_size` and `epochs`, arguments of `fit`.

    Args:
        hp: The hyperparameters of a trial.
        batch_size: Default of `batch_size`. Defaults to 32, as in `fit`.
        epochs: Default of `epochs`. Defaults to 1, as in `fit`. `None` leaves `epochs`
            out, for Hyperband and for early stopping.
    """
    arguments = {"batch_size": register_int(hp, "batch_size", batch_size)}
    if epochs is not None:
        arguments["epochs"] = register_int(hp, "epochs", epochs, EPOCHS)
    return arguments
