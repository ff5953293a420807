"""Measures the cost of a sweep of `fmlayers.bayes`, and its memory, against the rows.

    python -m benchmarks.sampling [ROWS ...]

The tables have users and items in the shape of MovieLens 20M: 144 rows per user, and
items of a long-tailed popularity. Each size runs in a fresh process.
"""

import multiprocessing
import resource
import sys
import time

import numpy as np

DIM, SWEEPS = 20, 5
SIZES = (200_000, 2_000_000, 20_000_000)
ROWS_PER_USER, ROWS_PER_ITEM, MIN_ITEMS = 144, 750, 3_000


def table(rows: int) -> tuple[int, int, dict[str, np.ndarray], np.ndarray]:
    """Draws users, items and ratings."""
    rng = np.random.default_rng(0)
    users, items = rows // ROWS_PER_USER, max(rows // ROWS_PER_ITEM, MIN_ITEMS)
    user_weights = rng.lognormal(sigma=1.0, size=users)
    item_weights = 1.0 / (20.0 + np.arange(items))
    user = rng.choice(users, rows, p=user_weights / user_weights.sum())
    item = rng.choice(items, rows, p=item_weights / item_weights.sum())
    vectors = [rng.normal(0.0, 0.4, (size, 4)).astype("f4") for size in (users, items)]
    ratings = 3.5 + rng.standard_normal(rows, "f4")
    ratings += np.einsum("nk,nk->n", vectors[0][user], vectors[1][item])
    return users, items, {"user": user, "item": item}, ratings


def measure(rows: int) -> None:
    import fmlayers

    users, items, inputs, ratings = table(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sizes = {"user": users, "item": items}
    features = [fmlayers.Categorical(name, size) for name, size in sizes.items()]
    sampler = fmlayers.bayes.GibbsSampler(features, DIM, chains=1)
    marks: list[float] = []
    sampler.fit(
        inputs,
        ratings,
        SWEEPS,
        burn_in=1,
        callbacks=[lambda *_: marks.append(time.process_time())],
    )
    seconds = float(np.median(np.diff(marks)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{rows:>12,}{seconds:>20.2f}{seconds / rows * 1e9:>18.0f}{before:>18.1f}"
        f"{peak:>14.1f}",
        flush=True,
    )


def main(sizes: list[int]) -> None:
    print(f"Gibbs sampling, {DIM} dimensions, user and item")
    heads = ("CPU s per sweep", "CPU ns per row", "GB of the table", "peak GB")
    print(f"{'rows':>12}{heads[0]:>20}{heads[1]:>18}{heads[2]:>18}{heads[3]:>14}")
    context = multiprocessing.get_context("spawn")
    for rows in sizes or SIZES:
        process = context.Process(target=measure, args=(rows,))
        process.start()
        process.join()


if __name__ == "__main__":
    main([int(x) for x in sys.argv[1:]])
