import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from fmlayers import _hosts
from fmlayers._digests import check_digest, digest_of
from fmlayers._json_files import read_json, write_json
from fmlayers._keras_files import save_weights
from fmlayers._training.variables_file import load_variables, save_variables
from fmlayers.distributed.agreement import gathered
from fmlayers.distributed.spread_values import SpreadValue
from fmlayers.runs.folder import (
    H5,
    NPZ,
    PROGRESS,
    DivergenceError,
    RunError,
    checkpoints_in,
)
from fmlayers.runs.model import is_of_package

PHASES = ("search", "refit")


@dataclass
class Progress:
    """The progress of a run, from which `--resume` continues.

    Attributes:
        history: One dict per epoch: phase, epoch (from 1), seconds, loss and metrics.
        weights: Dict from phase to the file of its latest weights.
        best: File with the weights of the best epoch, for a run without refit.
        metric: Name of the metric for early stopping, without the prefix `val_`. Lower
            is better.
        digests: Dict from the files of weights to their SHA-256 digests. Version 0.1.0
            recorded none.
        shares_graph: Whether both phases use the same `Frame`. Earlier versions did not
            record it; there, each phase had a frame of its own.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    best: str | None = None
    metric: str = "rmse"
    digests: dict[str, str] = field(default_factory=dict)
    shares_graph: bool = True

    @classmethod
    def read(cls, folder: Path, metric: str = "rmse") -> Self:
        """Returns the progress that a folder contains, or one without epochs.

        Raises:
            RunError: If the file is damaged.
            DivergenceError: If training diverged. Version 0.1.0 did not stop.
        """
        path = folder / PROGRESS
        if not path.exists():
            return cls(metric=metric)
        content = read_json(path, RunError)
        try:
            progress = cls(**{"shares_graph": False, **content})
            for row in progress.history:
                check_finite(row["phase"], row["epoch"], row)
            for phase in PHASES:
                epochs = [row["epoch"] for row in progress.epochs(phase)]
                if epochs != list(range(1, len(epochs) + 1)):
                    raise ValueError(f"it has the epochs {epochs}")
            if {row["phase"] for row in progress.history} != set(progress.weights):
                raise ValueError("its phases and weights differ")
            for name in progress.files:
                if Path(name).name != name:
                    raise ValueError(f"{name!r} is not the name of a file")
            if progress.epochs("search"):
                progress.best_epoch()
        except DivergenceError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is not the progress of a run: {error}. Start again with "
                "`--overwrite`."
            ) from error
        return progress

    def write(self, folder: Path) -> None:
        self.digests = {name: self.digests[name] for name in sorted(self.files)}
        if _hosts.is_first():
            write_json(folder / PROGRESS, asdict(self))

    @property
    def files(self) -> set[str]:
        """The files of weights that `--resume` needs."""
        return {*self.weights.values(), *filter(None, [self.best])}

    def epochs(self, phase: str) -> list[dict[str, Any]]:
        return [row for row in self.history if row["phase"] == phase]

    def best_epoch(self) -> int:
        """Returns the epoch (from 1) with the lowest validation metric."""
        rows = self.epochs("search")
        return int(min(rows, key=lambda row: row[f"val_{self.metric}"])["epoch"])

    def is_stale(self, patience: int) -> bool:
        """Returns whether the last `patience` epochs did not improve the metric."""
        rows = self.epochs("search")
        return bool(rows) and rows[-1]["epoch"] - self.best_epoch() >= patience

    def save(self, model: keras.Model, folder: Path, phase: str) -> str:
        """Saves the state after the latest epoch of a phase. Returns the file."""
        # Keras gathers the rows of tables that are spread over hosts, and saves custom
        # layers, which may have state other than variables.
        by_keras = _hosts.mesh() is not None or not is_of_package(model)
        save, suffix = (save_weights, H5) if by_keras else (save_variables, NPZ)
        name = f"{phase}-{len(self.epochs(phase)):04d}{suffix}"
        save(model, folder / name)
        self.weights[phase] = name
        self.digests[name] = digest_of(folder / name)
        return name

    def load(self, model: keras.Model, folder: Path, name: str | None) -> None:
        """Loads a state that `save` wrote, in this version or an earlier one.

        Raises:
            RunError: If the file is missing or damaged.
        """
        path = folder / str(name)
        if name in self.digests:
            check_digest(path, self.digests[name], RunError)
        try:
            if path.name.endswith(H5):
                model.load_weights(path)
            else:
                load_variables(model, path)
        except Exception as error:  # also those of h5py and Keras
            raise RunError(
                f"{path} is not a checkpoint that loads: "
                f"{str(error).removeprefix(f'{path} ').rstrip('.')}. Start again with "
                "`--overwrite`."
            ) from error

    def remove_others(self, folder: Path) -> None:
        """Removes the weights that `--resume` does not need."""
        for path in checkpoints_in(folder) if _hosts.is_first() else ():
            if path.name not in self.files:
                path.unlink()


def check_finite(phase: str, epoch: int, metrics: dict[str, Any]) -> None:
    """Checks the metrics of an epoch.

    Raises:
        DivergenceError: If one is NaN or infinite.
    """
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise diverged(phase, epoch, f"{name} is {value}")


def diverged(phase: str, epoch: int, reason: str) -> DivergenceError:
    return DivergenceError(
        f"Training diverged in epoch {epoch} of the phase {phase!r}: {reason}. Lower "
        "`learning_rate`, or scale the ratings if they are large."
    )


class Checkpoint(keras.callbacks.Callback):
    """Saves the weights, the optimizer and the history at the end of each epoch.

    Each epoch writes a new file of weights and then replaces `progress.json`, which
    names that file. If training is interrupted in between, the epoch is repeated.

    Args:
        folder: The folder of the run.
        progress: The progress to update.
        phase: `"search"` or `"refit"`.
        keep_best: Whether to keep the weights of the best epoch. Defaults to `False`.

    Raises:
        DivergenceError: At the end of an epoch, if a metric, a weight or a variable of
            the optimizer is NaN or infinite. The epoch is not saved.
    """

    def __init__(
        self, folder: Path, progress: Progress, phase: str, *, keep_best: bool = False
    ) -> None:
        super().__init__()
        self.folder = folder
        self.progress = progress
        self.phase = phase
        self.keep_best = keep_best

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = round(time.perf_counter() - self.started, 3)
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        check_finite(self.phase, epoch + 1, metrics)
        variables = [*self.model.trainable_variables, *self.model.optimizer.variables]
        # Each process checks its rows of the tables that are spread over hosts.
        wrong = gathered([not is_finite(variable) for variable in variables])
        for variable, is_wrong in zip(
            variables, np.any(wrong, axis=0).tolist(), strict=True
        ):
            if is_wrong:
                reason = f"{variable.path} has a value that is NaN or infinite"
                raise diverged(self.phase, epoch + 1, reason)
        row = {"phase": self.phase, "epoch": epoch + 1, "seconds": seconds, **metrics}
        self.progress.history.append(row)
        name = self.progress.save(self.model, self.folder, self.phase)
        if self.keep_best and self.progress.best_epoch() == epoch + 1:
            self.progress.best = name
        self.progress.write(self.folder)
        self.progress.remove_others(self.folder)


def is_finite(variable: keras.Variable) -> bool:
    """Returns whether all values of a variable in this process are finite."""
    return all(
        values.dtype.kind not in "fV" or bool(np.isfinite(values).all())
        for values in SpreadValue.of(variable).rows.values()
    )


class EarlyStop(keras.callbacks.Callback):
    """Stops training after `patience` epochs in a row without a better metric.

    It reads the history of `progress`, so a resumed run stops at the same epoch.

    Args:
        progress: The progress of the run.
        patience: Positive integer.
    """

    def __init__(self, progress: Progress, patience: int) -> None:
        super().__init__()
        self.progress = progress
        self.patience = patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.progress.is_stale(self.patience):
            self.model.stop_training = True
