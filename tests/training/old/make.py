"""Makes the run that every later version must load: `make.py FOLDER`.

A tiny one, of generated ratings, with features of every kind. Beside it `expected.json`
has what this version predicts and lists. Make no new one in place of an old one.
"""

import json
import sys
from pathlib import Path

import numpy as np

from fmlayers.data import sources, synthetic
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.recommender import Recommender

USERS, K = ["1", "5", "nobody"], 5


def main(out: Path) -> None:
    films = synthetic(num_users=12, num_items=10, num_ratings=90)
    sources.synthetic = lambda: films
    config = TrainingConfig(
        features=["user", "item", "age", "sex", "genres", "year", "day"],
        histories=True,
        dim=2,
        max_epochs=2,
        batch_size=16,
        validation_fraction=0.0,
    )
    run = train(config, out)
    (out / "history.png").unlink(missing_ok=True)  # a picture is all that it would be
    rows = films.table()[["user", "item", "day"]].head(20)
    rows.to_csv(out / "rows.csv", index=False)
    scores, positions = Recommender(run).top_n(USERS, K)
    expected = {
        "ratings": run.predict(run.read_rows(out / "rows.csv")).tolist(),
        "users": USERS,
        "scores": scores.tolist(),
        "items": np.array(Recommender(run).catalog.keys)[positions].tolist(),
    }
    (out / "expected.json").write_text(json.dumps(expected) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
