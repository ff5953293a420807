"""RMSE on MovieLens with the defaults; `FMLAYERS_DATA` holds ml-100k/ and ml-1m/.

    FMLAYERS_DATA=folder python -m benchmarks.accuracy [100k] [1m]

The test rows are read once, by a model whose epochs were found on validation rows.
"""

import os
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from fmlayers.models.from_config import model_from_config
from fmlayers.training import TrainingConfig, train

IDS = ("user", "item")
SIDE = (*IDS, "age", "sex", "occupation", "genres")
ROWS = {
    "100k": [("ml-100k", "mf", IDS, range(5)), ("ml-100k", "fm", IDS, range(5))],
    "1m": [("ml-1m", "mf", IDS, [0]), ("ml-1m", "fm", SIDE, [0])],
}


def main(wanted: list[str]) -> None:
    data = Path(os.environ["FMLAYERS_DATA"])
    print(f"keras {keras.__version__} on {keras.backend.backend()}")
    for name in wanted or ROWS:
        for folder, model, features, seeds in ROWS[name]:
            rmse, seconds = [], []
            for seed in seeds:
                config = TrainingConfig(
                    data=str(data / folder), model=model, features=features, seed=seed
                )
                with tempfile.TemporaryDirectory() as out:
                    metrics = train(
                        config, Path(out) / "run", model_from_config
                    ).metrics
                rmse.append(metrics["rmse"])
                seconds.append(metrics["seconds"])
            each = " ".join(f"{value:.4f}" for value in rmse)
            print(
                f"{folder} {model} {' '.join(features)}: RMSE {np.mean(rmse):.4f} "
                f"({each}), {np.mean(seconds):.0f} s a run",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
