import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from fmlayers._training.execution import (
    build_ahead,
    pays_with_xla,
    steps_per_execution,
    whole_epochs,
)
from fmlayers._training.variables_file import state_variables
from fmlayers.losses import BPR, BalancedCrossentropy, MeanLoss, SquaredLogError
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.runs import group
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.examples import Examples, streams
from fmlayers.runs.model import Frame, build_model, is_of_package
from fmlayers.runs.prediction import batch_size_of
from fmlayers.runs.targets import weights_of
from fmlayers.runs.unit import Unit

# Chosen on validation rows, in units of 1 / batch_size, the scale of a row's gradient.
# The first steps of a row are then like those of plain gradient descent.
ADAGRAD_START = 1.6
# Early stopping rarely stops before. The choice of XLA counts on as many epochs.
USUAL_EPOCHS = 10


def compiled_model(
    config: TrainingConfig,
    examples: Examples,
    batch_size: int,
    frame: Frame | None = None,
) -> keras.Model:
    """Returns a new compiled model, the same for the same seed.

    Its optimizer is built, so that loading a checkpoint restores the optimizer, too.
    """
    keras.utils.set_random_seed(config.seed)
    with group.spread_tables():
        model = build_model(config, examples.encoder, examples.table, frame)
    epochs = min(config.max_epochs, USUAL_EPOCHS)
    model.compile(
        make_optimizer(
            config.optimizer, config.learning_rate, batch_size, config.row_wise
        ),
        jit_compile=pays_with_xla(model, epochs * len(examples), brings_histories=True)
        or "auto",
        steps_per_execution=steps_per_execution(_steps(examples, batch_size)),
        **_loss(config, examples, None if frame is None else frame.unit),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def restarted(trained: keras.Model, new: keras.Model) -> keras.Model:
    """Returns `trained` with the state of `new`, which avoids a trace, if possible.

    Args:
        trained: A model that `fit` has trained.
        new: A model of the same configuration and frame, for other rows.

    Returns:
        `trained` with the state of `new`, or `new` if its graph may differ.
    """
    if (
        keras.backend.backend() == "torch"  # traces nothing
        or group.num_shares() > 1
        or not is_of_package(new)  # its graph may depend on its encoder
        or _of_rows(trained) != _of_rows(new)
    ):
        return new
    variables = zip(state_variables(trained), state_variables(new), strict=True)
    for variable, other in variables:
        variable.assign(other.value)
    parts = zip((trained, *trained.members), (new, *new.members), strict=True)
    for part, other in parts:
        part.encoder = other.encoder
        if hasattr(other, "bias_initializer"):
            part.bias_initializer = other.bias_initializer
    trained.steps_per_execution = new.steps_per_execution
    trained.test_function = None  # contains the former number of steps
    return trained


def _of_rows(model: keras.Model) -> list[Any]:
    """Returns the parts of a model's graph that depend on the rows to fit to."""
    compiled = model.get_compile_config()
    scaler = model.scaler
    return [
        None if scaler is None else {**scaler.get_config(), "name": None},
        compiled["loss_weights"],
        compiled["jit_compile"],
        *((tuple(v.shape), v.dtype) for v in state_variables(model)),
    ]


def fit(
    model: keras.Model,
    examples: Examples,
    batch_size: int,
    *,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """Trains a model that `compiled_model` returned, up to the epoch `epochs`."""
    batches = examples.batches(
        batch_size, epoch=initial_epoch, histories=model.history_indexes()
    )
    if group.num_shares() > 1:
        batches = group.ShareOfBatches(batches)
    data: Any = batches
    steps = _steps(examples, batch_size)
    with ExitStack() as stack:
        if streams():
            build_ahead(model, *batches[0][:2])
            data = batches.stream()
            stack.enter_context(whole_epochs(model, steps))
        return model.fit(
            data,
            steps_per_epoch=steps,
            # Keras would shuffle the batches with a random state that is not saved.
            shuffle=False,
            epochs=epochs,
            initial_epoch=initial_epoch,
            callbacks=list(callbacks),
            **examples.validation_arguments(batch_size_of(model)),
            verbose=0,
        )


def make_optimizer(
    name: str, learning_rate: float, batch_size: int, row_wise: bool = False
) -> keras.optimizers.Optimizer:
    """Returns the optimizer that `name`, as in `TrainingConfig.optimizer`, selects."""
    if name == "lazy_adam":
        return LazyAdam(learning_rate, row_wise=row_wise)
    start = (ADAGRAD_START / batch_size) ** 2
    return Adagrad(learning_rate, initial_accumulator_value=start, row_wise=row_wise)


def _steps(examples: Examples, batch_size: int) -> int:
    return math.ceil(len(examples) / batch_size)


def _loss(
    config: TrainingConfig, examples: Examples, unit: Unit | None
) -> dict[str, Any]:
    """Returns the loss, and the loss without L2 as the metric for early stopping."""
    arguments: dict[str, Any] = {}
    loss: Any
    if config.task == "regression":
        loss = "mse"
        unit = Unit.of_rows(config, examples.table) if unit is None else unit
        arguments["loss_weights"] = unit.loss_weight()
        metric: Any = keras.metrics.RootMeanSquaredError(name="rmse")
        if config.target_transform == "log1p":
            loss = SquaredLogError()
            metric = MeanLoss(loss, root=True, name="rmsle")
    elif config.loss == "bpr":
        loss = BPR(1 + config.negatives)
        metric = MeanLoss(loss, name="bpr")
    else:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metric = MeanLoss(loss, name="bce")
        if config.positive_weight != 1.0:
            loss = BalancedCrossentropy(config.positive_weight)
            arguments["loss_weights"] = 1.0 / _mean_label_weight(config, examples)
    return {"loss": loss, "weighted_metrics": [metric], **arguments}


def _mean_label_weight(config: TrainingConfig, examples: Examples) -> float:
    """Returns the mean weight of a row by its label, by which the loss is divided."""
    table = examples.table
    share = np.average(table["rating"], weights=weights_of(config, table))
    return float(1.0 + share * (config.positive_weight - 1.0))
