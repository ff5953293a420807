"""Measures the test RMSE of `fmlayers.bayes` on the splits of `benchmarks.accuracy`.

    FMLAYERS_DATA=folder python -m benchmarks.posterior [ROW ...]

The options are the defaults, the same for all rows, and were chosen on validation rows.
The test rows are read once.
"""

import sys
import time

import numpy as np

import fmlayers
from benchmarks._movielens import dataset
from benchmarks._report import print_rmse
from fmlayers.bayes import GibbsSampler
from fmlayers.data import Encoder, split_rows

SIDE = {
    "user": "categorical",
    "item": "categorical",
    "age": "categorical",
    "sex": "categorical",
    "occupation": "categorical",
    "genres": "multi_categorical",
    "year": "categorical",
}
IDS = {"user": "categorical", "item": "categorical"}
ROWS = {
    "100k-ids": ("ml-100k", range(5), IDS, False),
    "100k-everything": ("ml-100k", range(5), {**SIDE, "day": "categorical"}, True),
    "1m-ids": ("ml-1m", range(1), IDS, False),
    "1m-everything": ("ml-1m", range(1), SIDE, True),
}


def rmse(name: str, seed: int, columns: dict[str, str], *, histories: bool) -> float:
    """Returns the RMSE on the test rows of a split."""
    data = dataset(name)
    split = split_rows(data, "random", 0.2, seed)
    table = data.table()
    train, test = table.iloc[split.train], table.iloc[split.test]
    encoder = Encoder(columns).fit(train)
    features = list(encoder.features)
    if histories:
        sizes = {key: len(encoder.vocabulary(key)) + 1 for key in ("user", "item")}
        for key, value in (("user", "item"), ("item", "user")):
            features.append(
                fmlayers.History(
                    f"{key}_history",
                    sizes[value],
                    of=key,
                    num_keys=sizes[key],
                    values=value,
                    num_pairs=len(train),
                )
            )
    sampler = GibbsSampler(features, seed=seed)
    sampler.fit(encoder.transform(train), train["rating"])
    model = sampler.to_model(encoder=encoder)
    predicted = model.predict(encoder.transform(test), batch_size=4096, verbose=0)
    return float(np.sqrt(np.mean((predicted[:, 0] - test["rating"]) ** 2)))


def main(wanted: list[str]) -> None:
    for row in wanted or ROWS:
        name, seeds, columns, histories = ROWS[row]
        errors, seconds = [], []
        for seed in seeds:
            started = time.process_time()
            errors.append(rmse(name, seed, columns, histories=histories))
            seconds.append(time.process_time() - started)
        print_rmse(f"{row}, seconds of CPU", errors, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
