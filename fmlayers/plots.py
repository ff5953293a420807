"""Plots of runs and models. They need `pip install fmlayers[plot]`.

Each function except `model_diagram` returns a `matplotlib.figure.Figure`. With a path,
it also writes a file, in the format of the suffix. The global state of matplotlib stays
unchanged.
"""

import importlib
import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers._figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Figure,
    File,
    check_folder,
    matplotlib,
    new_figure,
    written,
)
from fmlayers._files import whole_file
from fmlayers.metrics import (
    auc,
    calibration_curve,
    calibration_error,
    pr_auc,
    precision_recall_curve,
    roc_curve,
)
from fmlayers.scoring_model import ScoringModel

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "field_heat_map",
    "interval_coverage",
    "item_map",
    "learning_curves",
    "model_diagram",
    "predicted_against_true",
    "predicted_labels",
    "sampling_trace",
]

# Axis labels of the metrics that early stopping monitors.
UNITS = {
    "rmse": "RMSE (rating points)",
    "rmsle": "RMSLE",
    "bce": "binary cross-entropy (nats)",
    "bpr": "BPR (nats)",
}
MAX_LEVELS = 20  # more distinct ratings are binned


def learning_curves(history: "pd.DataFrame", path: File | None = None) -> Figure:
    """Plots the RMSE or the loss of a run by epoch.

    Args:
        history: `DataFrame` with one row per epoch, as in `history.csv` of a run. Its
            columns are `phase` (`"search"` or `"refit"`), `epoch`, the metric (`rmse`,
            `rmsle`, `bce` or `bpr`) and, if there were validation rows, the same with
            the prefix `val_`, whose lowest value is marked.
        path: Optional path of a file to write.

    Returns:
        The figure.
    """
    figure, axes = new_figure(7, 4)
    metric = next((name for name in UNITS if name in history), "rmse")
    validation = f"val_{metric}"
    curves = {
        ("search", metric): ("training rows", BLUE, "-"),
        ("search", validation): ("validation rows", RED, "-"),
        ("refit", metric): ("refit on all training rows", BLUE, "--"),
    }
    for (phase, column), (label, color, style) in curves.items():
        rows = history[history["phase"] == phase]
        if len(rows) and column in rows:
            axes.plot(rows["epoch"], rows[column], style, color=color, label=label)
    if validation in history and history[validation].notna().any():
        best = history.nsmallest(1, validation)
        epoch, lowest = float(best["epoch"].iloc[0]), float(best[validation].iloc[0])
        # In the legend: a label next to the point could overlap a curve.
        label = f"lowest: {lowest:.4f} in epoch {epoch:.0f}"
        axes.plot(epoch, lowest, "o", color=RED, zorder=3, label=label)
    axes.set(xlabel="epoch", ylabel=UNITS[metric])
    axes.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return written(figure, path)


def sampling_trace(history: "pd.DataFrame", path: File | None = None) -> Figure:
    """Plots the RMSE and the precision of the errors by sweep of a Gibbs sampler.

    Args:
        history: `DataFrame` with one row per sweep, as in `history.csv` of a run with
            the method `"gibbs"`. Its columns are `sweep`, `alpha`, the metric (such as
            `rmse`, of the mean over all samples so far on the training rows) and, if
            there were validation rows, the same on these with the prefix `val_`.
        path: Optional path of a file to write.

    Returns:
        The figure.
    """
    figure, (errors, precision) = new_figure(10, 4, columns=2)
    metric = next((name for name in UNITS if name in history), "rmse")
    curves = {
        metric: ("training rows", BLUE),
        f"val_{metric}": ("validation rows", RED),
    }
    for column, (label, color) in curves.items():
        if column in history and history[column].notna().any():
            errors.plot(history["sweep"], history[column], color=color, label=label)
    errors.set(xlabel="sweep", ylabel=UNITS[metric])
    errors.legend(frameon=False)
    precision.plot(history["sweep"], history["alpha"], color=BLUE)
    precision.set(xlabel="sweep", ylabel="precision of the errors")
    for axes in (errors, precision):
        axes.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    return written(figure, path)


def interval_coverage(
    nominal: npt.ArrayLike, observed: npt.ArrayLike, path: File | None = None
) -> Figure:
    """Plots how many targets lie within prediction intervals.

    The dashed line is that of calibrated intervals.

    Args:
        nominal: The shares of the targets that the intervals are meant to contain,
            between 0 and 1, of shape `(intervals,)`.
        observed: The shares of the targets that they contain, of shape `(intervals,)`.
        path: Optional path of a file to write.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ, or are 0.
    """
    meant, contained = _same_length(nominal=nominal, observed=observed)
    figure, axes = new_figure(5, 4.5)
    axes.plot(meant, contained, "o-", color=BLUE, label="test rows")
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="calibrated")
    axes.set(
        xlabel="nominal coverage of the interval",
        ylabel="share of the targets inside",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(frameon=False, loc="upper left")
    return written(figure, path)


def predicted_against_true(
    ratings: npt.ArrayLike, predictions: npt.ArrayLike, path: File | None = None
) -> Figure:
    """Plots the distribution of the predictions for each true rating.

    A box contains the middle 50% of the predictions, and its whiskers 90%. The line
    connects the means. More than 20 distinct ratings are grouped into ten bins.

    Args:
        ratings: True ratings of shape `(rows,)`.
        predictions: Predicted ratings of shape `(rows,)`.
        path: Optional path of a file to write.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no rows, or the lengths differ.
    """
    true, predicted = _same_length(ratings=ratings, predictions=predictions)
    levels, group = np.unique(true, return_inverse=True)
    names = [f"{level:g}" for level in levels]
    if len(levels) > MAX_LEVELS:
        edges = np.linspace(levels[0], levels[-1], 11)
        bins, group = np.unique(
            np.clip(np.searchsorted(edges, true, "right"), 1, 10), return_inverse=True
        )
        levels = (edges[bins - 1] + edges[bins]) / 2
        names = [f"{level:.3g}" for level in levels]
    groups = [predicted[group == k] for k in range(len(levels))]
    gap = np.diff(levels).min() if len(levels) > 1 else 1.0

    figure, axes = new_figure(7, 5)
    boxes = axes.boxplot(
        groups,
        positions=levels,
        widths=0.55 * gap,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": SKY, "edgecolor": BLUE, "alpha": 0.6},
        whiskerprops={"color": BLUE},
        capprops={"color": BLUE},
        medianprops={"color": BLUE, "linewidth": 1.5},
    )
    (means,) = axes.plot(
        levels, [np.mean(rows) for rows in groups], "o-", color=RED, zorder=3
    )
    ends = [levels[0] - 0.4 * gap, levels[-1] + 0.4 * gap]
    (diagonal,) = axes.plot(ends, ends, ":", color="black", zorder=1)
    axes.set_xticks(
        levels, [f"{n}\n{len(g):,}" for n, g in zip(names, groups, strict=True)]
    )
    axes.set(
        xlim=(levels[0] - 0.7 * gap, levels[-1] + 0.7 * gap),
        xlabel="true rating (rating points), with the number of rows",
        ylabel="predicted rating (rating points)",
    )
    axes.legend(
        [boxes["boxes"][0], means, diagonal],
        ["50% of the rows; whiskers: 90%", "mean", "prediction = true rating"],
        frameon=False,
        loc="upper left",
    )
    return written(figure, path)


def predicted_labels(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    path: File | None = None,
    *,
    weights: npt.ArrayLike | None = None,
) -> Figure:
    """Plots how well predicted probabilities fit labels of 0 and 1.

    The three parts are the ROC curve, the precision-recall curve and the reliability
    diagram; see `fmlayers.metrics`. The dashed lines are those of predictions without
    information and, in the reliability diagram, of calibrated predictions.

    Args:
        labels: True labels, 0 or 1, of shape `(rows,)`. Both must be present.
        probabilities: Predicted probabilities of the label 1, of shape `(rows,)`.
        path: Optional path of a file to write.
        weights: Optional non-negative weights of the rows, of shape `(rows,)`.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ, or only one label is present.
    """
    weights = None if weights is None else np.asarray(weights, np.float64)
    rows = labels, probabilities, weights
    share = float(np.average(np.asarray(labels, np.float64), weights=weights))
    figure, (roc, recall, calibration) = new_figure(12, 4, columns=3)
    roc.plot(*roc_curve(*rows), color=BLUE)
    roc.plot([0, 1], [0, 1], "--", color=GREY)
    roc.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        title=f"ROC, AUC {auc(*rows):.4f}",
    )
    recall.step(*precision_recall_curve(*rows), color=BLUE, where="pre")
    recall.axhline(share, linestyle="--", color=GREY)
    recall.set(
        xlabel="recall",
        ylabel="precision",
        ylim=(0, 1.02),
        title=f"precision and recall, PR-AUC {pr_auc(*rows):.4f}",
    )
    predicted, true = calibration_curve(*rows)
    calibration.plot(predicted, true, "o-", color=BLUE)
    highest = max(predicted.max(), true.max())
    calibration.plot([0, highest], [0, highest], "--", color=GREY)
    calibration.set(
        xlabel="mean predicted probability",
        ylabel="share of the label 1",
        title=f"calibration, error {calibration_error(*rows):.4f}",
    )
    return written(figure, path)


def field_heat_map(
    matrix: npt.ArrayLike,
    fields: Sequence[str],
    path: File | None = None,
    *,
    label: str = "term of the raw score",
) -> Figure:
    """Plots the terms of single fields and of pairs as an annotated heat map.

    Args:
        matrix: Array of shape `(fields, fields)`, such as one example of
            `fmlayers.explain.field_matrix`, or `fmlayers.explain.mean_field_matrix`.
            The part below the diagonal is left blank if it is zero.
        fields: Names of the fields.
        path: Optional path of a file to write.
        label: Label of the color bar. Defaults to `"term of the raw score"`.

    Returns:
        The figure.

    Raises:
        ValueError: If the shape of `matrix` does not match the number of fields.
    """
    terms = np.array(matrix, np.float64)
    size = len(fields)
    if terms.shape != (size, size) or not size:
        raise ValueError(
            "`matrix` must have one row and one column per field. "
            f"Received: shape {terms.shape} and {size} fields."
        )
    below = np.tril(np.ones_like(terms, bool), k=-1)
    if not terms[below].any():
        terms[below] = np.nan
    signed = bool(np.nanmin(terms) < 0.0)
    limit = float(np.nanmax(np.abs(terms))) or 1.0
    side = max(0.75 * size, 3.0)
    figure, axes = new_figure(side + 2.2, side + 1.0)
    image = axes.imshow(
        terms,
        cmap="RdBu_r" if signed else "Blues",
        vmin=-limit if signed else 0.0,
        vmax=limit,
    )
    for f, g in np.argwhere(np.isfinite(terms)):
        dark = abs(terms[f, g]) > 0.6 * limit
        axes.text(
            g,
            f,
            _shown(terms[f, g], signed),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if dark else "black",
        )
    axes.set_xticks(range(size), fields, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(size), fields)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("diagonal: single fields; above: pairs of fields")
    figure.colorbar(image, label=label, shrink=0.8)
    return written(figure, path)


def item_map(
    vectors: npt.ArrayLike,
    labels: Sequence[str | None],
    path: File | None = None,
    *,
    shown: int = 6,
) -> Figure:
    """Plots item vectors in the plane of their first two principal components.

    Args:
        vectors: Array of shape `(items, dim)`, at least two items.
        labels: One label per item, such as its first genre, or `None`. The most
            frequent labels have colors, the others are gray.
        path: Optional path of a file to write.
        shown: Number of labels with a color, 1 to 6. Defaults to 6.

    Returns:
        The figure.

    Raises:
        ValueError: If there are fewer than two vectors, or the number of labels
            differs.
    """
    points = np.asarray(vectors, np.float64)
    if points.ndim != 2 or len(points) < 2 or len(points) != len(labels):
        raise ValueError(
            "`vectors` must have the shape (items, dim) with at least two items, and "
            f"`labels` one entry per item. Received: shape {points.shape} and "
            f"{len(labels)} labels."
        )
    if not 1 <= shown <= 6:
        raise ValueError(f"`shown` must be from 1 to 6. Received: shown={shown}.")
    plane, shares = _principal_plane(points)
    counts = Counter(label for label in labels if label is not None)
    # Ties are broken by the order of the text.
    frequent = sorted(counts, key=lambda label: (-counts[label], label))[:shown]
    colors = dict(zip(frequent, (BLUE, ORANGE, GREEN, PURPLE, SKY, RED), strict=False))
    figure, axes = new_figure(8, 5.5)
    names = np.array([frequent.index(x) if x in colors else -1 for x in labels])
    for k, label in [*enumerate(frequent), (-1, "others")]:
        mine = plane[names == k]
        if len(mine):
            axes.scatter(
                mine[:, 0],
                mine[:, 1],
                s=14,
                color=colors.get(label, GREY),
                alpha=0.85 if k >= 0 else 0.5,
                linewidths=0,
                zorder=k,
                label=f"{label} ({len(mine):,})",
            )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(
        xlabel=f"first principal component ({100 * shares[0]:.0f}% of the variance)",
        ylabel=f"second principal component ({100 * shares[1]:.0f}%)",
    )
    figure.legend(loc="outside right upper", frameon=False, markerscale=1.8)
    return written(figure, path)


def model_diagram(model: keras.Model, path: File | None = None) -> Any:
    """Plots the graph of a model: its inputs, layers and operations, with shapes.

    Keras plots a subclassed model as a single box. For a `ScoringModel`, this function
    plots the layers and operations of its `call`. A box `add` with a single input adds
    the bias. For an `Ensemble`, whose members have the same graph, one member is
    plotted.

    Args:
        model: A functional or sequential model, or a `ScoringModel`.
        path: Optional path of a file to write.

    Returns:
        The graph as a `pydot.Dot`.

    Raises:
        ImportError: If pydot or, with a path, Graphviz is not installed.
        ValueError: If the model is of another type.
    """
    if importlib.util.find_spec("pydot") is None:
        raise ImportError(
            "`model_diagram` needs pydot: install it with `pip install pydot`."
        )
    graph = keras.utils.model_to_dot(
        _functional(model), show_shapes=True, expand_nested=True, dpi=96
    )
    for node in graph.get_nodes():
        if node.get_label():
            node.set_label(_AUTOMATIC_NAME.sub(_without_number, node.get_label()))
    if path is None:
        return graph
    check_folder(path)
    if shutil.which("dot") is None:
        raise ImportError(
            "`model_diagram` needs the command `dot` of Graphviz: install the package "
            "`graphviz` of your system."
        )
    with whole_file(path) as written:
        graph.write(str(written), format=Path(path).suffix[1:] or "png")
    return graph


# Title of a box with an automatic name, such as "sum_2 (Sum)".
_AUTOMATIC_NAME = re.compile(r"<b>(\w+)_\d+</b> \((\w+)\)")


def _without_number(title: re.Match[str]) -> str:
    name, kind = title.groups()
    if name.replace("_", "") != kind.lower():
        return title.group()  # the number is part of a name that the user chose
    return f"<b>{name}</b> ({kind})"


def _functional(model: keras.Model) -> keras.Model:
    if isinstance(model, keras.Function | keras.Sequential):
        return model
    if not isinstance(model, ScoringModel):
        raise ValueError(
            "`model` must be a functional or sequential model, or a `ScoringModel`. "
            f"Received: a {type(model).__name__}."
        )
    model = (model.members or [model])[0]
    # A copy with tables of one row, which saves memory and leaves the model unchanged.
    config = _with_tables_of_one_row(model.get_config())
    copy = type(model).from_config({**config, "encoder": None})
    copy.bias = 0.0  # backends cannot add a variable to a symbolic tensor
    inputs = {
        entry.name: entry.keras_input()
        for feature in copy.features
        for entry in feature.entries
        if entry.required
    }
    return keras.Model(inputs, copy.call(inputs), name=model.name)


def _with_tables_of_one_row(config: Any) -> Any:
    if isinstance(config, Mapping):
        sizes = ("vocabulary_size", "num_keys", "num_pairs")
        return {
            name: 1 if name in sizes else _with_tables_of_one_row(value)
            for name, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [_with_tables_of_one_row(value) for value in config]
    return config


def _principal_plane(
    points: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns coordinates `(items, 2)` and each component's share of the variance."""
    centered = points - points.mean(axis=0)
    _, sizes, components = np.linalg.svd(centered, full_matrices=False)
    total = np.square(sizes).sum()
    plane = np.zeros((len(points), 2))
    shares = np.zeros(2)
    for k, component in enumerate(components[:2]):
        # The sign of a component is arbitrary: choose it deterministically.
        sign = np.sign(component[np.abs(component).argmax()])
        plane[:, k] = centered @ component * sign
        shares[k] = sizes[k] ** 2 / total if total else 0.0
    return plane, shares


def _shown(term: float, signed: bool) -> str:
    text = f"{term:+.3f}" if signed else f"{term:.3f}"
    return "0.000" if float(text) == 0.0 else text


def _same_length(**arrays: npt.ArrayLike) -> list[npt.NDArray[np.float64]]:
    """Returns two arrays, flat.

    Raises:
        ValueError: If their lengths differ, or are 0.
    """
    flat = [np.asarray(x, np.float64).ravel() for x in arrays.values()]
    sizes = [x.size for x in flat]
    if not sizes[0] or len(set(sizes)) > 1:
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in arrays)} must have the same "
            f"length, at least 1. Received: {' and '.join(map(str, sizes))}."
        )
    return flat
