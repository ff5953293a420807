import importlib.metadata
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

import fmlayers
from fmlayers import _hosts, plots
from fmlayers._digests import digests_of
from fmlayers._files import whole_file
from fmlayers._json_files import write_json
from fmlayers._keras_files import save_model
from fmlayers.data import (
    DataError,
    Dataset,
    Split,
    sources,
    write_csv,
)
from fmlayers.data.cells import as_text
from fmlayers.data.columns import describe_columns
from fmlayers.data.kind_names import Kind
from fmlayers.data.kinds import kind_class
from fmlayers.distributed.agreement import together
from fmlayers.models.specs import find
from fmlayers.runs import group
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.evaluation import target_metrics
from fmlayers.runs.folder import (
    FILES,
    PROGRESS,
    DivergenceError,
    RunError,
    drop,
    finish,
)
from fmlayers.runs.memory import memory_errors
from fmlayers.runs.run import Run
from fmlayers.runs.run_data import RunData, Tables, in_memory
from fmlayers.runs.sampling import Sampling
from fmlayers.runs.summary import summary
from fmlayers.runs.targets import transform_hint
from fmlayers.runs.trainer import Trainer


def train(
    config: TrainingConfig,
    out: str | Path,
    *,
    dataset: Tables | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Trains and evaluates a model, and writes the run to a folder.

    1. Reads the data and splits it into training and test rows.
    2. Holds out validation rows from the training rows and trains with early stopping.
    3. Trains a new model on all training rows, for the best number of epochs, unless
       `config.refit` is `False`.
    4. Evaluates the model on the test rows, which no earlier step reads.

    Args:
        config: The configuration.
        out: Folder of the run. It appears when the run is finished.
        dataset: Optional data in memory, instead of `config.data`: a `Dataset`, a
            `DataFrame` of ratings with the columns that `config` names, or a dict from
            `"ratings"`, `"users"`, `"items"`, `"test"` and `"validation"` to
            `DataFrame`s, of which only the first must be there. To open the run again,
            use `Run(path, dataset=...)` with the same data.
        resume: Whether to resume an interrupted run. If it is already finished, with
            this configuration, it is returned. Defaults to `False`.
        overwrite: Whether to replace a finished or interrupted run at `out`. A finished
            run stays until the new one is finished. Defaults to `False`.

    Returns:
        The `Run`.

    Raises:
        DataError: If the data are invalid.
        RunError: If `out` is taken, or there is no interrupted run to resume with this
            configuration.
        DivergenceError: A `RunError`, if a loss, a metric or a weight becomes NaN or
            infinite. Nothing is left to resume.
        OSError: If the disk is full. The latest checkpoint stays, to resume from.
    """
    out = Path(out).resolve()
    group.check_config(config)
    data = RunData.read(config, dataset)
    if dataset is not None:
        config = in_memory(config, dataset)
    columns = columns_of(config, data.dataset)
    split = data.split(config)
    record = {
        **config.to_dict(),
        "columns": columns,
        **data.fingerprints(),
        "backend": keras.backend.backend(),
    }
    with group.folder_of(out, record, resume=resume, overwrite=overwrite) as folder:
        if folder is not None:
            if not group.of_process_0(_hosts.is_first() and _is_complete(folder)):
                _train_in(folder, config, data.dataset, split, record)
            if _hosts.is_first():
                finish(folder, out)
    together(lambda: None, "finish the run")
    return Run(out, dataset=dataset)


def _train_in(
    folder: Path,
    config: TrainingConfig,
    dataset: Dataset,
    split: Split,
    record: dict[str, Any],
) -> None:
    started = time.perf_counter()
    repairs = [f"data: {repair}" for repair in dataset.repairs]
    described = [
        *describe_columns(
            dataset,
            record["columns"],
            chosen=config.named_kinds,
            **config.written_lists,
        ),
        *transform_hint(config, dataset.ratings["rating"].iloc[split.train]),
    ]
    # In one piece, since `print` may be interrupted between two lines.
    if _hosts.is_first():
        sys.stderr.write("\n".join([*described, *repairs, ""]))
    method = Trainer if config.method == "gradient" else Sampling
    try:
        trainer = method(config, record["columns"], dataset, folder)
        with memory_errors(method.remedy):
            model = trainer.run(split.train)
            evaluated = target_metrics(config, model, model.encoder, dataset, split)
        metrics = {
            **evaluated,
            **trainer.metrics,
            "rows": trainer.rows | {"test": len(split.test)},
            "seconds": round(time.perf_counter() - started, 1),
            "described": described,
            "repairs": list(dataset.repairs),
            "versions": _versions(),
            "config": record,
        }
        trainer.check(metrics)
    except DivergenceError:
        if _hosts.is_first():
            drop(folder)  # resumed, it would diverge again
        raise
    except BaseException:
        if _hosts.is_first() and not (folder / PROGRESS).exists():
            drop(folder)  # it contains no epoch to resume from
        raise
    trainer.write(folder)
    _write(folder, config, model, dataset, metrics, pd.DataFrame(trainer.history))


def _is_complete(folder: Path) -> bool:
    """Returns whether a killed process wrote everything and did not put it in place."""
    try:
        Run(folder).check()
    except (RunError, DataError):
        return False
    return True


def columns_of(config: TrainingConfig, dataset: Dataset) -> dict[str, Kind]:
    """Returns the kinds of the columns that the model reads, by name."""
    features = config.features
    if features is None and find(config.model).columns == "user and item":
        features = ("user", "item")
    return sources.infer_columns(
        dataset, features, kinds=config.kinds, **config.written_lists
    )


def _write(
    folder: Path,
    config: TrainingConfig,
    model: keras.Model,
    dataset: Dataset,
    metrics: dict[str, Any],
    history: pd.DataFrame,
) -> None:
    if not _hosts.is_first():
        save_model(model, folder / "model.keras")  # sends its rows to process 0
        return
    separator = config.list_separator
    for name, table in (("users", dataset.users), ("items", dataset.items)):
        if table is not None:
            table = _with_ids_as_text(table, metrics["config"]["columns"])
            write_csv(table, folder / f"{name}.csv", list_separator=separator)
    write_csv(history, folder / "history.csv")
    plotted = _plotted(config, history, folder / "history.png")
    save_model(model, folder / "model.keras")
    with whole_file(folder / "summary.txt") as written:
        written.write_text(summary(metrics, plotted), "utf-8")
    files = digests_of(folder, sorted(FILES & {path.name for path in folder.iterdir()}))
    # Last: with it, the run is finished.
    write_json(folder / "metrics.json", {**metrics, "files": files})


def _with_ids_as_text(table: pd.DataFrame, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Returns a table with the texts of numbers that the encoder compares as text.

    The text of 7.0 is "7", but a CSV file would contain "7.0".
    """
    table = table.copy(deep=False)
    for name in ("user", "item", *kinds):
        is_text = (
            name in table and not kind_class(kinds.get(name, "categorical")).is_scaled
        )
        if is_text and pd.api.types.is_float_dtype(table[name]):
            cells = table[name].astype(object)
            table[name] = cells.map(as_text, na_action="ignore")
    return table


def _plotted(config: TrainingConfig, history: pd.DataFrame, path: Path) -> bool:
    """Draws the history. Returns `False` if matplotlib is not installed."""
    sampled = config.method == "gibbs"
    draw = plots.sampling_trace if sampled else plots.learning_curves
    try:
        draw(history, path)
    except ImportError:
        return False
    return True


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    return {
        "fmlayers": fmlayers.__version__,
        "keras": keras.__version__,
        backend: importlib.metadata.version(backend),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
