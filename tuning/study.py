"""Studies: folders of trials and their results."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from keras_tuner import HyperParameters

import fmlayers
from fmlayers.data import write_csv
from fmlayers.data.columns import describe_columns
from fmlayers.runs import Run, TrainingConfig
from fmlayers.runs.examples import Examples, Rows, split_validation
from fmlayers.runs.folder import locked
from fmlayers.runs.run_data import RunData, Tables
from fmlayers.runs.targets import positives
from fmlayers.runs.training import columns_of
from fmlayers.tuning.memory import default_limit
from fmlayers.tuning.study_files import (
    ended,
    read_record,
    read_summary,
    read_trials,
    reason_of,
    trial_folder,
)
from fmlayers.tuning.study_folder import (
    BEST,
    RECORD,
    StudyError,
    create,
    is_study,
    recover,
    set_aside,
)
from fmlayers.tuning.study_space import StudySpace
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.tuning_config import TuningConfig

# Entries that may change. The data and the search space that result from them may not:
# their fingerprints are compared.
MAY_CHANGE = ("training", "data", "fields", "search", "fixed")
HYPERBAND = "tuner/"  # prefix of the values that Hyperband stores for itself


class Study:
    """A folder of trials, with their configuration and their results.

    The folder contains `config.json` and KerasTuner's `trials/`. After a search, it
    also contains `trials.csv`, `summary.txt` and its record `summary.json`,
    `report.html`, the pictures of the report, and `best/`, an ordinary run.

    Args:
        path: Folder of the study.
        dataset: Optional data in memory on which the study was made; see `tune`.

    Raises:
        StudyError: If the folder is not a study.
    """

    def __init__(self, path: str | Path, *, dataset: Tables | None = None) -> None:
        self.path = Path(path)
        self.dataset = dataset
        if not is_study(self.path):
            raise StudyError(
                f"{self.path} is not a study: {self.path / RECORD} is missing, or not "
                "the record of a study."
            )
        self.record = read_record(self.path)
        self.config = TuningConfig.from_dict(self.record["study"])

    @property
    def hyperparameters(self) -> HyperParameters:
        """The search space, as KerasTuner's hyperparameters."""
        # `from_config` changes its argument.
        return HyperParameters.from_config(copy.deepcopy(self.record["space"]))

    def trials(self) -> pd.DataFrame:
        """Returns a table with a row for each trial that has ended, in order of start.

        Its columns are `trial`, `status` (`"COMPLETED"` or `"FAILED"`), the objective,
        `epochs`, `seconds`, one column per hyperparameter, and `reason`, which says why
        a trial failed.
        """
        return trials_of(self.path, self.config)

    def best(self) -> TrainingConfig:
        """Returns the configuration of the best trial, for a run on all training rows.

        The run trains for the number of epochs that was best on the validation rows.

        Raises:
            StudyError: If no trial was completed.
        """
        trials = self.trials()
        completed = trials[trials["status"] == "COMPLETED"]
        if not len(completed):
            reasons = trials["reason"].tolist()
            why = f" The first trial failed: {reasons[0]}" if reasons else ""
            raise StudyError(f"{self.path} has no completed trial.{why}")
        objective = self.config.objective
        order = completed.sort_values(
            objective, ascending=self.config.direction == "min", kind="stable"
        )
        return self.configured(int(order["trial"].iloc[0]))

    def configured(self, trial: int) -> TrainingConfig:
        """Returns the configuration of a trial, for a run on all training rows.

        Args:
            trial: Number of the trial in `trials()`.
        """
        (state,) = (s for s in ended(self.path) if int(s["trial_id"]) == trial)
        hp = HyperParameters.from_config(state["hyperparameters"])
        space = StudySpace(
            self.config, self.record["columns"], self.record["rows"]["fitting"]
        )
        config = space(hp)
        if config.method == "gibbs":
            return replace(config, validation_fraction=0.0)
        epochs = _metric(state, "epochs") or config.max_epochs
        changes: dict[str, Any] = {
            "max_epochs": int(epochs),
            "batch_size": min(
                int(config.batch_size or 1), self.record["rows"]["fitting"]
            ),
            "validation_fraction": 0.0,
        }
        return replace(config, **changes)

    @cached_property
    def run(self) -> Run:
        """The run of the best trial.

        Raises:
            RunError: If the best configuration has not been trained yet.
        """
        return Run(self.path / BEST, dataset=self.dataset)

    def summary(self) -> str:
        """Returns the text of `summary.txt`.

        Raises:
            StudyError: If the search has not written it yet, or it is damaged.
        """
        return read_summary(self.path)

    def write_table(self) -> None:
        """Writes the table that `trials()` returns to `trials.csv`."""
        write_csv(self.trials(), self.path / "trials.csv")


class Prepared:
    """The data and the search space of a study, which each of its processes prepares.

    Args:
        config: Configuration of the study.
        dataset: Optional data in memory; see `tune`.

    Raises:
        DataError: If the data cannot be used.
        ValueError: If a model does not take the columns of the data.
    """

    def __init__(self, config: TuningConfig, dataset: Tables | None = None) -> None:
        training = config.training
        self.config = config
        self.data = RunData.read(training, dataset)
        self.dataset = self.data.dataset
        self.columns = columns_of(training, self.dataset)
        self.split = self.data.split(training)
        train = positives(training, self.dataset, self.split.train)
        own = self.dataset.parts.get("validation")
        fitting, validation = split_validation(training, train, own)
        self.fitting, self.validation = fitting, validation
        self.space = StudySpace(config, self.columns, len(fitting))

    @cached_property
    def examples(self) -> Examples:
        """The encoded rows, shared by all trials."""
        return Examples(
            self.config.training,
            self.columns,
            self.dataset,
            self.fitting,
            self.validation,
        )

    def trial_model(self, workers: int = 1) -> TrialModel:
        """Returns the model of the trials.

        Args:
            workers: Number of processes that share the memory of this machine.
        """
        limit = self.config.memory_limit or default_limit(workers)
        return TrialModel(self.config, self.space, self.examples, limit)

    def record(self, hyperparameters: HyperParameters) -> dict[str, Any]:
        """Returns the content of the study's `config.json`."""
        space = hyperparameters.get_config()
        return {
            "study": self.config.to_dict(),
            "space": space,
            "columns": self.columns,
            "described": describe_columns(
                self.dataset,
                self.columns,
                chosen=self.config.training.named_kinds,
                **self.config.training.written_lists,
            ),
            "rows": {
                "fitting": len(self.fitting),
                "validation": len(self.validation),
                "test": len(self.split.test),
            },
            "fingerprints": {
                "data": self.dataset.fingerprint(),
                **self.data.tables_fingerprint(),
                "split": _fingerprint_of_rows(
                    self.fitting, self.validation, self.split.test
                ),
                "space": _digest(json.dumps(space["space"], sort_keys=True).encode()),
            },
            "fmlayers": fmlayers.__version__,
        }


def begin(path: Path, record: dict[str, Any], *, overwrite: bool) -> Study:
    """Returns the study at a folder, and creates it if it does not exist.

    Raises:
        StudyError: If the folder contains another study or other files.
    """
    recover(path)
    if is_study(path):
        with locked(path):
            if overwrite:
                set_aside(path)
            else:
                _check_same(path, Study(path).record, record)
                read_trials(path)  # before anything is written
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StudyError(f"{path} exists and is not a study. Choose another folder.")
    if not is_study(path):
        create(path, record)
    return Study(path)


def trials_of(path: Path, config: TuningConfig) -> pd.DataFrame:
    """Returns the table of `Study.trials`."""
    rows: list[dict[str, Any]] = []
    named: dict[str, None] = {}
    for state in ended(path):
        values = {
            name: value
            for name, value in state["hyperparameters"]["values"].items()
            if not name.startswith(HYPERBAND)
        }
        named |= dict.fromkeys(values)
        rows.append(
            {
                "trial": int(state["trial_id"]),
                "status": state["status"],
                config.objective: state["score"],
                "epochs": _metric(state, "epochs"),
                "seconds": _metric(state, "seconds"),
                **values,
                "reason": reason_of(trial_folder(path, state["trial_id"]))
                if state["status"] == "FAILED"
                else "",
            }
        )
    first = ["trial", "status", config.objective, "epochs", "seconds"]
    rows.sort(key=lambda row: row["trial"])
    return pd.DataFrame(rows, columns=[*first, *named, "reason"])


def _check_same(
    path: Path, existing: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    then, now = existing["fingerprints"], record["fingerprints"]
    if then["data"] != now["data"] or then.get("tables") != now.get("tables"):
        raise StudyError(
            f"{path} is a study of other data than "
            f"{record['study']['training']['data']}. Choose another folder."
        )
    if then["split"] != now["split"]:
        raise StudyError(
            f"{path} is a study of another split of the data: it compares trials on "
            "other validation rows. Choose another folder."
        )
    if then["space"] != now["space"]:
        changed = _changed(_by_name(existing["space"]), _by_name(record["space"]))
        raise StudyError(
            f"{path} is a study of another search space, which differs in "
            f"{', '.join(changed)}. Choose another folder."
        )
    # A record of an older version may lack a setting.
    was, is_now = (
        _flat(TuningConfig.from_dict(each["study"]).to_dict())
        for each in (existing, record)
    )
    changed = [
        f"{name} {was.get(name)!r} (now {is_now.get(name)!r})"
        for name in _changed(was, is_now)
    ]
    if changed:
        raise StudyError(
            f"{path} is a study with another configuration: {', '.join(changed)}. "
            "Choose another folder."
        )


def _by_name(space: Mapping[str, Any]) -> dict[str, Any]:
    return {entry["config"]["name"]: entry for entry in space["space"]}


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [x for x in sorted({*then, *now}) if then.get(x) != now.get(x)]


def _flat(study: Mapping[str, Any]) -> dict[str, Any]:
    flat = {**study["training"], **study}
    return {k: v for k, v in flat.items() if k not in MAY_CHANGE}


def _metric(state: Mapping[str, Any], name: str) -> float | None:
    metric = state["metrics"]["metrics"].get(name)
    return float(metric["observations"][-1]["value"][0]) if metric else None


def _fingerprint_of_rows(*parts: Rows) -> str:
    return _digest(b"".join(np.asarray(part, "<i8").tobytes() + b"|" for part in parts))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
