"""A search: trials under KerasTuner, a report, and the best run."""

import contextlib
import io
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_tuner import HyperParameters
from keras_tuner.engine.hyperparameters import Choice, Fixed
from keras_tuner.src import config as keras_tuner_config

from fmlayers._checks import positive
from fmlayers._json_files import read_json
from fmlayers._text_tables import aligned
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.folder import is_run, locked, partial_path
from fmlayers.runs.run_data import Tables, in_memory
from fmlayers.tuning import processes
from fmlayers.tuning.study import Prepared, Study, begin
from fmlayers.tuning.study_files import reason_of, trial_folder
from fmlayers.tuning.study_folder import BEST, StudyError, drop_former, former_studies
from fmlayers.tuning.study_report import write_pictures, write_report
from fmlayers.tuning.trial_progress import TrialProgress
from fmlayers.tuning.tuners import make_tuner
from fmlayers.tuning.tuning_config import TuningConfig
from fmlayers.tuning.worker import portable_specs, work

MAX_TRIALS = 20


def searched(config: TuningConfig) -> str:
    """Returns the search space of a study as a table of text.

    Args:
        config: The configuration of the study.

    Returns:
        A row per hyperparameter with its name, its values and its default.

    Raises:
        DataError: If the data cannot be used.
        ValueError: If `config.search` does not match the search space.
    """
    parameters = Prepared(config).space.narrowed().space
    head = ("hyperparameter", "values", "default")
    return aligned([head, *map(_described, parameters)], left=len(head))


def tune(
    config: TuningConfig,
    out: str | Path,
    *,
    max_trials: int | None = None,
    max_minutes: float | None = None,
    dataset: Tables | None = None,
    hyperparameters: HyperParameters | None = None,
    workers: int = 1,
    worker_timeout: float = processes.TIMEOUT_SECONDS,
    overwrite: bool = False,
) -> Study | None:
    """Searches over the hyperparameters, and trains the best configuration.

    Each trial is the first phase of a run. It trains on the training rows without the
    validation rows, stops early on the validation rows, and is compared on them. The
    best configuration is then trained on all training rows as an ordinary run,
    `out/best`. The test rows are read only then.

    The folder holds one study. The same call resumes an interrupted search: completed
    trials are kept, and an interrupted trial starts again. With a larger `max_trials`,
    the call extends the study. If KerasTuner's three environment variables are set,
    the process is the chief or one of the workers of a distributed search.

    Args:
        config: Configuration of the study.
        out: Folder of the study.
        max_trials: Total number of trials. Defaults to 20; Hyperband runs as many
            trials as it needs.
        max_minutes: Optional number of minutes after which no more trials start.
        dataset: Optional data in memory, instead of `config.training.data`; see
            `fmlayers.runs.train`. All trials must run in this process.
        hyperparameters: Optional KerasTuner hyperparameters that replace
            `config.search` and `config.fixed`. Hyperparameters that they leave out are
            searched, too.
        workers: Number of processes on this machine that run trials. Defaults to 1
            (this process). With more workers, each worker process imports the classes
            of the models that you have registered, so define them in a module.
        worker_timeout: Seconds without a sign of life after which a worker counts as
            lost, and its trial starts again on another worker.
        overwrite: Boolean, whether to replace a study at `out`. Until the new study has
            its best run, the former one is kept next to it, in a folder with
            `.fmlayers-former-` and a random part added to its name. Defaults to
            `False`.

    Returns:
        The study, or `None` in a worker.

    Raises:
        DataError: If the data cannot be used.
        StudyError: If `out` contains another study or other files, no trial was
            completed, or all workers are lost.
        ValueError: If an argument violates its constraint.
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
    if dataset is not None:
        if workers > 1 or role != "alone":
            raise ValueError(
                "`dataset` must be left out if several processes run the trials, since "
                "each reads the data. Name the file of the data in `config`."
            )
        training = in_memory(config.training, dataset)
        config = replace(config, training=training)
    if role == "worker":
        processes.wait_for(out, worker_timeout)
        work(out, worker_timeout)
        return None
    specs = portable_specs(config.models, workers) if workers > 1 else b""
    prepared = Prepared(config, dataset)
    if hyperparameters is None:
        hyperparameters = prepared.space.narrowed()
    hyperparameters = hyperparameters.copy()
    prepared.space(hyperparameters)  # adds the hyperparameters that they leave out
    record = prepared.record(hyperparameters)
    study = begin(out, record, overwrite=overwrite)
    study.dataset = dataset
    repairs = [f"data: {repair}" for repair in prepared.dataset.repairs]
    sys.stderr.write("\n".join([*record["described"], *repairs, ""]))
    for former in former_studies(out):
        print(f"the former study is kept until then: {former}", file=sys.stderr)
    with locked(out):
        deadline = math.inf
        if max_minutes is not None:
            deadline = time.monotonic() + 60 * max_minutes
        ended = _search(
            study, prepared, max_trials, deadline, workers, worker_timeout, role, specs
        )
        finish(study, ended)
    return study


def finish(study: Study, ended: str = "") -> None:
    """Writes the table and the report, and trains the best configuration.

    Args:
        study: The study.
        ended: The reason why the search ended before `max_trials`, if it did.

    Raises:
        StudyError: If no trial was completed.
    """
    study.write_table()
    notes = [*filter(None, [ended, write_pictures(study)])]
    write_report(study, notes)
    best = study.best()
    out = study.path / BEST
    if not (is_run(out) and _is_of(out, best)):
        is_started = _is_of(partial_path(out), best)
        train(
            best,
            out,
            dataset=study.dataset,
            resume=is_started,
            overwrite=not is_started,
        )
        write_report(study, notes)
    drop_former(study.path)


def _search(
    study: Study,
    prepared: Prepared,
    max_trials: int | None,
    deadline: float,
    workers: int,
    timeout: float,
    role: processes.Role,
    specs: bytes,
) -> str:
    """Returns why the search ended before `max_trials`, or `""` if it did not."""
    displays: list[TrialProgress] = []
    with ExitStack() as stack:
        stack.enter_context(_without_tracebacks())
        leads = role == "chief" or workers > 1
        if leads and role == "alone":
            stack.enter_context(processes.local_chief())
        tuner = make_tuner(
            study.config,
            study.path,
            prepared.trial_model(workers),
            study.hyperparameters,
            max_trials,
            lambda: displays[0].update(),
        )
        tuner.oracle.deadline = deadline
        progress = TrialProgress(
            study.config,
            tuner.oracle,
            lambda trial: reason_of(trial_folder(study.path, trial.trial_id)),
        )
        displays.append(stack.enter_context(progress))
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
            local = processes.LocalWorkers(study.path, timeout, specs)
            stack.callback(local.stop)
            local.start_all(workers)
        # KerasTuner's server prints each condition that a worker sends.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        processes.lead(tuner, study.path, progress, timeout, local)
    return _why_ended(tuner.oracle, max_trials)


def _why_ended(oracle: Any, max_trials: int | None) -> str:
    trials = len(oracle.end_order)
    if oracle.exhausted == 1:
        return "The search space has a single combination of values, which was tried."
    if oracle.exhausted:
        return f"The search space has {oracle.exhausted} combinations; all were tried."
    total = f" of {max_trials}" if max_trials else ""
    if oracle.is_late:
        return f"The search ended after {trials}{total} trials, at the time limit."
    if max_trials and trials < max_trials:
        return (
            f"The search ended after {trials}{total} trials: the tuner has no more "
            "trials to run."
        )
    return ""


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Keeps KerasTuner from printing the tracebacks of failed trials."""
    before, keras_tuner_config.DEBUG = keras_tuner_config.DEBUG, False
    try:
        yield
    finally:
        keras_tuner_config.DEBUG = before


def _is_of(run: Path, config: TrainingConfig) -> bool:
    """Returns whether a finished or interrupted run has a configuration."""
    file = run / "config.json"
    if not file.is_file():
        return False
    record, expected = read_json(file, StudyError), config.to_dict()
    return {name: record.get(name) for name in expected} == expected


def _check(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None:
            positive(name, value)


def _described(parameter: Any) -> tuple[str, str, str]:
    if isinstance(parameter, Choice):
        values = ", ".join(map(str, parameter.values))
    elif isinstance(parameter, Fixed):
        values = "fixed"
    else:
        values = f"{parameter.min_value:g} ... {parameter.max_value:g}"
    default = parameter.default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return parameter.name, values, shown
