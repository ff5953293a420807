"""Plots of a study, which need `pip install fmlayers[plot]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from keras_tuner.engine.hyperparameters import Choice, Float, Int

from fmlayers._figures import (
    BLUE,
    GREY,
    RED,
    Figure,
    File,
    matplotlib,
    new_figure,
    written,
)

Floats = npt.NDArray[np.float64]

NONE = -0.1  # position on an axis of the trials without the hyperparameter
# A trial is an outlier if it is farther from the best one than this many times the
# distance between the best and the median trial.
MAX_DISTANCE = 4.0


@dataclass(frozen=True)
class Axis:
    """A hyperparameter as an axis from 0 to 1.

    Args:
        name: Name of the hyperparameter.
        ticks: Positions of the labels.
        labels: One label per tick.
        positions: `(trials,)`, positions of the trials' values. NaN for a trial without
            the hyperparameter.
        ordered: Boolean, whether nearby values are similar. Defaults to `True`.
    """

    name: str
    ticks: Sequence[float]
    labels: Sequence[str]
    positions: Floats
    ordered: bool = True


def best_so_far(
    trials: pd.DataFrame, objective: str, direction: str, path: File | None = None
) -> Figure:
    """Draws the objective of each trial, and the best value so far.

    Args:
        trials: The table that `Study.trials` returns.
        objective: Name of the column with the objective.
        direction: `"min"` or `"max"`.
        path: Optional file to write.
    """
    figure, axes = new_figure(7, 4)
    scores = trials[objective].to_numpy(np.float64)
    numbers = trials["trial"].to_numpy()
    known = np.isfinite(scores)
    low, high = _limits(scores[known], direction)
    clipped = np.clip(scores, low, high)
    beyond = known & (clipped != scores)
    running = np.minimum if direction == "min" else np.maximum
    worst = np.inf if direction == "min" else -np.inf
    best = running.accumulate(np.where(known, scores, worst))
    axes.plot(
        numbers[known & ~beyond],
        scores[known & ~beyond],
        "o",
        color=BLUE,
        alpha=0.6,
        markeredgewidth=0,
        label="trial",
    )
    if beyond.any():
        marker = "^" if direction == "min" else "v"
        axes.plot(
            numbers[beyond],
            clipped[beyond],
            marker,
            color=BLUE,
            alpha=0.6,
            markeredgewidth=0,
            label="outlier",
        )
    if (~known).any():
        edge = high if direction == "min" else low
        axes.plot(
            numbers[~known],
            np.full((~known).sum(), edge),
            "x",
            color="black",
            label="failed trial",
        )
    if known.any():
        seen = np.isfinite(best)
        first = (np.nanargmin if direction == "min" else np.nanargmax)(scores)
        axes.step(
            numbers[seen], best[seen], where="post", color=RED, label="best so far"
        )
        axes.plot(
            numbers[first],
            scores[first],
            "o",
            color=RED,
            zorder=3,
            label=f"{scores[first]:.4f} in trial {numbers[first]}",
        )
    margin = 0.05 * (high - low)
    axes.set(
        xlabel="trial (trial 0 has the default values)",
        ylabel=objective,
        ylim=(low - margin, high + margin),
    )
    axes.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return written(figure, path)


def parallel_coordinates(
    hyperparameters: Sequence[Axis],
    scores: npt.ArrayLike,
    objective: str,
    direction: str,
    path: File | None = None,
) -> Figure:
    """Draws each trial as a line through its values, with better trials darker.

    Args:
        hyperparameters: One axis per hyperparameter.
        scores: `(trials,)`, values of the objective.
        objective: Name of the objective.
        direction: `"min"` or `"max"`.
        path: Optional file to write.
    """
    values = np.asarray(scores, np.float64)
    low, high = _limits(values, direction)
    positions = (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    ends = [f"{low:.4f}", f"{high:.4f}"]
    if direction == "min":  # better values are higher up
        positions, ends = 1.0 - positions, [f"{high:.4f}", f"{low:.4f}"]
    if (values > high).any():
        ends[0] += " or more"
    if (values < low).any():
        ends[0] += " or less"
    every = [*hyperparameters, Axis(objective, [0.0, 1.0], ends, positions)]
    figure, axes = new_figure(1.35 * len(every) + 1.0, 4.6)
    axes.spines[:].set_visible(False)
    colors = matplotlib("cm").viridis_r
    order = np.argsort(positions)  # the best trial last, on top
    for place, trial in enumerate(order):
        share = place / max(len(order) - 1, 1)
        is_best = place == len(order) - 1
        axes.plot(
            range(len(every)),
            np.nan_to_num([axis.positions[trial] for axis in every], nan=NONE),
            color=RED if is_best else colors(share),
            alpha=1.0 if is_best else 0.25 + 0.5 * share,
            linewidth=2.5 if is_best else 1.2,
            marker="o",
            markersize=5 if is_best else 3,
            label=_legend(place, len(order)),
        )
    for k, axis in enumerate(every):
        axes.plot([k, k], [0, 1], color="black", linewidth=0.8, zorder=0)
        lacks = bool(np.isnan(axis.positions).any())
        ticks = [*axis.ticks, *[NONE] * lacks]
        labels = [*axis.labels, *["none"] * lacks]
        for tick, label in zip(ticks, labels, strict=True):
            axes.text(
                k + 0.06,
                tick,
                label,
                fontsize=7,
                va="center",
                zorder=5,
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.6, "linewidth": 0},
            )
    names = [axis.name.replace("/", "/\n") for axis in every]
    axes.set_xticks(range(len(every)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set(xlim=(-0.3, len(every) - 0.3), ylim=(NONE - 0.05, 1.06))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return written(figure, path)


def importance_bars(
    importance: Mapping[str, float], objective: str, path: File | None = None
) -> Figure:
    """Draws the importance of each hyperparameter, the most important first.

    Args:
        importance: Dict from the name of a hyperparameter to the share that
            `fmlayers.tuning.importance` returns.
        objective: Name of the objective.
        path: Optional file to write.
    """
    ranked = sorted(importance.items(), key=lambda entry: entry[1])
    figure, axes = new_figure(7, 0.35 * max(len(ranked), 2) + 1.2)
    names, shares = [name for name, _ in ranked], [share for _, share in ranked]
    bars = axes.barh(range(len(ranked)), shares, color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=4, fontsize=8)
    axes.set_yticks(range(len(ranked)), names)
    axes.tick_params(axis="y", length=0)
    axes.set(
        xlabel=f"share of the ranking by {objective} that it explains",
        xlim=(0, max(1.1 * max(shares, default=0.0), 0.1)),
    )
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    return written(figure, path)


def _limits(scores: Floats, direction: str) -> tuple[float, float]:
    """Returns the limits of the objective's axis, which exclude outliers."""
    if not len(scores):
        return 0.0, 1.0
    low, high = float(scores.min()), float(scores.max())
    middle = float(np.median(scores))
    if direction == "min":
        high = min(high, low + MAX_DISTANCE * (middle - low)) if middle > low else high
    elif middle < high:
        low = max(low, high - MAX_DISTANCE * (high - middle))
    if low == high:
        return low - 0.5, high + 0.5
    return low, high


def axis_of(parameter: Any, trials: pd.DataFrame) -> Axis:
    """Returns a KerasTuner hyperparameter as an axis, with the trials on it."""
    column = trials.get(parameter.name, pd.Series(np.nan, trials.index))
    positions = [
        np.nan if pd.isna(value) else float(parameter.value_to_prob(value))
        for value in column
    ]
    numeric = isinstance(parameter, Int | Float)
    if numeric and parameter.step is None:
        ticks = [0.0, 0.5, 1.0]
        middle = parameter.prob_to_value(0.5)
        values = [parameter.min_value, middle, parameter.max_value]
    else:
        values = list(parameter.values)
        ticks = [float(parameter.value_to_prob(value)) for value in values]
    labels = [f"{value:.3g}" if numeric else str(value) for value in values]
    ordered = numeric or (isinstance(parameter, Choice) and parameter.ordered)
    return Axis(parameter.name, ticks, labels, np.array(positions), ordered)


def _legend(place: int, count: int) -> str | None:
    labels = {count - 1: "best trial", count - 2: "trial (darker is better)"}
    return labels.get(place)
