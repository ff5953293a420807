from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from keras import ops

from fmlayers import plots
from fmlayers.explain import term_sizes
from fmlayers.runs.explanation import FieldReport
from fmlayers.runs.folder import RunError
from fmlayers.runs.posterior_samples import PosteriorSamples, interval_coverage
from fmlayers.runs.prediction import predict, probabilities
from fmlayers.runs.run_data import Data
from fmlayers.runs.saved_run import SavedRun
from fmlayers.runs.targets import weights_of

# Of the targets, in the intervals whose coverage is drawn.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def write_pictures(
    run: SavedRun, folder: str | Path, data: Data | None = None
) -> tuple[list[Path], list[str]]:
    """Draws the pictures of a run, named after the functions of `fmlayers.plots`.

    Args:
        run: The run.
        folder: The folder to write to, created if it does not exist.
        data: See `Run.dataset`.

    Returns:
        The files, and a sentence for each picture that cannot be drawn.

    Raises:
        DataError: If the data are missing or have changed.
        ImportError: If matplotlib is not installed.
        RunError: If a file of the run is damaged.
    """
    history = run.history()
    items = run.side_table("items")
    table = run.test_table(data)
    inputs = run.inputs(table)
    targets = table["rating"].to_numpy(np.float64)
    weights = weights_of(run.config, table)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    curves = "sampling_trace" if run.config.method == "gibbs" else "learning_curves"
    written = [folder / f"{curves}.png"]
    getattr(plots, curves)(history, written[0])

    def draw_predictions(path: Path) -> None:
        plots.predicted_against_true(targets, predict(run.model, inputs), path)

    def draw_coverage(path: Path) -> None:
        moments = PosteriorSamples(run).transformed(inputs)
        observed = interval_coverage(run.config, *moments, targets, SHARES)
        plots.interval_coverage(SHARES, observed, path)

    def draw_labels(path: Path) -> None:
        p = probabilities(run.model, inputs)
        plots.predicted_labels(targets, p, path, weights=weights)

    def draw_fields(path: Path) -> None:
        FieldReport(term_sizes(run.model, inputs)).plot(path)

    def draw_items(path: Path) -> None:
        plots.item_map(*_items_of(run, items), path)

    def draw_model(path: Path) -> None:
        plots.model_diagram(run.model, path)

    of_targets = {
        "regression": [("predicted_against_true", draw_predictions)],
        "binary": [("predicted_labels", draw_labels)],
        "implicit": [],
    }[str(run.config.task)]
    if run.config.method == "gibbs" and run.config.task == "regression":
        of_targets.append(("interval_coverage", draw_coverage))
    left_out = []
    for name, draw in (
        *of_targets,
        ("field_heat_map", draw_fields),
        ("item_map", draw_items),
        ("model_diagram", draw_model),
    ):
        path = folder / f"{name}.png"
        try:
            draw(path)
        except RunError:
            raise
        except (ImportError, ValueError) as error:
            left_out.append(f"{path.name} is left out: {error}")
        else:
            written.append(path)
    return written, left_out


def _items_of(
    run: SavedRun, items: pd.DataFrame | None
) -> tuple[npt.NDArray[np.float32], list[str | None]]:
    """Returns the vector and the first genre of each item in the training rows.

    The vector of an item is the sum of the vectors of all its fields, such as its
    genres.

    Raises:
        ValueError: If the items have no genres, or the model has no item vectors.
    """
    if items is None or "genres" not in items:
        raise ValueError("The items of the run must have genres.")
    items = items[~run.is_unknown("item", items)]
    columns = [column for column in run.encoder.columns if column in items]
    names = run.model.features_within(columns)
    if run.model.decomposition is None or not names:
        raise ValueError(
            "The model of the run must have item vectors. "
            f"Received: a {type(run.model).__name__}."
        )
    inputs = run.encoder.transform(items, columns)
    vectors = ops.convert_to_numpy(run.model.decompose(inputs, names)[1])
    separator = run.encoder.separator
    genres = [
        str(cell).split(separator)[0] if known else None
        for cell, known in zip(items["genres"], items["genres"].notna(), strict=True)
    ]
    return vectors, genres
