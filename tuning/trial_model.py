"""A trial: the first phase of a run, on validation rows, under KerasTuner."""

import math
import time
from collections.abc import Sequence

import keras
from keras_tuner import HyperModel, HyperParameters
from keras_tuner.errors import FailedTrialError

from fmlayers.runs import TrainingConfig
from fmlayers.runs.examples import Examples
from fmlayers.runs.fitting import compiled_model, fit
from fmlayers.runs.model import features_of
from fmlayers.tuning.memory import estimated_bytes
from fmlayers.tuning.study_space import StudySpace
from fmlayers.tuning.top_n_metrics import TopNMetrics
from fmlayers.tuning.tuning_config import RANKING, TuningConfig

Callbacks = Sequence[keras.callbacks.Callback]


class TrialModel(HyperModel):
    """Builds and fits the model of a trial, as `fmlayers train` would.

    Args:
        config: The configuration of the study.
        space: Makes the configuration of a run.
        examples: The rows to fit and to validate on.
        memory_limit: Most bytes of the weights and of the optimizer's numbers; `None`
            for any.

    Attributes:
        builds: Whether `build` makes a model. A tuner calls it when it is made, to see
            the hyperparameters alone.
    """

    def __init__(
        self,
        config: TuningConfig,
        space: StudySpace,
        examples: Examples,
        memory_limit: int | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.examples = examples
        self.memory_limit = memory_limit
        self.builds = False

    def build(self, hp: HyperParameters) -> keras.Model | None:
        config = self.space(hp)
        if not self.builds:
            return None
        self._check_memory(config)
        return compiled_model(config, self.examples, self._batch_size(config))

    def fit(
        self,
        hp: HyperParameters,
        model: keras.Model,
        *,
        callbacks: Callbacks = (),
        epochs: int | None = None,
        initial_epoch: int = 0,
    ) -> dict[str, float]:
        """Trains until nothing gets better; returns the figures of the best epoch.

        Args:
            hp: The hyperparameters of the trial.
            model: What `build` has made.
            callbacks: The tuner's.
            epochs: Optional epoch to stop after, which Hyperband sets.
            initial_epoch: Epochs that the model has behind it.
        """
        config = self.space(hp)
        objective, direction = self.config.objective, self.config.direction
        started = time.perf_counter()
        ours: list[keras.callbacks.Callback] = [keras.callbacks.TerminateOnNaN()]
        if objective in RANKING:
            ours.append(TopNMetrics(self.examples, self.config.k))
        early = keras.callbacks.EarlyStopping(
            objective, mode=direction, patience=config.patience
        )
        history = fit(
            model,
            self.examples,
            self._batch_size(config),
            epochs=min(epochs or config.max_epochs, config.max_epochs),
            initial_epoch=initial_epoch,
            callbacks=[*ours, early, *callbacks],
        )
        figures = history.history
        reached = [x for x in figures.get(objective, []) if math.isfinite(x)]
        if not reached:
            raise FailedTrialError(
                f"{objective} is no number after the first epoch: the training has "
                "diverged. A lower learning rate may help."
            )
        chosen = (max if direction == "max" else min)(reached)
        best = figures[objective].index(chosen)
        return {
            **{name: float(values[best]) for name, values in figures.items()},
            "epochs": initial_epoch + best + 1,
            "seconds": round(time.perf_counter() - started, 1),
        }

    def _batch_size(self, config: TrainingConfig) -> int:
        return min(int(config.batch_size or 1), len(self.examples))

    def _check_memory(self, config: TrainingConfig) -> None:
        features = features_of(config, self.examples.encoder, num_pairs=1)
        needed = estimated_bytes(config, features)
        if self.memory_limit is not None and needed > self.memory_limit:
            raise FailedTrialError(
                f"The model would take {needed:,} bytes with its optimizer, of the "
                f"{self.memory_limit:,} that a trial may take: it has not been built."
            )
