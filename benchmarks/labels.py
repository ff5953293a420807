"""Measures the log loss and the AUC of the label rows of docs/results.md.

    FMLAYERS_DATA=folder python -m benchmarks.labels [ROW ...]

`FMLAYERS_DATA` contains frappe/, adult/ and ml-100k/. Each row writes the table as CSV
files and runs `fmlayers train` with the options below, once per seed. The options and
the number of epochs were chosen on validation rows. The test rows are read once, by the
final model.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._labels import table
from benchmarks._report import print_labels

TRAIN = [sys.executable, "-m", "fmlayers.cli", "train"]
SEEDS = range(3)
MOVIELENS = (
    "--features user item age:categorical sex occupation genres year:categorical"
)
SMALL_L2 = "--l2 .0001 --linear-l2 .0001"
BINS = (
    "--kinds age:quantiles=20 capital_gain:quantiles=20 capital_loss:quantiles=20 "
    "fnlwgt:quantiles=10 hours:quantiles=10 education_num:categorical"
)
ROWS = {
    "frappe-fm": ("frappe", "--model fm"),
    "frappe-deepfm": (
        "frappe",
        "--model deepfm --dropout .5 --l2 .003 --learning-rate .2",
    ),
    "adult-fm": (
        "adult",
        f"--model fm --dim 16 {SMALL_L2} --learning-rate .02 --batch-size 1024",
    ),
    "adult-fm-bins": ("adult", f"--model fm {SMALL_L2} {BINS}"),
    "adult-deepfm": ("adult", f"--model deepfm --dim 16 {SMALL_L2}"),
    "ml-100k-fm": ("ml-100k", f"--model fm {MOVIELENS}"),
    "ml-100k-deepfm": ("ml-100k", f"--model deepfm {MOVIELENS}"),
}


def train(folder: Path, name: str, options: str, seed: int) -> dict[str, Any]:
    """Returns the metrics of a run on a table, whose files are written to `folder`."""
    data = table(name)
    files = {"--data": data.rows, "--test": data.test}
    command = f"--task binary --target label --seed {seed} {options} --overwrite"
    arguments = [*TRAIN, *shlex.split(command), "--out", str(folder / "run")]
    for option, rows in files.items():
        if rows is not None:
            path = folder / f"{name}{option}.csv"
            rows.to_csv(path, index=False)
            arguments += [option, str(path)]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    metrics: dict[str, Any] = json.loads(
        (folder / "run" / "metrics.json").read_text("utf-8")
    )
    return metrics


def main(wanted: list[str]) -> None:
    for row in wanted or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            figures = [train(Path(folder), *ROWS[row], seed) for seed in SEEDS]
        print_labels(row, figures, [each["seconds"] for each in figures])


if __name__ == "__main__":
    main(sys.argv[1:])
