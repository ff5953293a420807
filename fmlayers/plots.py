"""Pictures of runs and models; needs `pip install fmlayers[plot]`.

Each function but `model_diagram` returns a `matplotlib.figure.Figure`. Given a path, it
writes the picture in the format that the suffix names. No global state of matplotlib is
touched.
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
from fmlayers.scoring_model import ScoringModel

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "field_heat_map",
    "item_map",
    "learning_curves",
    "model_diagram",
    "predicted_against_true",
]

# What a run may be stopped on, and how an axis calls it.
UNITS = {
    "rmse": "RMSE (rating points)",
    "bce": "binary cross-entropy (nats)",
    "bpr": "BPR (nats)",
}
MOST_LEVELS = 20  # more distinct ratings than that are put into bins


def learning_curves(history: "pd.DataFrame", path: File | None = None) -> Figure:
    """Draws RMSE or loss by epoch of a run's two phases.

    Args:
        history: A row an epoch, as `history.csv` of a run: `phase` (`"search"` or
            `"refit"`), `epoch`, the metric (`rmse`, `bce` or `bpr`) and, where there
            were validation rows, the same with `val_`, whose lowest value is marked.
        path: Optional file to write.
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
        # In the legend: beside the point, it would lie on one of the curves at times.
        label = f"lowest: {lowest:.4f} in epoch {epoch:.0f}"
        axes.plot(epoch, lowest, "o", color=RED, zorder=3, label=label)
    axes.set(xlabel="epoch", ylabel=UNITS[metric])
    axes.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return written(figure, path)


def predicted_against_true(
    ratings: npt.ArrayLike, predictions: npt.ArrayLike, path: File | None = None
) -> Figure:
    """Draws how the predictions are spread for each true rating.

    A box holds the middle half of the predictions, its whiskers 90 % of them; the
    line joins their means. More than 20 distinct ratings are put into ten bins.

    Args:
        ratings: `(rows,)`, the true ratings.
        predictions: `(rows,)`, as many.
        path: Optional file to write.

    Raises:
        ValueError: If there are no rows, or not as many of both.
    """
    true = np.asarray(ratings, np.float64).ravel()
    predicted = np.asarray(predictions, np.float64).ravel()
    if not true.size or true.shape != predicted.shape:
        raise ValueError(
            "`ratings` and `predictions` must be of one length, at least 1. "
            f"Received: {true.size} and {predicted.size}."
        )
    levels, group = np.unique(true, return_inverse=True)
    names = [f"{level:g}" for level in levels]
    if len(levels) > MOST_LEVELS:
        edges = np.linspace(levels[0], levels[-1], 11)
        found, group = np.unique(
            np.clip(np.searchsorted(edges, true, "right"), 1, 10), return_inverse=True
        )
        levels = (edges[found - 1] + edges[found]) / 2
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
        xlabel="true rating (rating points), and its number of rows",
        ylabel="predicted rating (rating points)",
    )
    axes.legend(
        [boxes["boxes"][0], means, diagonal],
        ["half of the rows; whiskers: 90 %", "mean", "prediction = truth"],
        frameon=False,
        loc="upper left",
    )
    return written(figure, path)


def field_heat_map(
    matrix: npt.ArrayLike,
    fields: Sequence[str],
    path: File | None = None,
    *,
    label: str = "term of the raw score",
) -> Figure:
    """Draws the terms of single fields and of pairs, each with its number.

    Args:
        matrix: `(fields, fields)`: one example of `fmlayers.explain.field_matrix`, or
            `mean_field_matrix`. Below the diagonal nothing is drawn if there are only
            zeros.
        fields: Names of the fields.
        path: Optional file to write.
        label: What the numbers are. Defaults to `"term of the raw score"`.

    Raises:
        ValueError: If the matrix is not of the fields.
    """
    terms = np.array(matrix, np.float64)
    size = len(fields)
    if terms.shape != (size, size) or not size:
        raise ValueError(
            "`matrix` must have a row and a column for each of `fields`. "
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
    axes.set_xlabel("diagonal: the field alone; above it: the pair")
    figure.colorbar(image, label=label, shrink=0.8)
    return written(figure, path)


def item_map(
    vectors: npt.ArrayLike,
    labels: Sequence[str | None],
    path: File | None = None,
    *,
    shown: int = 6,
) -> Figure:
    """Draws vectors in the plane of their two largest principal components.

    Args:
        vectors: `(items, dim)`.
        labels: One an item, such as its first genre; `None` where there is none. The
            most frequent have colours, the others are grey.
        path: Optional file to write.
        shown: Number of labels with a colour, 1 to 6. Defaults to 6.

    Raises:
        ValueError: If there are fewer than two vectors, or not as many labels.
    """
    points = np.asarray(vectors, np.float64)
    if points.ndim != 2 or len(points) < 2 or len(points) != len(labels):
        raise ValueError(
            "`vectors` must be of shape (items, dim), of two items at least, with one "
            f"of `labels` each. Received: shape {points.shape} and {len(labels)} "
            "labels."
        )
    if not 1 <= shown <= 6:
        raise ValueError(f"`shown` must be from 1 to 6. Received: shown={shown}.")
    plane, shares = _principal_plane(points)
    counts = Counter(label for label in labels if label is not None)
    # In the order of their text where they are as frequent.
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
        xlabel=f"first principal component ({100 * shares[0]:.0f} % of the variance)",
        ylabel=f"second principal component ({100 * shares[1]:.0f} %)",
    )
    figure.legend(loc="outside right upper", frameon=False, markerscale=1.8)
    return written(figure, path)


def model_diagram(model: keras.Model, path: File | None = None) -> Any:
    """Draws the graph of a model: its inputs, layers and operations, with shapes.

    Keras draws a subclassed model as a single box. Those of `fmlayers.models` are
    drawn as what their `call` is made of, where a box `add` with a single input adds
    the bias; of an `Ensemble`, whose members are alike, one member is drawn.

    Args:
        model: A functional or sequential model, or one of `fmlayers.models`.
        path: Optional file to write.

    Returns:
        The graph as a `pydot.Dot`.

    Raises:
        ImportError: If pydot is not installed or, with a path, Graphviz.
        ValueError: If the model is of another kind.
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
            "`model_diagram` needs Graphviz's command `dot`: install the package "
            "`graphviz` of your system."
        )
    with whole_file(path) as written:
        graph.write(str(written), format=Path(path).suffix[1:] or "png")
    return graph


# A box's title, as of the third sum that this process has seen: sum_2 (Sum).
_AUTOMATIC_NAME = re.compile(r"<b>(\w+)_\d+</b> \((\w+)\)")


def _without_number(title: re.Match[str]) -> str:
    name, kind = title.groups()
    if name.replace("_", "") != kind.lower():
        return title.group()  # the number is part of a name that somebody gave
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
    # A copy without the tables: neither memory nor the model's own graph is touched.
    config = _with_tables_of_one_row(model.get_config())
    copy = type(model).from_config({**config, "encoder": None})
    copy.bias = 0.0  # no backend adds a variable to a symbolic tensor
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
    centred = points - points.mean(axis=0)
    _, sizes, components = np.linalg.svd(centred, full_matrices=False)
    total = np.square(sizes).sum()
    plane = np.zeros((len(points), 2))
    shares = np.zeros(2)
    for k, component in enumerate(components[:2]):
        # Of the two signs that a component may have, always the same one.
        sign = np.sign(component[np.abs(component).argmax()])
        plane[:, k] = centred @ component * sign
        shares[k] = sizes[k] ** 2 / total if total else 0.0
    return plane, shares


def _shown(term: float, signed: bool) -> str:
    text = f"{term:+.3f}" if signed else f"{term:.3f}"
    return "0.000" if float(text) == 0.0 else text
