"""Times training until a validation RMSE on MovieLens: fmlayers and other packages.

    FMLAYERS_DATA=folder python -m benchmarks.time_to_rmse [100k] [1m]
        [--only NAME ...] [--most SECONDS] [--json FILE]

All packages train on the training rows of the random 80/20 split of seed 0, except a
tenth of them, which are the same validation rows for all. fmlayers is the command
`fmlayers train --model mf` in a separate process. Its time is that of its epochs, with
tracing, XLA compilation and validation after each epoch. For the other packages, only
training is timed. Each package stops at the lowest RMSE of the table, after `--most`
seconds, or when several epochs in a row do not improve the RMSE.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import _movielens
from benchmarks._movielens import data_folder
from benchmarks._report import parser_with_json, print_machine, write_figures
from benchmarks._torch_fm import TorchFM
from benchmarks.peers import _cut
from fmlayers.data import split_rows

RMSES = {"100k": (0.94, 0.92, 0.91), "1m": (0.90, 0.87, 0.86, 0.855, 0.85)}
PATIENCE = 3
IDS = ["user", "item"]
TRAIN = [sys.executable, "-m", "fmlayers.cli", "train", "--model", "mf", "--no-refit"]


class Curve:
    """Collects seconds of training and RMSE; evaluation does not count as training."""

    def __init__(self, truth: npt.NDArray[Any], goal: float, most: float) -> None:
        self.truth, self.goal, self.most = truth, goal, most
        self.points: list[tuple[float, float]] = []
        self.seconds = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def judge(self, predict: Callable[[], Any], patience: int = PATIENCE) -> bool:
        """Adds a point and returns whether training can stop."""
        self.seconds += time.perf_counter() - self._started
        error = np.clip(predict(), 1, 5) - self.truth
        self.points.append((self.seconds, float(np.sqrt(np.mean(error**2)))))
        self.start()
        found = [rmse for _, rmse in self.points]
        stale = len(found) - 1 - int(np.argmin(found)) >= patience
        return stale or found[-1] <= self.goal or self.seconds > self.most


Watch = Callable[[str, pd.DataFrame, pd.DataFrame, Curve], None]


def ours(*options: str) -> Watch:
    def watch(
        size: str, fitting: pd.DataFrame, validation: pd.DataFrame, curve: Curve
    ) -> None:
        data = data_folder() / f"ml-{size}"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = [*TRAIN, *options]
            subprocess.run(
                [*command, "--data", str(data), "--out", str(out)],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            history = pd.read_csv(out / "history.csv")
        seconds = history["seconds"].cumsum()
        curve.points = list(zip(seconds, history["val_rmse"], strict=True))

    return watch


def myfm(
    size: str, fitting: pd.DataFrame, validation: pd.DataFrame, curve: Curve
) -> None:
    """Trains with Gibbs sampling of rank 32, evaluated on the later half of samples.

    At any time, this is better than its default, which omits the first five samples.
    """
    from myfm import MyFMRegressor
    from sklearn.preprocessing import OneHotEncoder

    ids = OneHotEncoder(handle_unknown="ignore").fit(fitting[IDS])
    inputs, rows = ids.transform(fitting[IDS]), ids.transform(validation[IDS])
    samples = []

    def judge(_: int, machine: Any, *__: Any) -> tuple[bool, None]:
        def predict() -> Any:
            samples.append(machine.predict_score(rows, []))
            return np.mean(samples[len(samples) // 2 :], axis=0)

        return curve.judge(predict, patience=20), None

    model = MyFMRegressor(rank=32, random_seed=0)
    curve.start()
    model.fit(inputs, fitting["rating"].to_numpy(), n_iter=1000, callback=judge)


def surprise(
    size: str, fitting: pd.DataFrame, validation: pd.DataFrame, curve: Curve
) -> None:
    """Trains SVD again for each point, since it has no callbacks."""
    import surprise

    reader = surprise.Reader(rating_scale=(1, 5))
    rows = surprise.Dataset.load_from_df(fitting[[*IDS, "rating"]], reader)
    trainset = rows.build_full_trainset()
    pairs = list(zip(validation["user"], validation["item"], strict=True))
    for epochs in (1, 2, 5, 10, 15, 20, 30, 40, 60):
        model = surprise.SVD(n_epochs=epochs, random_state=0)
        curve.seconds = 0.0
        curve.start()
        model.fit(trainset)
        if curve.judge(lambda m=model: [m.predict(*pair).est for pair in pairs]):
            return


def deepctr(
    size: str, fitting: pd.DataFrame, validation: pd.DataFrame, curve: Curve
) -> None:
    """Trains DeepFM with 16 dimensions and default arguments otherwise."""
    from deepctr.feature_column import SparseFeat
    from deepctr.models import DeepFM

    keras.utils.set_random_seed(0)
    (inputs, rows), sizes = _movielens.ids(fitting, validation)
    columns = [
        SparseFeat(name, size, embedding_dim=16)
        for name, size in zip(IDS, sizes, strict=True)
    ]
    model = DeepFM(columns, columns, task="regression")
    model.compile("adam", "mse")

    def judge(epoch: int, logs: Any) -> None:
        model.stop_training = curve.judge(
            lambda: model.predict(rows, batch_size=4096, verbose=0)[:, 0]
        )

    watching = keras.callbacks.LambdaCallback(on_epoch_end=judge)
    ratings = fitting["rating"].to_numpy(np.float32)
    curve.start()
    model.fit(
        inputs, ratings, batch_size=256, epochs=100, verbose=0, callbacks=[watching]
    )


def torch(
    size: str, fitting: pd.DataFrame, validation: pd.DataFrame, curve: Curve
) -> None:
    """Trains a biased FM with 16 dimensions, SparseAdam and a batch size of 256."""
    import torch

    torch.manual_seed(0)
    (inputs, rows), sizes = _movielens.ids(fitting, validation)
    ids, judged = (
        torch.as_tensor(np.stack([x[name] for name in IDS], axis=1))
        for x in (inputs, rows)
    )
    ratings = torch.as_tensor(fitting["rating"].to_numpy(np.float32))
    machine = TorchFM(sizes, 16)
    machine.bias.data += ratings.mean()
    curve.start()
    machine.epoch(ids, ratings, 256)
    while not curve.judge(lambda: machine.score(judged).detach().numpy()):
        machine.epoch(ids, ratings, 256)


CONTESTANTS: dict[str, tuple[str | None, Watch]] = {
    "Adagrad": (None, ours()),
    "LazyAdam": (None, ours("--optimizer", "lazy_adam")),
    "myFM": ("myfm", myfm),
    "Surprise SVD": ("surprise", surprise),
    "DeepCTR DeepFM": ("deepctr", deepctr),
    "PyTorch SparseAdam": ("torch", torch),
}


def time_to(points: list[tuple[float, float]], goal: float) -> str:
    reached = [seconds for seconds, rmse in points if rmse <= goal]
    return f"{reached[0]:.1f} s" if reached else "not reached"


def main(arguments: list[str] | None = None) -> None:
    parser = parser_with_json()
    # Without sizes, argparse checks the empty list.
    parser.add_argument("sizes", nargs="*", choices=[*RMSES, []])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--most", type=float, default=300.0, metavar="SECONDS")
    options = parser.parse_args([] if arguments is None else arguments)
    figures: dict[str, dict[str, Any]] = {}
    for size in options.sizes or RMSES:
        dataset = _movielens.dataset(f"ml-{size}")
        train = dataset.table().iloc[split_rows(dataset, "random", 0.2, 0).train]
        fitting, validation = (train.iloc[rows] for rows in _cut(len(train), 0))
        truth, goals = validation["rating"].to_numpy(), RMSES[size]
        print(f"MovieLens {size.upper()}, training time until a validation RMSE")
        cells = "".join(f"{f'<= {goal:.2f}':>14}" for goal in goals)
        print(f"{'':20}{cells}{'best':>10}{'after':>10}", flush=True)
        figures[size] = {}
        for name in options.only:
            package, watch = CONTESTANTS[name]
            if package is not None and importlib.util.find_spec(package) is None:
                print(f"{name:20}skipped, {package} is not installed")
                continue
            curve = Curve(truth, goals[-1], options.most)
            watch(size, fitting, validation, curve)
            cells = "".join(f"{time_to(curve.points, goal):>14}" for goal in goals)
            seconds, best = min(curve.points, key=lambda point: point[1])
            print(f"{name:20}{cells}{best:10.4f}{seconds:8.1f} s", flush=True)
            figures[size][name] = curve.points
        print()
    write_figures(options.json, figures)


if __name__ == "__main__":
    print_machine()
    main(sys.argv[1:])
