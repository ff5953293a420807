"""The search: trials under KerasTuner, a report, and the best as an ordinary run."""

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from keras_tuner import HyperParameters
from keras_tuner.engine import hyperparameters as kinds
from keras_tuner.src import config as keras_tuner_config

from fmlayers.runs import train
from fmlayers.runs.folder import is_run, locked, partial_path, read_json
from fmlayers.tuning import processes
from fmlayers.tuning.memory import default_limit
from fmlayers.tuning.study import (
    BEST,
    Prepared,
    Study,
    StudyError,
    begin,
    drop_replaced,
    reason_of,
)
from fmlayers.tuning.study_report import write_pictures, write_report
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.trial_progress import TrialProgress
from fmlayers.tuning.tuners import TRIALS, make_tuner
from fmlayers.tuning.tuning_config import TuningConfig

MAX_TRIALS = 20


def searched(config: TuningConfig) -> str:
    """Returns as a table what a study would search, and what it would hold.

    Raises:
        DataError: If the data cannot be used.
        ValueError: If the space is not as `config.search` has it.
    """
    parameters = Prepared(config).space.narrowed().space
    rows = [("hyperparameter", "values", "default"), *map(_described, parameters)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def tune(
    config: TuningConfig,
    out: str | Path,
    *,
    max_trials: int | None = None,
    max_minutes: float | None = None,
    hyperparameters: HyperParameters | None = None,
    workers: int = 1,
    worker_timeout: float = processes.TIMEOUT,
    overwrite: bool = False,
) -> Study | None:
    """Searches as `config` says, and trains the best that was found.

    Each trial is the first phase of a run: it is fitted to the training rows without
    the validation rows, with early stopping on these, by which trials are compared. The
    best is trained on all training rows as an ordinary run, `out/best`, whose test rows
    nothing before has seen.

    The folder is one study's. The same call goes on where an interrupted one was, and
    with more trials extends one that was done: trials that have ended are kept, one in
    flight begins anew. With KerasTuner's three environment variables set, the process
    is the chief of several or one of its workers.

    Args:
        config: What to search.
        out: Folder of the study.
        max_trials: How many trials there are to be in all. Defaults to 20, with
            Hyperband to as many as it needs.
        max_minutes: Optional minutes after which no trial begins.
        hyperparameters: Optional hyperparameters of KerasTuner, in place of what
            `config.search` and `config.fixed` make of the space. Others than these are
            searched, too.
        workers: How many processes of this machine run trials. Defaults to 1, this one.
        worker_timeout: Seconds without a sign of life after which a worker's trial is
            given to another.
        overwrite: Whether a study at `out` is replaced. It stands beside, `.replaced`
            added to its name, until the new one has its best run. Defaults to `False`.

    Returns:
        The study; `None` of a worker.

    Raises:
        DataError: If the data cannot be used.
        StudyError: If `out` is taken or of another study, no trial was completed, or
            all workers are gone.
    """
    out = Path(out).resolve()
    if max_trials is None and config.tuner != "hyperband":
        max_trials = MAX_TRIALS
    _check(
        max_trials=max_trials,
        max_minutes=max_minutes,
        workers=workers,
        worker_timeout=worker_timeout,
    )
    role = processes.role()
    if role == "worker":
        processes.wait_for(out, worker_timeout)
        work(out, worker_timeout)
        return None
    prepared = Prepared(config)
    if hyperparameters is None:
        hyperparameters = prepared.space.narrowed()
    hyperparameters = hyperparameters.copy()
    prepared.space(hyperparameters)  # adds what they leave out
    record = prepared.record(hyperparameters)
    study = begin(out, record, overwrite=overwrite)
    print(*record["described"], sep="\n", file=sys.stderr)
    with locked(out):
        deadline = math.inf
        if max_minutes is not None:
            deadline = time.monotonic() + 60 * max_minutes
        ended = _search(
            study, prepared, max_trials, deadline, workers, worker_timeout, role
        )
        finish(study, ended)
    return study


def work(path: Path, timeout: float, siblings: int | None = None) -> None:
    """Runs trials of a study for its chief, until there are none left.

    One that comes when the search has ended leaves, too, after `timeout` seconds in
    which no chief has come to extend it.

    Args:
        path: The study's folder.
        timeout: As `worker_timeout` of `tune`.
        siblings: How many workers the chief has started on this machine, if it has
            started this one.

    Raises:
        StudyError: If the chief is gone.
    """
    study = Study(path)
    name = os.environ[processes.VARIABLES[0]]
    prepared = Prepared(study.config)
    record = prepared.record(study.hyperparameters)
    if record["fingerprints"] != study.record["fingerprints"]:
        raise StudyError(f"The data of {path} are others on this machine.")
    model = _trial_model(study, prepared, siblings or 1)
    tuner = make_tuner(
        study.config, path, model, study.hyperparameters, max_trials=None
    )
    chief = processes.CHIEF
    child = siblings is not None
    with processes.showing_life(path, name, timeout, of=chief, child=child) as gone:
        try:
            tuner.search()
        except KeyboardInterrupt:
            if not gone.is_set():
                raise
            if not processes.has_ended(path):
                raise StudyError(f"The chief of {path} is gone.") from None


def finish(study: Study, ended: str = "") -> None:
    """Writes the table and the report, and trains the best trial.

    Args:
        study: The study.
        ended: Why the search has ended before the trials that were asked for.

    Raises:
        StudyError: If no trial was completed.
    """
    study.write_table()
    notes = [*filter(None, [ended, write_pictures(study)])]
    write_report(study, notes)
    best = study.best()
    out = study.path / BEST
    if is_run(out) and _is_of(read_json(out / "config.json"), best.to_dict()):
        return
    partial = partial_path(out) / "config.json"
    begun = partial.is_file() and _is_of(read_json(partial), best.to_dict())
    train(best, out, resume=begun, overwrite=not begun)
    write_report(study, notes)
    drop_replaced(study.path)


def _search(
    study: Study,
    prepared: Prepared,
    max_trials: int | None,
    deadline: float,
    workers: int,
    timeout: float,
    role: processes.Role,
) -> str:
    """Returns why fewer trials have ended than were asked for; "" if they have not."""
    model = _trial_model(study, prepared, workers)
    told: list[TrialProgress] = []
    with ExitStack() as stack:
        stack.enter_context(_without_tracebacks())
        leads = role == "chief" or workers > 1
        if leads and role == "alone":
            stack.enter_context(processes.local_chief())
        tuner = make_tuner(
            study.config,
            study.path,
            model,
            study.hyperparameters,
            max_trials,
            lambda: told[0].update(),
        )
        tuner.oracle.deadline = deadline
        progress = TrialProgress(
            study.config,
            tuner.oracle,
            lambda trial: reason_of(study.path / TRIALS / f"trial_{trial.trial_id}"),
            workers,
        )
        told.append(stack.enter_context(progress))
        if max_trials and len(tuner.oracle.end_order) >= max_trials:
            return ""
        if not leads:
            tuner.search()
            return _why_ended(tuner.oracle, max_trials)
        stack.enter_context(
            processes.showing_life(study.path, processes.CHIEF, timeout)
        )
        tuner.save()
        local = None
        if role == "alone":
            local = processes.LocalWorkers(study.path, workers, timeout)
            stack.callback(local.stop)
        # KerasTuner's server prints each condition that a worker sends.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        processes.lead(tuner, study.path, progress, timeout, local)
    return _why_ended(tuner.oracle, max_trials)


def _why_ended(oracle: Any, max_trials: int | None) -> str:
    trials = len(oracle.end_order)
    if oracle.exhausted == 1:
        return "The search space has a single combination of values, and it was tried."
    if oracle.exhausted:
        return f"The search space has {oracle.exhausted} combinations; all were tried."
    asked = f" of {max_trials}" if max_trials else ""
    if oracle.is_late:
        return f"The search ended after {trials}{asked} trials: its time was up."
    if max_trials and trials < max_trials:
        return f"The search ended after {trials}{asked} trials: its tuner has no more."
    return ""


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Lets KerasTuner print none: the reason of a failure is told in a line."""
    before, keras_tuner_config.DEBUG = keras_tuner_config.DEBUG, False
    try:
        yield
    finally:
        keras_tuner_config.DEBUG = before


def _trial_model(study: Study, prepared: Prepared, workers: int) -> TrialModel:
    limit = study.config.memory_limit or default_limit(workers)
    return TrialModel(study.config, prepared.space, prepared.examples, limit)


def _is_of(record: dict[str, Any], config: dict[str, Any]) -> bool:
    return {name: record.get(name) for name in config} == config


def _check(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}.")


def _described(parameter: Any) -> tuple[str, str, str]:
    if isinstance(parameter, kinds.Choice):
        values = ", ".join(map(str, parameter.values))
    elif isinstance(parameter, kinds.Fixed):
        values = "held"
    else:
        values = f"{parameter.min_value:g} ... {parameter.max_value:g}"
    default = parameter.default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return parameter.name, values, shown
