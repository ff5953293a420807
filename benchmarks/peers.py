"""Measures the test RMSE of other packages on the splits of `benchmarks.accuracy`.

    python -m pip install -r benchmarks/peers.txt
    FMLAYERS_DATA=folder python -m benchmarks.peers [100k] [1m] [PEER ...]

The models use user and item alone, except `myfm-everything`, which uses the columns of
`100k-everything` and `1m-everything`. Each package is configured as in its
documentation. Packages with early stopping use the same validation rows as
`fmlayers train`, 10 % of the training rows. The others train on all training rows.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks._movielens import data_folder
from benchmarks._report import print_rmse
from fmlayers.data import load, split_rows

Floats = npt.NDArray[Any]
SEEDS = {"100k": range(5), "1m": range(1)}
MAX_EPOCHS, PATIENCE = 60, 3


def myfm(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    """Predicts with Gibbs sampling, like the MCMC of libFM: 300 samples of rank 32."""
    from myfm import MyFMRegressor
    from sklearn.preprocessing import OneHotEncoder

    ids = OneHotEncoder(handle_unknown="ignore").fit(train[["user", "item"]])
    model = MyFMRegressor(rank=32, random_seed=seed)
    model.fit(
        ids.transform(train[["user", "item"]]),
        train["rating"].to_numpy(),
        n_iter=300,
        n_kept_samples=280,
    )
    return np.clip(model.predict(ids.transform(test[["user", "item"]])), 1, 5)


def myfm_everything(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    """Predicts as the examples of myFM with histories: 512 samples of rank 10."""
    from benchmarks._myfm import predict

    return predict(train, test, seed, rank=10, samples=512)


def surprise_svd(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    return _surprise("SVD", train, test, seed)


def surprise_svdpp(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    return _surprise("SVDpp", train, test, seed)


def _surprise(name: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    import surprise

    reader = surprise.Reader(rating_scale=(1, 5))
    rows = surprise.Dataset.load_from_df(train[["user", "item", "rating"]], reader)
    model = getattr(surprise, name)(random_state=seed)
    model.fit(rows.build_full_trainset())
    pairs = zip(test["user"], test["item"], strict=True)
    return np.array([model.predict(*pair).est for pair in pairs])


def deepctr(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    """Predicts with DeepFM, 16 dimensions and default arguments otherwise."""
    import keras
    from deepctr.feature_column import SparseFeat
    from deepctr.models import DeepFM

    keras.utils.set_random_seed(seed)
    ids, sizes = _ids(train, test)
    columns = [
        SparseFeat(name, size, embedding_dim=16)
        for name, size in zip(("user", "item"), sizes, strict=True)
    ]
    model = DeepFM(columns, columns, task="regression")
    model.compile("adam", "mse")
    fitting, validation = _cut(len(train), seed)
    rating = train["rating"].to_numpy(np.float32)

    def inputs(rows: Any) -> dict[str, Floats]:
        return {"user": ids[rows, 0], "item": ids[rows, 1]}

    model.fit(
        inputs(fitting),
        rating[fitting],
        batch_size=256,
        epochs=MAX_EPOCHS,
        verbose=0,
        validation_data=(inputs(validation), rating[validation]),
        callbacks=[
            keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
        ],
    )
    rows = np.arange(len(train), len(ids))
    return np.clip(model.predict(inputs(rows), batch_size=4096, verbose=0)[:, 0], 1, 5)


def torch(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Floats:
    """Predicts with a biased FM, 16 dimensions and SparseAdam without weight decay."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    ids, sizes = _ids(train, test)
    rows = torch.as_tensor(ids + np.array([0, sizes[0]]))
    rating = torch.as_tensor(train["rating"].to_numpy(np.float32))
    vectors = nn.Embedding(sum(sizes), 16, sparse=True)
    linear = nn.Embedding(sum(sizes), 1, sparse=True)
    nn.init.normal_(vectors.weight, std=0.01)
    nn.init.zeros_(linear.weight)
    bias = nn.Parameter(rating.mean())
    tables = [*vectors.parameters(), *linear.parameters()]
    optimizers = [
        torch.optim.SparseAdam(tables, lr=0.001),
        torch.optim.Adam([bias], lr=0.001),
    ]

    def score(batch: Any) -> Any:
        v = vectors(batch)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return bias + linear(batch).sum((1, 2)) + pairs

    fitting, validation = _cut(len(train), seed)
    best, kept, stale = np.inf, np.zeros(len(test)), 0
    for _ in range(MAX_EPOCHS):
        order = torch.as_tensor(fitting)[torch.randperm(len(fitting))]
        for batch in order.split(256):
            loss = (score(rows[batch]) - rating[batch]).square().mean()
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        with torch.no_grad():
            error = score(rows[validation]).clamp(1, 5) - rating[validation]
            found = float(error.square().mean().sqrt())
            if found < best:
                best, stale = found, 0
                kept = score(rows[len(train) :]).clamp(1, 5).numpy()
            else:
                stale += 1
        if stale == PATIENCE:
            break
    return kept


def _ids(train: pd.DataFrame, test: pd.DataFrame) -> tuple[Floats, list[int]]:
    """Returns user and item ids, 0 for values not in `train`, and table sizes."""
    columns, sizes = [], []
    for name in ("user", "item"):
        known = pd.Index(train[name].unique())
        both = pd.concat([train[name], test[name]])
        columns.append(known.get_indexer(both) + 1)
        sizes.append(len(known) + 1)
    return np.stack(columns, axis=1), sizes


def _cut(rows: int, seed: int) -> tuple[Floats, Floats]:
    shuffled = np.random.default_rng((seed, 1)).permutation(rows)
    validation, fitting = np.split(shuffled, [round(rows * 0.1)])
    return fitting, validation


PEERS: dict[str, Callable[[pd.DataFrame, pd.DataFrame, int], Floats]] = {
    "myfm": myfm,
    "myfm-everything": myfm_everything,
    "surprise-svd": surprise_svd,
    "surprise-svdpp": surprise_svdpp,
    "deepctr": deepctr,
    "torch": torch,
}


def main(wanted: list[str]) -> None:
    data = data_folder()
    for size in [name for name in SEEDS if name in wanted] or SEEDS:
        dataset = load(data / f"ml-{size}")
        table = dataset.table()
        for name in [name for name in PEERS if name in wanted] or PEERS:
            rmse, seconds = [], []
            for seed in SEEDS[size]:
                split = split_rows(dataset, "random", 0.2, seed)
                train, test = table.iloc[split.train], table.iloc[split.test]
                started = time.perf_counter()
                error = PEERS[name](train, test, seed) - test["rating"].to_numpy()
                seconds.append(time.perf_counter() - started)
                rmse.append(float(np.sqrt(np.mean(error**2))))
            print_rmse(f"{size} {name}", rmse, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
