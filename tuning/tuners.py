"""KerasTuner's three tuners, as a study needs them.

How trials are chosen is KerasTuner's. Added is that the first trial has the defaults;
that a killed process leaves no half-written file; that a Bayesian search goes on, once
resumed, as if nothing had been; that a trial can be taken back from a worker that is
gone; and that the reason of a failed trial reaches the study from any worker.
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
from keras_tuner.engine import hyperparameters as kinds
from keras_tuner.engine.trial import Trial

from fmlayers._files import whole_file
from fmlayers.tuning.combinations import combinations, is_countable
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.tuning_config import TuningConfig

TRIALS = "trials"  # KerasTuner's folder in a study's
REASON = "failure.txt"  # in a trial's folder
MOST_DEATHS = 2  # of a trial's workers, before it counts as failed


class _StudyOracle(keras_tuner.Oracle):
    """What is added to each of KerasTuner's oracles.

    Attributes:
        deadline: Time of `time.monotonic()` after which no trial begins.
        is_late: Whether a trial has not begun for that reason.
        exhausted: How many combinations of values the space has, once all were tried;
            0 before.
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
        # A process may have been killed between a trial's file and the oracle's: what
        # the oracle has not begun will be begun, what has ended is not run again. And
        # in order, not as the folder lists them: a Gaussian process sees one in them.
        numbers = sorted(self.start_order, key=int)
        self.trials = {number: self.trials[number] for number in numbers}
        for number in tuple(self._retry_queue):
            if self.trials[number].status in ("COMPLETED", "FAILED"):
                self._retry_queue.remove(number)
                self.end_order.append(number)

    def _random_values(self) -> dict[str, Any] | None:
        if self.trials:
            # KerasTuner gives up after a few draws of what was tried.
            return super()._random_values() or self._untried_values()
        defaults = HyperParameters()
        for parameter in self.hyperparameters.space:
            defaults.merge([parameter])  # with its default, where it is active
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
            begun = len(self.trials) or 1
            self.is_late |= self.max_trials is None or begun < self.max_trials
            self.max_trials = begun
        return super().create_trial(tuner_id)

    @keras_tuner.synchronized
    def release(self, tuner_id: str) -> None:
        """Takes back what a worker that is gone was at, for another to do."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return
        self._run_times[trial.trial_id] += 1
        if self._run_times[trial.trial_id] < MOST_DEATHS:
            self._retry_queue.append(trial.trial_id)
            self.save()
            return
        trial.status = "FAILED"
        trial.message = f"Its worker was gone before it was done, {MOST_DEATHS} times."
        write_reason(Path(self._get_trial_dir(trial.trial_id)), trial.message)
        self.end_order.append(trial.trial_id)
        self._save_trial(trial)
        self.save()

    @keras_tuner.synchronized
    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        # A chief looks for them while workers begin others.
        best: list[Trial] = super().get_best_trials(num_trials)
        return best

    @property
    def waiting(self) -> int:
        """How many trials wait for a worker to take them up again."""
        return len(self._retry_queue)


class _RandomOracle(_StudyOracle, oracles.RandomSearchOracle):
    pass


class _BayesianOracle(_StudyOracle, oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> Any:
        # Its state is in no file.
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        with warnings.catch_warnings():
            # Of a kernel's length at the end of its range, which nobody can mend.
            warnings.simplefilter("ignore")
            proposed = super().populate_space(trial_id)
        if proposed["values"] and self._duplicate(proposed["values"]):
            return self._random_populate_space()
        return proposed


class _HyperbandOracle(_StudyOracle, oracles.HyperbandOracle):
    pass


class _StudyTuner(keras_tuner.Tuner):
    """What is added to each of KerasTuner's tuners.

    Args:
        oracle: Chooses the trials.
        model: Builds and fits their models.
        on_trial_end: Called after a trial that this process has run.
        **options: As of `keras_tuner.Tuner`.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        model: TrialModel,
        on_trial_end: Callable[[], None],
        **options: Any,
    ) -> None:
        self._ended = on_trial_end
        # Not that of Hyperband, which makes an oracle.
        keras_tuner.Tuner.__init__(self, oracle=oracle, hypermodel=model, **options)

    def on_trial_end(self, trial: Trial) -> None:
        if trial.message:
            folder = Path(self.get_trial_dir(trial.trial_id))
            write_reason(folder, trial.message)  # a worker's call does not carry it
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
    """Returns the tuner of a study, its finished trials loaded."""
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(config.objective, config.direction),
        "hyperparameters": hyperparameters.copy(),
        # KerasTuner takes 0 for none, and the numbers after a seed for its draws: seeds
        # near each other would draw the same.
        "seed": 1 + 1_000_003 * config.seed % 2**31,
        # One that fails says nothing of the next.
        "max_consecutive_failed_trials": 2**31,
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
    with contextlib.redirect_stdout(io.StringIO()):  # which says that it reloads
        tuner = kind(oracle, model, on_trial_end, directory=folder, project_name=TRIALS)
    model.builds = True
    # It reloads what a process of its own name has begun, and no other. A worker asks
    # the chief, which may be writing what would be reloaded.
    if known and tuner.oracle is oracle:
        oracle.reload()
    return tuner


def _random_points(hyperparameters: HyperParameters, max_trials: int | None) -> int:
    """Returns with how many trials a Bayesian search begins, the default among them.

    KerasTuner's own number, three a hyperparameter, fixed ones too, is more than most
    searches have trials.
    """
    searched = [p for p in hyperparameters.space if not isinstance(p, kinds.Fixed)]
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
