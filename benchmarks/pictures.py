"""Draws the pictures of the documentation.

    python -m benchmarks.pictures docs/images [--training FILE] [--epoch FILE]
        [--time-to-rmse FILE] [--fields RUN]

Each FILE is the output of the benchmark of the same name with `--json`, for
docs/performance.md. A package has the same color in all pictures. RUN is a run of
`fmlayers train`, whose fields and pairs of fields are drawn as a heat map.
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from fmlayers import plots
from fmlayers._figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    new_figure,
)
from fmlayers.runs import Run
from fmlayers.runs.explanation import explain_fields

COLORS = {
    "LazyAdam": BLUE,
    "Adagrad": SKY,
    "Keras": ORANGE,
    "notebook": GREY,
    "PyTorch": RED,
    "torch": RED,
    "DeepCTR": GREEN,
    "myFM": PURPLE,
    "Surprise": GREY,
}
LABELS = {
    "LazyAdam": "fmlayers, LazyAdam",
    "Adagrad": "fmlayers, Adagrad",
    "LazyAdam, row-wise": "fmlayers, LazyAdam, row-wise",
    "Adagrad, row-wise": "fmlayers, Adagrad, row-wise",
    "torch SparseAdam": "PyTorch SparseAdam",
}
DPI = 96


def training(figures: dict[str, dict[str, float]], path: Path) -> None:
    """Draws examples per second by rows in the tables, one line per optimizer."""
    figure, axes = new_figure(7.5, 4.5)
    rows = [int(size) for size in figures]
    for name in next(iter(figures.values())):
        speeds = [of_size[name] for of_size in figures.values()]
        dashed = "XLA" in name or "row-wise" in name or name == "Keras Adagrad"
        style = "--" if dashed else "-"
        marker = "s" if name == "Keras Adagrad" else "o"
        axes.plot(
            rows, speeds, style, marker=marker, color=color(name), label=label(name)
        )
    axes.set(xscale="log", yscale="log", xlabel="rows in the tables")
    axes.set_ylabel("training examples per second")
    _plain_numbers(axes.yaxis)
    _plain_numbers(axes.xaxis)
    axes.grid(color="#E8E8E8", which="major")
    figure.legend(loc="outside right upper", frameon=False)
    _write(figure, path)


def epoch(figures: dict[str, Any], path: Path) -> None:
    """Draws seconds per epoch as bars, with the fastest package on top."""
    seconds = dict(sorted(figures["seconds"].items(), key=lambda item: -item[1]))
    figure, axes = new_figure(7.5, 0.45 * len(seconds) + 1)
    names = [label(name) for name in seconds]
    bars = axes.barh(names, list(seconds.values()), color=[color(n) for n in seconds])
    axes.bar_label(bars, [f"{each:.2f} s" for each in seconds.values()], padding=4)
    axes.set(xlabel="seconds per epoch of MovieLens 1M")
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    _write(figure, path)


def time_to_rmse(figures: dict[str, Any], path: Path) -> None:
    """Draws validation RMSE by seconds of training, one panel per data set."""
    figure, first = new_figure(10, 4.2)
    first.remove()
    panels = figure.subplots(1, len(figures), squeeze=False)[0]
    for axes, (size, curves) in zip(panels, figures.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        for name, points in curves.items():
            seconds, rmse = zip(*points, strict=True)
            axes.plot(
                seconds,
                rmse,
                marker="o" if len(points) < 50 else None,
                markersize=3,
                color=color(name),
                label=label(name),
            )
        lowest = min(rmse for points in curves.values() for _, rmse in points)
        axes.set(xscale="log", ylim=(lowest - 0.005, lowest + 0.09))
        axes.set(title=f"MovieLens {size.upper()}", xlabel="seconds of training")
        _plain_numbers(axes.xaxis)
        axes.grid(color="#E8E8E8", which="major")
    panels[0].set_ylabel("RMSE on validation rows (rating points)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    _write(figure, path)


def fields(run: Path, path: Path) -> None:
    """Draws how much each field and each pair moves the scores of the test rows."""
    sizes = explain_fields(Run(run)).sizes
    label = "standard deviation over the test rows, in units of the raw score"
    figure = plots.field_heat_map(sizes.matrix, sizes.fields, label=label)
    _write(figure, path, colors=128)


def color(name: str) -> str:
    return next(color for start, color in COLORS.items() if name.startswith(start))


def label(name: str) -> str:
    return LABELS.get(name, name)


def _plain_numbers(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _write(figure: Any, path: Path, colors: int = 48) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    few_colors = Image.open(buffer).convert("RGB").quantize(colors)
    few_colors.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    drawers = {"training": training, "epoch": epoch, "time-to-rmse": time_to_rmse}
    for name in drawers:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--fields", type=Path, metavar="RUN")
    options = parser.parse_args(arguments)
    for name, draw in drawers.items():
        source = getattr(options, name.replace("-", "_"))
        if source is not None:
            figures = json.loads(source.read_text("utf-8"))
            draw(figures, options.folder / f"performance-{name}.png")
    if options.fields is not None:
        fields(options.fields, options.folder / "field-heat-map.png")


if __name__ == "__main__":
    main()
