"""The model of a trial under KerasTuner. It trains like the first phase of a run."""

import math
import time
from collections.abc import Sequence

import keras
from keras_tuner import HyperModel, HyperParameters
from keras_tuner.errors import FailedTrialError

from fmlayers.runs import TrainingConfig
from fmlayers.runs.examples import Examples
from fmlayers.runs.fitting import compiled_model, fit
from fmlayers.runs.folder import DivergenceError
from fmlayers.runs.model import build_model, features_of
from fmlayers.runs.sampling import Sampling
from fmlayers.tuning.memory import estimated_bytes
from fmlayers.tuning.study_space import StudySpace
from fmlayers.tuning.top_n_metrics import TopNMetrics
from fmlayers.tuning.tuning_config import RANKING, TuningConfig

Callbacks = Sequence[keras.callbacks.Callback]


class TrialModel(HyperModel):
    """Builds and trains the model of a trial, as `fmlayers train` does.

    Args:
        config: Configuration of the study.
        space: Search space, which returns the configuration of a run.
        examples: The rows to train on and to validate on.
        memory_limit: Maximum size of the weights and the optimizer's state in bytes, or
            `None` for no limit.

    Attributes:
        builds: Boolean, whether `build` returns a model. The constructor of a tuner
            calls `build` only to register the hyperparameters.
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
        if config.method == "gibbs":  # `fit` samples another one
            return build_model(config, self.examples.encoder, self.examples.table)
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
        """Trains until the objective stops improving.

        Args:
            hp: The hyperparameters of the trial.
            model: The model that `build` returned.
            callbacks: The callbacks of the tuner.
            epochs: Optional epoch to stop after, which Hyperband sets.
            initial_epoch: Number of epochs that the model has already trained for.

        Returns:
            The metrics of the best epoch, `epochs` and `seconds`.
        """
        config = self.space(hp)
        if config.method == "gibbs":
            return self._sample(config)
        objective, direction = self.config.objective, self.config.direction
        started = time.perf_counter()
        added: list[keras.callbacks.Callback] = [keras.callbacks.TerminateOnNaN()]
        if objective in RANKING:
            added.append(TopNMetrics(self.examples, self.config.k))
        early = keras.callbacks.EarlyStopping(
            objective, mode=direction, patience=config.patience
        )
        history = fit(
            model,
            self.examples,
            self._batch_size(config),
            epochs=min(epochs or config.max_epochs, config.max_epochs),
            initial_epoch=initial_epoch,
            callbacks=[*added, early, *callbacks],
        )
        metrics = history.history
        for name in (objective, "loss"):
            finite = [math.isfinite(value) for value in metrics.get(name, ())]
            if not all(finite):
                raise FailedTrialError(
                    f"{name} is not a number after epoch "
                    f"{initial_epoch + finite.index(False) + 1}: the training has "
                    "diverged. Try a lower learning rate."
                )
        best = metrics[objective].index(
            (max if direction == "max" else min)(metrics[objective])
        )
        return {
            **{name: float(values[best]) for name, values in metrics.items()},
            "epochs": initial_epoch + best + 1,
            "seconds": round(time.perf_counter() - started, 1),
        }

    def _sample(self, config: TrainingConfig) -> dict[str, float]:
        """Samples a model. Returns the metrics of its mean, `epochs` and `seconds`."""
        started = time.perf_counter()
        examples = self.examples
        sampling = Sampling(config, examples.encoder.columns, examples.dataset)
        try:
            model = sampling.sample(examples)
        except DivergenceError as error:
            raise FailedTrialError(str(error)) from error
        metrics = {**sampling.history[-1]}
        if self.config.objective in RANKING:
            ranking = TopNMetrics(examples, self.config.k)
            ranking.set_model(model)
            ranking.on_train_begin()
            ranking.on_epoch_end(0, metrics)
        metrics["epochs"] = metrics.pop("sweep")
        return {**metrics, "seconds": round(time.perf_counter() - started, 1)}

    def _batch_size(self, config: TrainingConfig) -> int:
        return min(int(config.batch_size or 1), len(self.examples))

    def _check_memory(self, config: TrainingConfig) -> None:
        features = features_of(config, self.examples.encoder, num_pairs=1)
        needed = estimated_bytes(config, features)
        if self.memory_limit is not None and needed > self.memory_limit:
            raise FailedTrialError(
                f"The model and its optimizer need {needed:,} bytes, more than the "
                f"`memory_limit` of {self.memory_limit:,} bytes: it was not built."
            )
