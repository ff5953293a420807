"""A model of a configuration, compiled, and fitted to examples."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from fmlayers.losses import BPR
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.examples import Examples, streams
from fmlayers.runs.model import build_model

# Chosen on validation rows. In units of 1 / batch_size, in which a row's gradient
# comes, it makes the first steps of a row like those of plain gradient descent.
ADAGRAD_START = 1.6
# From here on XLA saves more than the two or three seconds that it compiles for.
XLA_ROWS = 200_000
MOST_STEPS = 32  # an execution


def compiled_model(
    config: TrainingConfig, examples: Examples, batch_size: int
) -> keras.Model:
    """Returns a new model, its optimizer built, the same for the same seed."""
    keras.utils.set_random_seed(config.seed)
    model = build_model(config, examples.encoder, examples.table)
    model.compile(
        make_optimizer(config.optimizer, config.learning_rate, batch_size),
        jit_compile=_compiles_with_xla(config, len(examples)) or "auto",
        steps_per_execution=_steps_per_execution(_steps(examples, batch_size)),
        **_loss(config),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def fit(
    model: keras.Model,
    examples: Examples,
    batch_size: int,
    *,
    epochs: int,
    initial_epoch: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """Trains what `compiled_model` has made, up to `epochs`."""
    batches = examples.batches(batch_size, epoch=initial_epoch)
    return model.fit(
        batches.stream() if streams() else batches,
        steps_per_epoch=_steps(examples, batch_size),
        # Keras would shuffle the batches once more, by a state that no file keeps.
        shuffle=False,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=list(callbacks),
        **examples.validation_arguments(),
        verbose=0,
    )


def make_optimizer(
    name: str, learning_rate: float, batch_size: int
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a name of `TrainingConfig.optimizer`."""
    if name == "lazy_adam":
        return LazyAdam(learning_rate)
    start = (ADAGRAD_START / batch_size) ** 2
    return Adagrad(learning_rate, initial_accumulator_value=start)


def _steps(examples: Examples, batch_size: int) -> int:
    return math.ceil(len(examples) / batch_size)


def _compiles_with_xla(config: TrainingConfig, rows: int) -> bool:
    """Tells whether to ask for XLA where Keras would not: TensorFlow on a CPU."""
    # The lists of a batch are as long as its data say, which XLA cannot compile.
    return streams() and rows >= XLA_ROWS and not config.histories


def _steps_per_execution(steps: int) -> int:
    """Returns how many of an epoch's steps to take between two visits to Python."""
    if not streams():
        return 1
    return max(n for n in range(1, MOST_STEPS + 1) if steps % n == 0)


def _loss(config: TrainingConfig) -> dict[str, Any]:
    """Returns the loss, and the same without L2 as the metric to stop on."""
    if config.has_ratings:
        metric = keras.metrics.RootMeanSquaredError(name="rmse")
        return {"loss": "mse", "metrics": [metric]}
    loss: Any = BPR(1 + config.negatives)
    if config.loss == "bce":
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
    metric = keras.metrics.MeanMetricWrapper(loss, name=config.loss)
    return {"loss": loss, "metrics": [metric]}
