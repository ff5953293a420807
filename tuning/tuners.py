"""KerasTuner's three tuners, adapted to studies.

KerasTuner chooses the trials. This module makes sure that

- the first trial has the default values,
- a killed process leaves no half-written file,
- a resumed Bayesian search chooses the same trials as an uninterrupted one,
- the trial of a lost worker starts again on another worker,
- the study records the reason of each failure, on whichever worker it happened.
"""

import contextlib
import io
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner import HyperParameters, oracles
from keras_tuner.engine.hyperparameters import Fixed
from keras_tuner.engine.trial import Trial

from fmlayers._files import whole_file
from fmlayers.tuning.combinations import combinations, is_countable
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.tuning_config import TuningConfig

TRIALS = "trials"  # KerasTuner's folder in the folder of a study
REASON = "failure.txt"  # in the folder of a trial
MAX_LOST_WORKERS = 2  # lost workers after which a trial counts as failed
# KerasTuner stops after a few failures in a row, but a failed trial does not mean that
# the next one fails.
MAX_FAILED_TRIALS = 2**31


class _StudyOracle(keras_tuner.Oracle):
    """The additions to each of KerasTuner's oracles.

    Attributes:
        deadline: Time on the clock `time.monotonic` after which no trial starts.
        is_late: Boolean, whether the deadline has kept a trial from starting.
        exhausted: Number of combinations of the space if all were tried, else 0.
    """

    deadline: float = math.inf
    is_late = False
    exhausted = 0
    max_trials: int | None
    trials: dict[str, Trial]

    def save(self) -> None:
        with whole_file(self._get_oracle_fname()) as written:
            written.write_text(json.dumps(self.get_state()), "utf-8")

    def _save_trial(self, trial: Trial) -> None:
        path = Path(self._get_trial_dir(trial.trial_id)) / "trial.json"
        with whole_file(path) as written:
            trial.save(str(written))

    def reload(self) -> None:
        super().reload()
        # A process may have been killed after it wrote a trial's file and before the
        # oracle's. A trial that the oracle does not know starts again, and a trial that
        # has ended does not. The order matters to a Gaussian process.
        numbers = sorted(self.start_order, key=int)
        self.trials = {number: self.trials[number] for number in numbers}
        for number in tuple(self._retry_queue):
            if self.trials[number].status in ("COMPLETED", "FAILED"):
                self._retry_queue.remove(number)
                self.end_order.append(number)

    def _random_values(self) -> dict[str, Any] | None:
        if self.trials:
            # KerasTuner gives up after it has sampled known values a few times.
            return super()._random_values() or self._untried_values()
        defaults = HyperParameters()
        for parameter in self.hyperparameters.space:
            defaults.merge([parameter])  # with its default, if it is active
        return dict(defaults.values)

    def _untried_values(self) -> dict[str, Any] | None:
        space = self.hyperparameters.space
        if not is_countable(space):
            return None
        tried = 0
        for values in combinations(space):
            if not self._duplicate(values):
                return values
            tried += 1
        self.exhausted = tried
        return None

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        if time.monotonic() > self.deadline:
            started = len(self.trials) or 1
            self.is_late |= self.max_trials is None or started < self.max_trials
            self.max_trials = started
        return super().create_trial(tuner_id)

    @keras_tuner.synchronized
    def release(self, tuner_id: str) -> None:
        """Returns the trial of a lost worker to the queue.

        After `MAX_LOST_WORKERS` lost workers, the trial counts as failed.
        """
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return
        self._run_times[trial.trial_id] += 1
        if self._run_times[trial.trial_id] < MAX_LOST_WORKERS:
            self._retry_queue.append(trial.trial_id)
            self.save()
            return
        trial.status = "FAILED"
        trial.message = f"The trial lost its worker {MAX_LOST_WORKERS} times."
        write_reason(Path(self._get_trial_dir(trial.trial_id)), trial.message)
        self.end_order.append(trial.trial_id)
        self._save_trial(trial)
        self.save()

    @keras_tuner.synchronized
    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        # The chief calls this while workers start trials.
        best: list[Trial] = super().get_best_trials(num_trials)
        return best

    @property
    def waiting(self) -> int:
        """The number of interrupted trials that wait for a worker."""
        return len(self._retry_queue)


class _RandomOracle(_StudyOracle, oracles.RandomSearchOracle):
    pass


class _BayesianOracle(_StudyOracle, oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> Any:
        # KerasTuner does not save this state.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # The warnings are about the length scale of a kernel at a bound.
            warnings.simplefilter("ignore")
            proposed = super().populate_space(trial_id)
        if proposed["values"] and self._duplicate(proposed["values"]):
            return self._random_populate_space()
        return proposed


class _HyperbandOracle(_StudyOracle, oracles.HyperbandOracle):
    pass


class _StudyTuner(keras_tuner.Tuner):
    """The additions to each of KerasTuner's tuners.

    Args:
        oracle: `Oracle` that chooses the trials.
        model: `TrialModel` that builds and trains their models.
        on_trial_end: Function called after each trial of this process.
        **options: Arguments of `keras_tuner.Tuner`.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        model: TrialModel,
        on_trial_end: Callable[[], None],
        **options: Any,
    ) -> None:
        self._ended = on_trial_end
        # The constructor of `Hyperband` would create another oracle.
        keras_tuner.Tuner.__init__(self, oracle=oracle, hypermodel=model, **options)

    def on_trial_end(self, trial: Trial) -> None:
        if trial.message:
            folder = Path(self.get_trial_dir(trial.trial_id))
            write_reason(folder, trial.message)  # a worker's call drops the message
        super().on_trial_end(trial)
        self._ended()


class _Hyperband(_StudyTuner, keras_tuner.Hyperband):
    pass


def make_tuner(
    config: TuningConfig,
    folder: Path,
    model: TrialModel,
    hyperparameters: HyperParameters,
    max_trials: int | None,
    on_trial_end: Callable[[], None] = lambda: None,
) -> keras_tuner.Tuner:
    """Returns the tuner of a study, which includes the trials that have ended.

    Args:
        config: Configuration of the study.
        folder: Folder of the study.
        model: `TrialModel` that builds and trains the models.
        hyperparameters: The search space.
        max_trials: Total number of trials, or `None` for as many as the tuner needs.
        on_trial_end: Optional function called after each trial of this process.

    Raises:
        ImportError: If the Bayesian tuner lacks scikit-learn or scipy.
    """
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(config.objective, config.direction),
        "hyperparameters": hyperparameters.copy(),
        # KerasTuner reads 0 as no seed, and increments the seed for each sample, so
        # neighboring seeds would sample the same values.
        "seed": 1 + 1_000_003 * config.seed % 2**31,
        "max_consecutive_failed_trials": MAX_FAILED_TRIALS,
    }
    if config.tuner == "random":
        oracle = _RandomOracle(**options, max_trials=max_trials)
    elif config.tuner == "bayesian":
        oracle = _bayesian(
            **options,
            max_trials=max_trials,
            num_initial_points=_random_points(hyperparameters, max_trials),
        )
    else:
        oracle = _HyperbandOracle(**options, max_epochs=config.training.max_epochs)
        oracle.max_trials = max_trials
    oracle.verbose = 0
    kind = _Hyperband if config.tuner == "hyperband" else _StudyTuner
    known = (folder / TRIALS / "oracle.json").exists()
    model.builds = False
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it reloads
        tuner = kind(oracle, model, on_trial_end, directory=folder, project_name=TRIALS)
    model.builds = True
    # KerasTuner reloads only the files of a tuner of the same name. A worker does not
    # reload: it asks the chief, which may be writing these files.
    if known and tuner.oracle is oracle:
        oracle.reload()
    return tuner


def _random_points(hyperparameters: HyperParameters, max_trials: int | None) -> int:
    """Returns the number of random trials at the start of a Bayesian search.

    They include the trial with the default values. KerasTuner's default, three per
    hyperparameter including the fixed ones, exceeds the trials of most searches.
    """
    searched = [p for p in hyperparameters.space if not isinstance(p, Fixed)]
    return max(3, min(3 * len(searched), (max_trials or 0) // 3))


def write_reason(folder: Path, message: str) -> None:
    with whole_file(folder / REASON) as written:
        written.write_text(message, "utf-8")


def _bayesian(**options: Any) -> _BayesianOracle:
    try:
        return _BayesianOracle(**options)
    except ImportError as error:
        raise ImportError(
            "The Bayesian tuner needs scikit-learn and scipy: install them with "
            "`pip install fmlayers[bayesian]`."
        ) from error
