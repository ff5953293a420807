"""KerasTuner's three tuners, adapted to studies.

KerasTuner chooses the trials. This module makes sure that

- the first trial has the default values,
- a killed process leaves no half-written file,
- a resumed Bayesian search chooses the same trials as an uninterrupted one,
- the trial of a lost worker starts again on another worker,
- the study records the reason of each failure, on whichever worker it happened,
- no file is read that is damaged, and a damaged oracle loses no trial.
"""

import contextlib
import io
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner import HyperParameters, oracles
from keras_tuner.engine.hyperparameters import Fixed
from keras_tuner.engine.trial import Trial

from fmlayers._digests import check_digest, digest_of
from fmlayers._json_files import read_json, write_json
from fmlayers._keras_files import save_weights
from fmlayers.tuning.combinations import combinations, is_countable
from fmlayers.tuning.study_files import (
    ENDED,
    MALFORMED,
    ORACLE,
    REMEDY,
    read_oracle,
    read_trials,
    trial_folder,
    write_reason,
)
from fmlayers.tuning.study_folder import TRIALS, StudyError
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.tuning_config import TuningConfig

CHECKPOINT = "checkpoint.json"  # in the folder of a trial: the digest of its weights
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
    ongoing_trials: dict[str, Trial]

    def save(self) -> None:
        write_json(Path(self._get_oracle_fname()), self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        folder = Path(self._get_trial_dir(trial.trial_id))
        write_json(folder / "trial.json", trial.get_state())

    def reload(self) -> None:
        path = Path(self._project_dir).parent
        state, problem = read_oracle(path)
        states = read_trials(path)
        if not states:
            return
        trials = {number: Trial.from_state(x) for number, x in states.items()}
        if state is not None:
            try:
                self._resume(state, trials)
            except MALFORMED as error:
                file = path / TRIALS / ORACLE
                problem = f"{file} is damaged: {type(error).__name__}: {error}."
                state = None
        if state is None:
            print(f"{problem} It is written again from the trials.", file=sys.stderr)
            self._resume(self._rebuilt(trials), trials)
            for trial in self.trials.values():
                self._record_values(trial)
        # The interrupted trials start again.
        self._retry_queue += [x.trial_id for x in self.ongoing_trials.values()]
        self.ongoing_trials = {}
        # A process may have been killed after it wrote a trial's file and before the
        # oracle's.
        for number in tuple(self._retry_queue):
            if self.trials[number].status in ENDED:
                self._retry_queue.remove(number)
                self.end_order.append(number)

    def _resume(self, state: dict[str, Any], trials: dict[str, Trial]) -> None:
        # A trial that the oracle does not know starts again, and a trial that has ended
        # does not. The order matters to a Gaussian process.
        self.trials = {x: trials[x] for x in sorted(state["start_order"], key=int)}
        self.set_state(state)
        [self.trials[x] for x in (*self.end_order, *self._retry_queue)]

    def _rebuilt(self, trials: dict[str, Trial]) -> dict[str, Any]:
        """Returns the state of an oracle after the trials of a search."""
        has_ended = [x for x, trial in trials.items() if trial.status in ENDED]
        # The first trial has the defaults, and a trial of Hyperband may have the values
        # of another one.
        values = [trial.hyperparameters.values for trial in trials.values()][1:]
        sampled = [each for each in values if "tuner/trial_id" not in each]
        return {
            **self.get_state(),
            "start_order": list(trials),
            "end_order": has_ended,
            "retry_queue": [x for x in trials if x not in has_ended],
            "run_times": dict.fromkeys(has_ended, 1),
            "seed_state": self._seed_state + sum(map(_count, sampled)),
        }

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
    def _rebuilt(self, trials: dict[str, Trial]) -> dict[str, Any]:
        brackets: dict[str, int] = {}  # by trial
        rounds: dict[int, list[list[dict[str, str | None]]]] = {}
        for number, trial in trials.items():
            values = trial.hyperparameters.values
            past = values.get("tuner/trial_id")
            bracket = brackets[past] if past else values["tuner/bracket"]
            brackets[number] = bracket
            if bracket not in rounds:
                count = self._get_num_rounds(bracket)
                rounds[bracket] = [[] for _ in range(count)]
            entry = {"past_id": past, "id": number}
            rounds[bracket][values["tuner/round"]].append(entry)
        return {
            **super()._rebuilt(trials),
            "brackets": [
                {"bracket_num": bracket, "rounds": x} for bracket, x in rounds.items()
            ],
            "current_bracket": min(rounds),
        }


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

    def save(self) -> None:
        # The file of the tuner itself would contain nothing.
        if not self._is_worker():
            self.oracle.save()

    def reload(self) -> None:
        self._populate_initial_space()  # `make_tuner` reloads the oracle

    def _build_and_fit_model(self, trial: Trial, **options: Any) -> dict[str, float]:
        options["callbacks"] = self._checkpoints(trial)
        hyperparameters = trial.hyperparameters
        model = self._try_build(hyperparameters)
        metrics: dict[str, float] = self.hypermodel.fit(
            hyperparameters, model, **options
        )
        return metrics

    def _checkpoints(self, trial: Trial) -> list[keras.callbacks.Callback]:
        return []

    def on_trial_end(self, trial: Trial) -> None:
        if trial.message:
            folder = trial_folder(Path(self.directory), trial.trial_id)
            write_reason(folder, trial.message)  # a worker's call drops the message
        super().on_trial_end(trial)
        self._ended()


class _Hyperband(_StudyTuner, keras_tuner.Hyperband):
    """Hyperband, which continues the training of earlier trials."""

    def _checkpoints(self, trial: Trial) -> list[keras.callbacks.Callback]:
        path = Path(self._get_checkpoint_fname(trial.trial_id))
        return [_SaveBest(self.oracle.objective, path)]

    def _build_hypermodel(self, hp: HyperParameters) -> keras.Model:
        model = keras_tuner.Tuner._build_hypermodel(self, hp)
        if "tuner/trial_id" in hp.values:
            path = Path(self._get_checkpoint_fname(hp.values["tuner/trial_id"]))
            _load_checkpoint(model, path)
        return model


class _SaveBest(keras.callbacks.Callback):
    """Saves the weights of the best epoch, and their digest.

    Args:
        objective: `keras_tuner.Objective`.
        path: File of the weights.
    """

    def __init__(self, objective: keras_tuner.Objective, path: Path) -> None:
        super().__init__()
        self.objective = objective
        self.path = path
        self.best = -math.inf if objective.direction == "max" else math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        value = (logs or {})[self.objective.name]
        if self.objective.better_than(value, self.best):
            self.best = value
            save_weights(self.model, self.path)
            digests = {self.path.name: digest_of(self.path)}
            write_json(self.path.with_name(CHECKPOINT), digests)


class _CheckpointError(StudyError, keras_tuner.errors.FatalError):
    """Raised if the weights of an earlier trial are damaged; it ends the search."""


def _load_checkpoint(model: keras.Model, path: Path) -> None:
    record = path.with_name(CHECKPOINT)
    if record.exists():  # version 0.1.0 wrote none
        digest = read_json(record, _CheckpointError).get(path.name)
        check_digest(path, str(digest), _CheckpointError)
    try:
        model.load_weights(path)
    except (OSError, *MALFORMED) as error:
        raise _CheckpointError(f"{path} is damaged: {error}. {REMEDY}") from error


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
    model.builds = False
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it reloads
        tuner = kind(oracle, model, on_trial_end, directory=folder, project_name=TRIALS)
    model.builds = True
    # A worker does not reload: it asks the chief, which may be writing these files.
    if tuner.oracle is oracle:
        oracle.reload()
    return tuner


def _random_points(hyperparameters: HyperParameters, max_trials: int | None) -> int:
    """Returns the number of random trials at the start of a Bayesian search.

    They include the trial with the default values. KerasTuner's default, three per
    hyperparameter including the fixed ones, exceeds the trials of most searches.
    """
    searched = [p for p in hyperparameters.space if not isinstance(p, Fixed)]
    return max(3, min(3 * len(searched), (max_trials or 0) // 3))


def _count(values: dict[str, Any]) -> int:
    """Returns the number of values that a search has sampled."""
    return sum(not name.startswith("tuner/") for name in values)


def _bayesian(**options: Any) -> _BayesianOracle:
    try:
        return _BayesianOracle(**options)
    except ImportError as error:
        raise ImportError(
            "The Bayesian tuner needs scikit-learn and scipy: install them with "
            "`pip install fmlayers[bayesian]`."
        ) from error
