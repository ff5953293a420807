import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "numpy",
    "keras",
    "tensorflow",
    "torch",
    "deepctr",
    "modern-fm",
    "myfm",
    "scikit-surprise",
)


def print_rmse(name: str, rmse: Sequence[float], seconds: Sequence[float]) -> None:
    """Prints the mean RMSE, the RMSE of each split, and the mean time of a run."""
    each = " ".join(f"{value:.4f}" for value in rmse)
    print(
        f"{name}: RMSE {np.mean(rmse):.4f} ({each}), {np.mean(seconds):.0f} s per run",
        flush=True,
    )


def print_labels(
    name: str, figures: Sequence[dict[str, float]], seconds: Sequence[float]
) -> None:
    """Prints the mean and the spread of the log loss and the AUC of each split."""
    text = []
    for metric in ("log_loss", "auc"):
        values = [each[metric] for each in figures]
        listed = " ".join(f"{value:.4f}" for value in values)
        text.append(f"{metric} {np.mean(values):.4f} ± {np.std(values):.4f} ({listed})")
    print(f"{name}: {', '.join(text)}, {np.mean(seconds):.0f} s per run", flush=True)


def print_machine() -> None:
    """Prints the number of cores and the versions of the installed packages."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    print(f"{os.cpu_count()} cores; {', '.join(versions)}\n", flush=True)


def parser_with_json() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the pictures")
    return parser


def write_figures(path: Path | None, figures: dict[Any, Any]) -> None:
    """Writes figures for `benchmarks.pictures`, unless `path` is `None`."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
