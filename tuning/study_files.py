"""The records of a study: each is checked before it is used."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_tuner import HyperParameters
from keras_tuner.engine.trial import Trial

from fmlayers._json_files import read_json, write_json
from fmlayers.tuning.study_folder import RECORD, TRIALS, StudyError
from fmlayers.tuning.tuning_config import TuningConfig

ORACLE = "oracle.json"
REASON = "failure.json"
SUMMARY = "summary.json"  # the content of summary.txt
ENDED = ("COMPLETED", "FAILED")
# Errors of a file whose content has another structure.
MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
REMEDY = (
    "Restore it from a copy, or start the search again in another folder or with "
    "`overwrite`."
)
_NUMBER = (int, float)
_STUDY = {
    "study": dict,
    "space": dict,
    "columns": dict,
    "rows": dict,
    "fingerprints": dict,
    "fmlayers": str,
}
_TRIAL = {
    "trial_id": str,
    "hyperparameters": dict,
    "metrics": dict,
    "status": str,
}
_ORACLE = {
    "ongoing_trials": dict,
    "hyperparameters": dict,
    "start_order": list,
    "end_order": list,
    "run_times": dict,
    "retry_queue": list,
    "seed": int,
    "seed_state": int,
    "tried_so_far": list,
    "id_to_hash": dict,
    "display": dict,
}


def read_record(path: Path) -> dict[str, Any]:
    """Returns the record of a study, the content of its `config.json`.

    Raises:
        StudyError: If the file is damaged.
    """
    file = path / RECORD
    record = read_json(file, StudyError)
    _check_entries(file, record, _STUDY)
    _check_entries(
        file, record["rows"], dict.fromkeys(("fitting", "validation", "test"), int)
    )
    _check_entries(
        file,
        record["fingerprints"],
        dict.fromkeys(("data", "split", "space"), str),
    )
    try:
        TuningConfig.from_dict(record["study"])
        HyperParameters.from_config(copy.deepcopy(record["space"]))
    except MALFORMED as error:
        raise _malformed(file, error) from error
    return record


def read_summary(path: Path) -> str:
    """Returns the summary of a study.

    Raises:
        StudyError: If it has not been written yet, or its file is damaged.
    """
    file = path / SUMMARY
    if file.exists():
        record = read_json(file, StudyError)
        _check_entries(file, record, {"summary": str})
        return str(record["summary"])
    file = path / "summary.txt"  # version 0.1.0 wrote it alone
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise StudyError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{file} is damaged: {error}. {REMEDY}") from error


def trial_folder(path: Path, trial: str) -> Path:
    return path / TRIALS / f"trial_{trial}"


def read_oracle(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Returns the state of KerasTuner's oracle.

    Returns:
        The state and `""`, or `None` and why the file cannot be used.
    """
    file = path / TRIALS / ORACLE
    try:
        state = read_json(file, StudyError)
        _check_entries(file, state, _ORACLE)
        for name in ("start_order", "end_order", "retry_queue"):
            [int(trial) for trial in state[name]]
    except (StudyError, TypeError) as error:
        return None, str(error)
    except ValueError as error:
        return None, str(_malformed(file, error))
    return state, ""


def read_trials(path: Path) -> dict[str, dict[str, Any]]:
    """Returns KerasTuner's state of each trial, in the order of their numbers.

    Raises:
        StudyError: If a file is damaged, or the file of a trial is missing.
    """
    trials = path / TRIALS
    # A trial is in its file before it is in that of the oracle.
    oracle, _ = read_oracle(path)
    folders = {}
    for folder in trials.glob("trial_*"):
        number = folder.name.removeprefix("trial_")
        if number.isdecimal() and (folder / "trial.json").exists():
            folders[number] = folder
    if not folders and _has_table(path):
        raise StudyError(f"{trials} is missing or without trials. {REMEDY}")
    states = {
        number: _read_trial(folders[number] / "trial.json", number)
        for number in sorted(folders, key=int)
    }
    known = oracle["start_order"] if oracle else ()
    missing = {int(x) for x in known} | set(range(max(map(int, states), default=0)))
    missing -= {int(x) for x in states}
    if missing:
        width = len(next(iter(states or known)))
        file = trial_folder(path, f"{min(missing):0{width}}") / "trial.json"
        raise StudyError(f"{file} is missing. {REMEDY}")
    return states


def ended(path: Path) -> list[dict[str, Any]]:
    """Returns KerasTuner's state of each trial that has ended, in order of start.

    Raises:
        StudyError: See `read_trials`.
    """
    return [x for x in read_trials(path).values() if x["status"] in ENDED]


def reason_of(folder: Path) -> str:
    """Returns why the trial in a folder failed, without the class of the error.

    Raises:
        StudyError: If the file with the reason is damaged.
    """
    file, old = folder / REASON, folder / "failure.txt"  # of version 0.1.0
    text = ""
    if file.exists():
        record = read_json(file, StudyError)
        _check_entries(file, record, {"reason": str})
        text = record["reason"]
    elif old.is_file():
        text = old.read_text("utf-8", "replace")
    lines = text.strip().splitlines()
    if not lines:
        return "unknown"
    _, colon, reason = lines[-1].partition("Error: ")
    return reason if colon else lines[-1]


def write_reason(folder: Path, message: str) -> None:
    """Writes why the trial in a folder failed."""
    write_json(folder / REASON, {"reason": message})


def _has_table(path: Path) -> bool:
    """Returns whether there is a `trials.csv` with at least one trial."""
    table = path / "trials.csv"
    return table.is_file() and table.read_bytes().count(b"\n") > 1


def _read_trial(file: Path, number: str) -> dict[str, Any]:
    state = read_json(file, StudyError)
    _check_entries(file, state, _TRIAL)
    if state["trial_id"] != number:
        raise StudyError(f"{file} is of the trial {state['trial_id']!r}. {REMEDY}")
    try:
        trial = Trial.from_state(copy.deepcopy(state))
        has_score = isinstance(state["score"], _NUMBER) and math.isfinite(trial.score)
        if state["status"] == "COMPLETED" and not has_score:
            raise ValueError("the score of a completed trial must be a finite number")
        for name in ("epochs", "seconds"):
            metric = state["metrics"]["metrics"].get(name)
            if metric is not None:
                float(metric["observations"][-1]["value"][0])
        dict(state["hyperparameters"]["values"])
    except MALFORMED as error:
        raise _malformed(file, error) from error
    return state


def _check_entries(
    file: Path, content: Mapping[str, Any], kinds: Mapping[str, type]
) -> None:
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise StudyError(
                f"{file} must have an entry {name!r}, a {kind.__name__}. Received: "
                f"{content.get(name)!r:.60}. {REMEDY}"
            )


def _malformed(file: Path, error: Exception) -> StudyError:
    return StudyError(f"{file} is damaged: {type(error).__name__}: {error}. {REMEDY}")
