"""Exports of a finished training run, with all that it knows."""

import os
from pathlib import Path
from typing import Any

from fmlayers.export.exporter import Weights, export
from fmlayers.export.item_vectors import write_item_vectors
from fmlayers.runs.recommender import Recommender, catalogue_of
from fmlayers.runs.saved_run import SavedRun

DATA = ("fingerprint", "split", "seed", "test_fraction")


def export_run(
    run: SavedRun,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    overwrite: bool = False,
    weights: Weights = "float32",
) -> Path:
    """Writes a run's model for use outside of Python; see `export`.

    The encoder's vocabularies, the catalogue, metrics and the fingerprint of the data
    are the run's.

    Args:
        run: The run.
        path: As of `export`; for item vectors, of `write_item_vectors`.
        format: As of `export`; or `"item_vectors"`, for a vector index.
        overwrite: As of `export`.
        weights: As of `export`.

    Returns:
        The path.

    Raises:
        ValueError: As of `export`; or if the model has no item vectors.
        FileExistsError: If `path` is there, and may not be replaced.
    """
    model: Any = run.model
    if format == "item_vectors":
        if model.decomposition is None:
            raise ValueError(
                "Item vectors are a factorization machine's, and the run's model has "
                f"none: it is a {type(model).__name__}."
            )
        recommender = Recommender(run)
        keys = list(recommender.catalogue.keys)
        return write_item_vectors(recommender.top_n, keys, path, overwrite=overwrite)
    metrics = run.metrics
    items = None
    if format in ("saved_model", "tf_saved_model"):
        table = catalogue_of(run).table
        of_items = [column for column in run.encoder.columns if column in table]
        if of_items and len(of_items) < len(run.encoder.columns):
            items = table
    details = {
        "metrics": {
            name: value
            for name, value in metrics.items()
            if isinstance(value, (int, float))
        },
        "data": {
            **{name: metrics["config"][name] for name in DATA},
            **{f"{name} rows": count for name, count in metrics["rows"].items()},
        },
    }
    return export(
        model,
        path,
        format,
        overwrite=overwrite,
        items=items,
        item_key=None if items is None else "item",
        weights=weights,
        details=details,
    )
