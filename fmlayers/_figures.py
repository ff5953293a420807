"""Creates and writes matplotlib figures without global state, in a common style."""

import importlib
import os
from pathlib import Path
from typing import Any

from fmlayers._files import whole_file

Figure = Any  # matplotlib.figure.Figure; matplotlib may not be installed
File = str | os.PathLike[str]

# The colors of Okabe and Ito, which colorblind readers can distinguish.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
)
GREY = "#B0B0B0"


def matplotlib(module: str) -> Any:
    """Imports a submodule of matplotlib.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise ImportError(
            "`fmlayers.plots` needs matplotlib: install it with "
            "`pip install fmlayers[plot]`."
        ) from error


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """Creates a figure of a size in inches, and its axes: an array of several ones."""
    # Not by pyplot, which would keep a reference to the figure and choose a backend.
    figure = matplotlib("figure").Figure((width, height), dpi=150, layout="constrained")
    axes = figure.subplots(ncols=columns)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure, axes


def written(figure: Figure, path: File | None) -> Figure:
    """Returns a figure and, with a path, writes it to a file."""
    if path is not None:
        check_folder(path)
        with whole_file(path) as file:
            figure.savefig(file, format=Path(path).suffix[1:] or "png")
    return figure


def check_folder(path: File) -> None:
    """Raises `ValueError` unless the folder of a path exists."""
    if not Path(path).parent.is_dir():
        raise ValueError(f"{path}: there is no folder {Path(path).parent}.")
