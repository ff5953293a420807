import os
from pathlib import Path
from typing import Any

from fmlayers.export.exporter import Weights, export
from fmlayers.export.item_vectors import write_item_vectors
from fmlayers.runs.catalog import Catalog
from fmlayers.runs.posterior_samples import PosteriorSamples
from fmlayers.runs.recommender import Recommender
from fmlayers.runs.saved_run import SavedRun


def export_run(
    run: SavedRun,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    overwrite: bool = False,
    weights: Weights = "float32",
) -> Path:
    """Exports a run's model with its encoder, the catalog of items and the metrics.

    Args:
        run: The run.
        path: See `fmlayers.export.export`, and for item vectors
            `fmlayers.export.write_item_vectors`.
        format: A format of `fmlayers.export.export`, or `"item_vectors"` for a vector
            index.
        overwrite: Whether to replace an existing export. Defaults to `False`.
        weights: See `fmlayers.export.export`.

    Returns:
        The path.

    Raises:
        ValueError: If an argument violates its constraint, or the model has no item
            vectors.
        FileExistsError: If `path` exists and must not be replaced.
    """
    model: Any = run.model
    if format == "item_vectors":
        if model.decomposition is None:
            raise ValueError(
                "The model of the run must have item vectors to export them. "
                f"Received: a {type(model).__name__}."
            )
        recommender = Recommender(run)
        keys = list(recommender.catalog.keys)
        return write_item_vectors(recommender.index, keys, path, overwrite=overwrite)
    items = None
    # Of other kinds, the values are unknown, and there is no catalog.
    has_catalog = run.encoder.columns.get("item", "categorical") == "categorical"
    if format in ("saved_model", "tf_saved_model") and has_catalog:
        table = Catalog.of(run.encoder, run.side_table("items")).table
        item_columns = [column for column in run.encoder.columns if column in table]
        if item_columns and len(item_columns) < len(run.encoder.columns):
            items = table
    return export(
        model,
        path,
        format,
        overwrite=overwrite,
        items=items,
        item_key=None if items is None else "item",
        weights=weights,
        stddev=_stddev(run, format),
        details=_details(run),
    )


def _stddev(run: SavedRun, format: str) -> Any:
    """Returns the standard deviations of a SavedModel, if the run has samples."""
    is_saved_model = format in ("saved_model", "tf_saved_model")
    if not is_saved_model or run.config.method != "gibbs":
        return None
    from fmlayers.runs.stddev_module import StddevModule

    return StddevModule(PosteriorSamples(run))


def _details(run: SavedRun) -> dict[str, Any]:
    """Returns the facts about the run that the card of an export contains."""
    config = run.config
    metrics = {
        name: value
        for name, value in run.metrics.items()
        if isinstance(value, (int, float))
    }
    data = {
        "fingerprint": run.fingerprint,
        "split": config.test or config.split,
        "seed": config.seed,
        **({} if config.test else {"test_fraction": config.test_fraction}),
        **{f"{name} rows": count for name, count in run.metrics["rows"].items()},
    }
    return {"metrics": metrics, "data": data}
