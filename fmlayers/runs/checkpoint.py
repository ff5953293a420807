import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import keras

from fmlayers._files import whole_file


@dataclass
class Progress:
    """The progress of a run, from which `--resume` continues.

    Attributes:
        history: One dict per epoch: phase, epoch (from 1), seconds, loss and metrics.
        weights: Dict from phase to the file of its latest weights.
        best: File with the weights of the best epoch, for a run without refit.
        metric: Name of the metric for early stopping, without the prefix `val_`. Lower
            is better.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    best: str | None = None
    metric: str = "rmse"

    @classmethod
    def read(cls, folder: Path, metric: str = "rmse") -> Self:
        path = folder / "progress.json"
        if path.exists():
            return cls(**json.loads(path.read_text("utf-8")))
        return cls(metric=metric)

    def write(self, folder: Path) -> None:
        with whole_file(folder / "progress.json") as written:
            written.write_text(json.dumps(vars(self)), "utf-8")

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


class Checkpoint(keras.callbacks.Callback):
    """Saves the weights, the optimizer and the history at the end of each epoch.

    Each epoch writes a new file of weights and then replaces `progress.json`, which
    names that file. If training is interrupted in between, the epoch is repeated.

    Args:
        folder: The folder of the run.
        progress: The progress to update.
        phase: `"search"` or `"refit"`.
        keep_best: Whether to keep the weights of the best epoch. Defaults to `False`.
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
        row = {"phase": self.phase, "epoch": epoch + 1, "seconds": seconds, **metrics}
        self.progress.history.append(row)
        name = f"{self.phase}-{epoch + 1:04d}.weights.h5"
        self.model.save_weights(self.folder / name)
        self.progress.weights[self.phase] = name
        if self.keep_best and self.progress.best_epoch() == epoch + 1:
            self.progress.best = name
        self.progress.write(self.folder)
        needed = {*self.progress.weights.values(), self.progress.best}
        for path in self.folder.glob("*.weights.h5"):
            if path.name not in needed:
                path.unlink()


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
