"""Workers: processes that run the trials of a study for its chief."""

import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

from fmlayers.models.specs import find, register
from fmlayers.tuning import processes
from fmlayers.tuning.study import Prepared, Study
from fmlayers.tuning.study_folder import StudyError
from fmlayers.tuning.tuners import make_tuner


def work(
    path: Path, timeout: float, siblings: int = 1, parent: int | None = None
) -> None:
    """Runs trials of a study for its chief, until there are no more.

    A worker that starts after the end of the search exits, too, if no chief extends the
    study within `timeout` seconds.

    Args:
        path: Folder of the study.
        timeout: The `worker_timeout` of `tune`.
        siblings: Number of workers that share the memory of this machine. Defaults to
            1.
        parent: Number of the process of the chief, if it has started this one.

    Raises:
        StudyError: If the data differ from those of the study, or the chief is lost.
    """
    study = Study(path)
    name = os.environ[processes.VARIABLES[0]]
    prepared = Prepared(study.config)
    record = prepared.record(study.hyperparameters)
    if record["fingerprints"] != study.record["fingerprints"]:
        raise StudyError(
            f"The data on this machine must be those of the study {path}. Received: "
            "other rows."
        )
    model = prepared.trial_model(siblings)
    tuner = make_tuner(
        study.config, path, model, study.hyperparameters, max_trials=None
    )
    chief = processes.CHIEF
    with processes.showing_life(path, name, timeout, of=chief, parent=parent) as lost:
        try:
            tuner.search()
        except KeyboardInterrupt:
            if not lost.is_set():
                raise
            if not processes.has_ended(path):
                raise StudyError(
                    f"The chief of {path} is lost. Run the same command again to "
                    "resume the search."
                ) from None


def main() -> None:
    """Runs trials for the chief that has started this process."""
    path, timeout, count, parent = sys.argv[1:]
    for spec in pickle.load(sys.stdin.buffer):
        register(spec)
    work(Path(path), float(timeout), siblings=int(count), parent=int(parent))


def portable_specs(models: Sequence[str], workers: int) -> bytes:
    """Returns the pickled `ModelSpec`s of models, for worker processes to register.

    Args:
        models: Names of the models.
        workers: Number of worker processes.

    Raises:
        ValueError: If another process cannot import the class of a model or its
            `num_weights`.
    """
    specs = [find(model) for model in models]
    for spec in specs:
        try:
            is_portable = b"__main__" not in pickle.dumps(spec)
        except (pickle.PicklingError, AttributeError, TypeError):  # a local class
            is_portable = False
        if not is_portable:
            raise ValueError(
                f"`workers` must be 1 for the model {spec.name!r}, since other "
                f"processes cannot import {spec.model_class} or its `num_weights`. "
                "Define them at the top level of a module that your script imports. "
                f"Received: workers={workers}."
            )
    return pickle.dumps(specs)
