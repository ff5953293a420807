"""Measures the test RMSE on MovieLens for each row of docs/results.md.

    FMLAYERS_DATA=folder python -m benchmarks.accuracy [ROW ...]

`FMLAYERS_DATA` contains ml-100k/ and ml-1m/. Each row runs `fmlayers train` with the
options below, once per seed. The options and the number of epochs were chosen on
validation rows. The test rows are read once, by the final model.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._movielens import data_folder
from benchmarks._report import print_rmse

TRAIN = [sys.executable, "-m", "fmlayers.cli", "train"]
IDS = "--model mf"
SIDE = "user item age:categorical sex occupation genres year:categorical"
EVERYTHING_100K = f"--histories --l2 .09 --l2-of day=.25 --features day {SIDE}"
# Chosen by `fmlayers tune` on validation rows of the first split: docs/tuning.md.
TUNED_100K = (
    "--histories --dim 128 --init-stddev .01813 --l2 .04864 --l2-of "
    "user_history=.008753 item_history=.006818 day=.3488 --linear-l2 .002264 "
    f"--learning-rate .01124 --features day {SIDE}"
)
EVERYTHING_1M = (
    "--histories --learning-rate .02 --l2-of user_history=.005 item_history=.005 "
    f"--features {SIDE}"
)
ROWS = {
    "100k-ids": ("ml-100k", range(5), IDS),
    "100k-ids-lazy-adam": ("ml-100k", range(5), f"{IDS} --optimizer lazy_adam"),
    "100k-ids-ensemble": (
        "ml-100k",
        range(5),
        f"{IDS} --members 24 --dim 16 --l2 .05 --init-stddev .04",
    ),
    "100k-everything": ("ml-100k", range(5), EVERYTHING_100K),
    "100k-everything-tuned": ("ml-100k", range(5), TUNED_100K),
    "100k-everything-ensemble": (
        "ml-100k",
        range(5),
        f"{EVERYTHING_100K} --members 3",
    ),
    "1m-ids": ("ml-1m", range(1), IDS),
    "1m-ids-lazy-adam": ("ml-1m", range(1), f"{IDS} --optimizer lazy_adam"),
    "1m-ids-ensemble": ("ml-1m", range(1), f"{IDS} --members 8"),
    "1m-everything": ("ml-1m", range(1), EVERYTHING_1M),
}


def main(wanted: list[str]) -> None:
    data = data_folder()
    for name in wanted or ROWS:
        folder, seeds, options = ROWS[name]
        rmse, seconds = [], []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as out:
                run = Path(out) / "run"
                command = f"--out {run} --data {data / folder} {options} --seed {seed}"
                subprocess.run(
                    [*TRAIN, *shlex.split(command)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                metrics = json.loads((run / "metrics.json").read_text("utf-8"))
            rmse.append(metrics["rmse"])
            seconds.append(metrics["seconds"])
        print_rmse(name, rmse, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
