from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from fmlayers.data import Dataset
from fmlayers.data.kind_names import Kind
from fmlayers.runs.checkpoint import Checkpoint, EarlyStop, Progress, check_finite
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.epoch_progress import EpochProgress
from fmlayers.runs.examples import (
    Examples,
    Rows,
    default_batch_size,
    split_validation,
)
from fmlayers.runs.fitting import compiled_model, fit, restarted
from fmlayers.runs.group import num_shares, rows_of_batch
from fmlayers.runs.model import Frame
from fmlayers.runs.targets import positives
from fmlayers.runs.unit import to_unit_of_data


class Trainer:
    """Trains the model of a run by gradient descent, in two phases.

    The phase "search" finds the number of epochs by early stopping, and the phase
    "refit" trains on all training rows.

    Args:
        config: The configuration.
        columns: Dict from the names of the columns to encode to their kinds.
        dataset: The data.
        folder: The folder in which the progress is saved and from which it is resumed.
    """

    remedy = "Lower `dim` or `batch_size`."  # if the memory is not enough

    def __init__(
        self,
        config: TrainingConfig,
        columns: Mapping[str, Kind],
        dataset: Dataset,
        folder: Path,
    ) -> None:
        self.config = config
        self.columns = columns
        self.dataset = dataset
        self.folder = folder
        # Validation rows in a table of their own are not trained on.
        self.refits = config.refit and "validation" not in dataset.parts
        self.metric = metric_of(config)
        self.progress = Progress.read(folder, self.metric)
        self.rows: dict[str, int] = {}
        self.batch_size = 0
        self.epochs = config.max_epochs
        self.best: float | None = None
        self.frame: Frame | None = None

    def run(self, train: Rows) -> keras.Model:
        """Returns the model, trained on the rows `train` of the ratings."""
        model = self._trained(train)
        to_unit_of_data(model)
        return model

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of `history.csv`."""
        return self.progress.history

    @property
    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` says about the training."""
        return {
            f"validation_{self.metric}": self.best,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "rows": self.rows,
        }

    def check(self, metrics: dict[str, Any]) -> None:
        """Checks the metrics of the trained model.

        Raises:
            DivergenceError: If one is NaN or infinite.
        """
        last = self.history[-1]
        check_finite(last["phase"], last["epoch"], metrics)

    def write(self, folder: Path) -> None:
        """Writes the files of the run that only this method has: none."""

    def _trained(self, train: Rows) -> keras.Model:
        config = self.config
        train = positives(config, self.dataset, train)
        own = self.dataset.parts.get("validation")
        fitting, validation = split_validation(config, train, own)
        self.rows = {"train": len(train), "validation": len(validation)}
        size = config.batch_size or default_batch_size(config, len(fitting))
        self.batch_size = size - size % num_shares()
        whole = self.dataset.table()

        def examples(rows: Rows, held_out: Rows | None = None) -> Examples:
            return Examples(
                config, self.columns, self.dataset, rows, held_out, whole=whole
            )

        if not len(validation):
            return self._fit("refit", examples(train), self.epochs)
        if not config.validation_fraction:
            return self._fit("refit", examples(fitting), self.epochs)
        first, second = examples(fitting, validation), None
        if self.refits:
            second = examples(train)
            if self.progress.shares_graph:
                self.frame = Frame.of(
                    config, *((each.encoder, each.table) for each in (first, second))
                )
        model = self._fit("search", first, self.epochs)
        del first  # its arrays are no longer needed
        self.epochs = self.progress.best_epoch()
        best = self.progress.epochs("search")[self.epochs - 1]
        self.best = float(best[f"val_{self.metric}"])
        if second is not None:
            return self._fit("refit", second, self.epochs, model)
        self.progress.load(model, self.folder, self.progress.best)
        return model

    def _fit(
        self,
        phase: str,
        examples: Examples,
        epochs: int,
        trained: keras.Model | None = None,
    ) -> keras.Model:
        config = self.config
        batch_size = rows_of_batch(self.batch_size, len(examples))
        model = compiled_model(config, examples, batch_size, self.frame)
        if trained is not None:
            model = restarted(trained, model)
        done = len(self.progress.epochs(phase))
        if done:
            self.progress.load(model, self.folder, self.progress.weights[phase])
        searching = phase == "search"
        if done == epochs or (searching and self.progress.is_stale(config.patience)):
            return model
        shown = EpochProgress(phase, epochs, done, metric=self.metric)
        callbacks = [
            Checkpoint(
                self.folder,
                self.progress,
                phase,
                keep_best=searching and not self.refits,
            ),
            shown,
        ]
        if searching:
            callbacks.append(EarlyStop(self.progress, config.patience))
        try:
            fit(
                model,
                examples,
                batch_size,
                epochs=epochs,
                initial_epoch=done,
                callbacks=callbacks,
            )
        except BaseException:
            shown.bar.stop()
            raise
        return model


def metric_of(config: TrainingConfig) -> str:
    """Returns the name of the metric for early stopping, the loss without L2."""
    if config.task != "regression":
        return str(config.loss)
    return "rmse" if config.target_transform == "none" else "rmsle"
