"""Pictures of a study; they need `pip install fmlayers[plot]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

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

NONE = -0.1  # where lines of trials pass that do not have a hyperparameter
OUTLIERS = 4.0  # times as far from the best as the middle trial is: not drawn to scale


@dataclass(frozen=True)
class Axis:
    """A hyperparameter as an axis from 0 to 1.

    Attributes:
        name: Its name.
        ticks: Where labels stand, from 0 to 1.
        labels: As many.
        places: `(trials,)`, NaN where a trial does not have it.
        ordered: Whether near values are alike.
    """

    name: str
    ticks: Sequence[float]
    labels: Sequence[str]
    places: Floats
    ordered: bool = True


def best_so_far(
    trials: pd.DataFrame, objective: str, direction: str, path: File | None = None
) -> Figure:
    """Draws each trial's objective, and the best up to it.

    Args:
        trials: As of `Study.trials`.
        objective: Its column.
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
        label="a trial",
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
            label="a trial beyond the picture",
        )
    if (~known).any():
        edge = high if direction == "min" else low
        axes.plot(
            numbers[~known],
            np.full((~known).sum(), edge),
            "x",
            color="black",
            label="a trial that failed",
        )
    if known.any():
        seen = np.isfinite(best)
        found = (np.nanargmin if direction == "min" else np.nanargmax)(scores)
        axes.step(numbers[seen], best[seen], where="post", color=RED, label="the best")
        axes.plot(
            numbers[found],
            scores[found],
            "o",
            color=RED,
            zorder=3,
            label=f"{scores[found]:.4f} in trial {numbers[found]}",
        )
    margin = 0.05 * (high - low)
    axes.set(
        xlabel="trial; 0 has the defaults",
        ylabel=objective,
        ylim=(low - margin, high + margin),
    )
    axes.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return written(figure, path)


def parallel_coordinates(
    axes_of: Sequence[Axis],
    scores: npt.ArrayLike,
    objective: str,
    direction: str,
    path: File | None = None,
) -> Figure:
    """Draws each trial as a line through its values; the best ones darkest, on top.

    Args:
        axes_of: An axis a hyperparameter.
        scores: `(trials,)`, the objective.
        objective: Its name.
        direction: `"min"` or `"max"`.
        path: Optional file to write.
    """
    values = np.asarray(scores, np.float64)
    low, high = _limits(values, direction)
    places = (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    ends = [f"{low:.4f}", f"{high:.4f}"]
    if direction == "min":  # what is better is higher up
        places, ends = 1.0 - places, [f"{high:.4f}", f"{low:.4f}"]
    if (values > high).any():
        ends[0] += " or more"
    if (values < low).any():
        ends[0] += " or less"
    every = [*axes_of, Axis(objective, [0.0, 1.0], ends, places)]
    figure, axes = new_figure(1.35 * len(every) + 1.0, 4.6)
    axes.spines[:].set_visible(False)
    colours = matplotlib("cm").viridis_r
    order = np.argsort(places)  # the best last, on top
    for place, trial in enumerate(order):
        share = place / max(len(order) - 1, 1)
        is_best = place == len(order) - 1
        axes.plot(
            range(len(every)),
            np.nan_to_num([axis.places[trial] for axis in every], nan=NONE),
            color=RED if is_best else colours(share),
            alpha=1.0 if is_best else 0.25 + 0.5 * share,
            linewidth=2.5 if is_best else 1.2,
            marker="o",
            markersize=5 if is_best else 3,
            label=_legend(place, len(order)),
        )
    for k, axis in enumerate(every):
        axes.plot([k, k], [0, 1], color="black", linewidth=0.8, zorder=0)
        lacks = bool(np.isnan(axis.places).any())
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
    """Draws how much each hyperparameter matters, the most important first.

    Args:
        importance: From name to share, as of `fmlayers.tuning.importance`.
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
        xlabel=f"share of the ranks by {objective} that it tells alone",
        xlim=(0, max(1.1 * max(shares, default=0.0), 0.1)),
    )
    axes.axvline(0.0, color=GREY, linewidth=0.8)
    return written(figure, path)


def _limits(scores: Floats, direction: str) -> tuple[float, float]:
    """Returns from where to where to draw: the best, and what is not far beyond."""
    if not len(scores):
        return 0.0, 1.0
    low, high = float(scores.min()), float(scores.max())
    middle = float(np.median(scores))
    if direction == "min":
        high = min(high, low + OUTLIERS * (middle - low)) if middle > low else high
    elif middle < high:
        low = max(low, high - OUTLIERS * (high - middle))
    if low == high:
        return low - 0.5, high + 0.5
    return low, high


def axis_of(parameter: Any, trials: pd.DataFrame) -> Axis:
    """Returns a hyperparameter of KerasTuner as an axis, with the trials' places."""
    column = trials.get(parameter.name, pd.Series(np.nan, trials.index))
    places = [
        np.nan if pd.isna(value) else float(parameter.value_to_prob(value))
        for value in column
    ]
    numeric = hasattr(parameter, "sampling")
    if numeric and parameter.step is None:
        ticks = [0.0, 0.5, 1.0]
        middle = parameter.prob_to_value(0.5)
        values = [parameter.min_value, middle, parameter.max_value]
    else:
        values = list(parameter.values)
        ticks = [float(parameter.value_to_prob(value)) for value in values]
    labels = [f"{value:.3g}" if numeric else str(value) for value in values]
    ordered = numeric or bool(getattr(parameter, "ordered", False))
    return Axis(parameter.name, ticks, labels, np.array(places), ordered)


def _legend(place: int, count: int) -> str | None:
    labels = {count - 1: "the best", count - 2: "a trial; the darker, the better"}
    return labels.get(place)
