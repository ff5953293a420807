"""Measures the training of a factorization machine with histories.

    python -m benchmarks.histories [--users 6040] [--items 3706] [--ratings 720000]
        [--batch 4096] [--steps 32] [--rounds 3]

The model has a user, an item, the items that the user has rated and the users who have
rated the item, with 64 dimensions and an L2. The ratings are generated; the number of
ratings per item follows Zipf's law. Figures are CPU milliseconds of a step, as medians
of rounds in which all take turns.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fmlayers import Categorical, History
from fmlayers.data import ShuffledBatches
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad

DIM, GROUPS = 64, 6


def training(
    pairs: Any,
    sizes: tuple[int, int],
    batch: int,
    steps: int,
    *,
    histories: bool,
    **kw: Any,
) -> Callable[[], float]:
    """Returns a function that trains some steps and returns its CPU seconds."""
    users, items = pairs
    keys, num_pairs = ("user", "item"), len(users)
    features: list[Any] = [Categorical(*each) for each in zip(keys, sizes, strict=True)]
    for of, value in ((0, 1), (1, 0)):
        if histories:
            features.append(
                History(
                    f"{keys[of]}_history",
                    sizes[value],
                    of=keys[of],
                    num_keys=sizes[of],
                    values=keys[value],
                    num_pairs=num_pairs,
                )
            )
    keras.utils.set_random_seed(0)
    model = FactorizationMachine(features, DIM)
    if histories:
        model.set_history("user_history", users, items)
        model.set_history("item_history", items, users)
    prepared = kw.pop("prepared", False)
    model.compile(Adagrad(), "mse", **kw)
    batches = ShuffledBatches(
        dict(zip(keys, pairs, strict=True)),
        np.random.default_rng(0).normal(size=num_pairs).astype("float32"),
        batch,
        seed=0,
        group_by=keys,
        groups=GROUPS,
        histories=model.history_indexes() if prepared else None,
    )
    stream = batches.stream()

    def run() -> float:
        start = time.process_time()
        model.fit(stream, steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.process_time() - start

    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    defaults = {"users": 6040, "items": 3706, "ratings": 720_000, "batch": 4096}
    for name, default in {**defaults, "steps": 32, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args([] if arguments is None else arguments)

    rng = np.random.default_rng(0)
    sizes = options.users + 1, options.items + 1
    share = 1.0 / np.arange(10, options.items + 10)
    users = rng.integers(1, sizes[0], options.ratings)
    items = rng.choice(options.items, options.ratings, p=share / share.sum()) + 1
    pairs = np.unique(np.stack([users, items], axis=1), axis=0).T.astype("int32")
    common = (pairs, sizes, options.batch, options.steps)
    runs = {
        "no histories, XLA": training(*common, histories=False, jit_compile=True),
        "histories": training(*common, histories=True),
        "prepared": training(*common, histories=True, prepared=True),
        "prepared, XLA": training(
            *common, histories=True, prepared=True, jit_compile=True
        ),
    }
    first = {name: run() for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            taken[name].append(run())
    print(f"Histories: {pairs.shape[1]:,} pairs, batch size {options.batch}, dim {DIM}")
    print(f"{'':20}{'CPU ms per step':>18}{'first call, CPU s':>20}")
    for name, seconds in taken.items():
        milliseconds = 1000.0 * statistics.median(seconds) / options.steps
        print(f"{name:20}{milliseconds:18.1f}{first[name]:20.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
