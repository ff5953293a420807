import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._backend import has_gpu
from fmlayers._json_files import read_json, write_json
from fmlayers.bayes import GibbsSampler
from fmlayers.data import Dataset
from fmlayers.data.kind_names import Kind
from fmlayers.features import Feature, History
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.examples import Examples, Inputs, Rows, split_validation
from fmlayers.runs.folder import BACKUP, PROGRESS, DivergenceError, RunError
from fmlayers.runs.model import features_of, scaler_and_bias
from fmlayers.runs.posterior_samples import SAMPLES, write_samples
from fmlayers.runs.sweep_progress import SweepProgress
from fmlayers.runs.trainer import metric_of
from fmlayers.runs.unit import Unit, to_unit_of_data

SweepCallback = Callable[[Mapping[str, Any]], None]
# Rows times sweeps times chains. With less, worker processes take longer to start than
# they save.
MIN_PARALLEL_WORK = 20_000_000


class Sampling:
    """Estimates the model of a run by Gibbs sampling.

    There is no number of epochs to choose, so the model is sampled once, from all
    training rows. After each sweep, it is evaluated on the validation rows, if there
    are any: those of a separate table or, with `config.refit=False`, a part of the
    training rows, which is held out.

    Args:
        config: The configuration.
        columns: Dict from the names of the columns to encode to their kinds.
        dataset: The data.
        folder: Optional folder in which the progress is saved and from which it is
            resumed.
    """

    remedy = "Lower `dim` or `chains`."  # if the memory is not enough

    def __init__(
        self,
        config: TrainingConfig,
        columns: Mapping[str, Kind],
        dataset: Dataset,
        folder: Path | None = None,
    ) -> None:
        self.config = config
        self.columns = columns
        self.dataset = dataset
        self.folder = folder
        self.metric = metric_of(config)
        self.history = [] if folder is None else _read_history(folder)
        self.rows: dict[str, int] = {}
        self._model_dim = 0
        self._sampler: GibbsSampler | None = None
        self._unit = Unit(0.0, 1.0)

    def run(self, train: Rows) -> keras.Model:
        """Returns the posterior mean, given the rows `train` of the ratings."""
        config = self.config
        separate = self.dataset.parts.get("validation")
        fitting, validation = train, train[:0]
        if separate is not None or not config.refit:
            fitting, validation = split_validation(config, train, separate)
        self.rows = {"train": len(train), "validation": len(validation)}
        examples = Examples(config, self.columns, self.dataset, fitting, validation)
        with SweepProgress(config.sweeps) as shown:
            return self.sample(examples, [shown])

    def sample(
        self, examples: Examples, callbacks: Sequence[SweepCallback] = ()
    ) -> keras.Model:
        """Returns the posterior mean, given the rows of `examples` to fit to.

        Args:
            examples: The rows to fit to and, optionally, to validate on.
            callbacks: Functions that are called with each new row of the history.
        """
        config = self.config
        scaler, _ = scaler_and_bias(config, examples.table)
        is_label = config.task == "binary"
        unit = Unit(0.0, 1.0) if is_label else Unit.of_rows(config, examples.table)
        inputs, targets, weights = examples.arrays(examples.fitting)
        held_out = None
        if examples.validation is not None and len(examples.validation):
            x, y, _ = examples.arrays(examples.validation)
            held_out = x, unit.of_data(config, y)
        sampler = GibbsSampler(
            _features(config, examples, inputs),
            config.dim,
            chains=config.chains,
            likelihood="probit" if is_label else "normal",
            seed=config.seed,
        )
        sampler.fit(
            inputs,
            unit.of_data(config, targets),
            sweeps=config.sweeps,
            sample_weight=weights,
            validation_data=held_out,
            callbacks=[_Recorder(self, unit, callbacks)],
            backup_dir=None if self.folder is None else self.folder / BACKUP,
            processes=_processes(config, len(examples)) if self.folder else 1,
        )
        model = sampler.to_model(encoder=examples.encoder, scaler=scaler)
        if is_label:
            model = _without_scaler(model)  # its output is the score, as in all runs
        self._model_dim = model.dim
        self._sampler, self._unit = sampler, unit
        to_unit_of_data(model)
        return model

    @property
    def metrics(self) -> dict[str, Any]:
        """The entries of `metrics.json` about the training.

        A sweep is an epoch with a single batch.
        """
        last = self.history[-1]
        return {
            f"validation_{self.metric}": last.get(f"val_{self.metric}"),
            "epochs": len(self.history),
            "batch_size": self.rows["train"] - self.rows["validation"],
            "rows": self.rows,
            "alpha": last["alpha"],
            "model_dim": self._model_dim,
        }

    def check(self, metrics: dict[str, Any]) -> None:
        """Checks the metrics of the model.

        Raises:
            DivergenceError: If one is NaN or infinite.
        """
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DivergenceError(
                    "The samples must be finite. Scale the targets down if they are "
                    f"large. Received: {name} is {value}."
                )

    def write(self, folder: Path) -> None:
        """Writes the files of the run that only this method has: the samples."""
        assert self._sampler is not None  # `run` was called
        write_samples(folder / SAMPLES, self._sampler, self._unit)


class _Recorder:
    """Adds the figures of each sweep to the history, in the unit of the data."""

    def __init__(
        self, sampling: Sampling, unit: Unit, callbacks: Sequence[SweepCallback]
    ) -> None:
        self.sampling = sampling
        self.unit = unit
        self.callbacks = callbacks
        self.started = time.perf_counter()

    def __call__(self, sweep: int, figures: Mapping[str, float]) -> None:
        now = time.perf_counter()
        row: dict[str, Any] = {
            "sweep": sweep,
            "seconds": round(now - self.started, 3),
            "alpha": figures["alpha"] / self.unit.size**2,
        }
        self.started = now
        for name, value in figures.items():
            if name != "alpha":
                prefix = "val_" if name.startswith("val_") else ""
                row[prefix + self.sampling.metric] = value * self.unit.size
        sampling = self.sampling
        sampling.check(row)
        if len(sampling.history) < sweep - 1:
            raise RunError(
                f"{sampling.folder} lacks some sweeps of its history. Start again with "
                "`--overwrite`."
            )
        sampling.history[sweep - 1 :] = [row]
        if sampling.folder is not None:
            write_json(sampling.folder / PROGRESS, {"history": sampling.history})
        for callback in self.callbacks:
            callback(row)


def _without_scaler(model: keras.Model) -> keras.Model:
    """Returns a copy of a model whose output is the score."""
    copy = type(model).from_config({**model.get_config(), "scaler": None})
    copy.set_weights(model.get_weights())
    return copy


def _read_history(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of the sweeps before an interruption.

    Raises:
        RunError: If the file is damaged.
    """
    path = folder / PROGRESS
    if not path.exists():
        return []
    history: Any = read_json(path, RunError).get("history")
    is_right = isinstance(history, list) and all(
        isinstance(row, dict) and row.get("sweep") == i
        for i, row in enumerate(history, 1)
    )
    if not is_right:
        raise RunError(
            f"{path} is not the progress of a run. Start again with `--overwrite`."
        )
    rows: list[dict[str, Any]] = history
    return rows


def _processes(config: TrainingConfig, rows: int) -> int:
    """Returns the number of processes in which the chains run."""
    work = rows * config.sweeps * config.chains
    if work < MIN_PARALLEL_WORK or has_gpu():
        return 1
    return min(config.chains, _cores())


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _features(
    config: TrainingConfig, examples: Examples, inputs: Inputs
) -> list[Feature]:
    """Returns the features of the sampler, with the number of pairs of histories."""
    features = features_of(config, examples.encoder, num_pairs=1)
    return [
        replace(feature, num_pairs=_num_pairs(feature, inputs))
        if isinstance(feature, History)
        else feature
        for feature in features
    ]


def _num_pairs(feature: History, inputs: Inputs) -> int:
    keys, values = (np.asarray(entry.read(inputs)) for entry in feature.entries)
    known = (keys >= 0) & (values > 0)  # without rare users and items
    pairs: npt.NDArray[Any] = np.stack([keys, values], axis=1)[known]
    return len(np.unique(pairs, axis=0))
