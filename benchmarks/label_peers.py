"""Measures other packages on the tables of `benchmarks.labels`.

    python -m pip install -r benchmarks/peers.txt
    FMLAYERS_DATA=folder python -m benchmarks.label_peers [TABLE ...] [PEER ...]

Each package gets the same columns and rows. Its L2 and its learning rate are chosen on
the validation rows of each seed, and so is the number of epochs, with which it is
trained again on all training rows, as `fmlayers train` does.
"""

import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks._labels import TABLES, LabelTable, table, validation_split
from benchmarks._report import print_labels
from fmlayers.data import Encoder
from fmlayers.metrics import auc, log_loss

Floats = npt.NDArray[Any]
DIM, MAX_EPOCHS, PATIENCE, SEEDS = 16, 100, 3, range(3)
# Fits to some rows, until the validation rows get worse if there are any. Returns the
# probabilities of the last rows, and the number of epochs.
Fit = Callable[..., tuple[Floats, int]]


def modern_fm(
    data: LabelTable,
    fitting: pd.DataFrame,
    scored: pd.DataFrame,
    seed: int,
    *,
    l2: float,
    rate: float,
    epochs: int | None = None,
) -> tuple[Floats, int]:
    """Fits `FMClassifier` with AdaGrad to one-hot columns, as in its examples."""
    from modern_fm import FMClassifier

    x, z = _design(data, fitting, scored)
    model = FMClassifier(
        n_factors=DIM,
        optimizer="adagrad",
        learning_rate=rate,
        batch_size=256,
        max_iter=epochs or MAX_EPOCHS,
        l2_linear=l2,
        l2_factors=l2,
        patience=PATIENCE,
        random_state=seed,
    )
    search = {} if epochs else {"eval_set": (z, scored["label"].to_numpy())}
    model.fit(x, fitting["label"].to_numpy(), **search)
    best = model.n_iter_ if epochs else max(model.n_iter_ - PATIENCE, 1)
    return model.predict_proba(z)[:, 1], best


def _design(data: LabelTable, *frames: pd.DataFrame) -> list[Any]:
    """Returns the one-hot, multi-hot and standardized columns as sparse matrices."""
    from scipy.sparse import hstack
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler, normalize

    multiple = [*data.multiple]
    single = [c for c in data.columns if c not in {*data.numeric, *multiple}]
    parts = [(OneHotEncoder(handle_unknown="ignore"), single)]
    if data.numeric:
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        parts.append((numbers, [*data.numeric]))
    encoder = make_column_transformer(*parts, sparse_threshold=1.0).fit(frames[0])
    counters = {
        name: CountVectorizer(token_pattern=r"[^|]+").fit(frames[0][name])
        for name in multiple
    }
    return [
        hstack(
            [
                encoder.transform(frame),
                *(normalize(c.transform(frame[n]), "l1") for n, c in counters.items()),
            ],
            format="csr",
        )
        for frame in frames
    ]


def deepctr(hidden: tuple[int, ...]) -> Fit:
    def fit(
        data: LabelTable,
        fitting: pd.DataFrame,
        scored: pd.DataFrame,
        seed: int,
        *,
        l2: float,
        rate: float,
        epochs: int | None = None,
    ) -> tuple[Floats, int]:
        """Fits `DeepFM` with Adam, as in its examples."""
        from deepctr.feature_column import DenseFeat, SparseFeat, VarLenSparseFeat
        from deepctr.models import DeepFM
        from tensorflow import keras

        keras.utils.set_random_seed(seed)
        kinds = {
            name: "numeric"
            if name in data.numeric
            else "multi_categorical"
            if name in data.multiple
            else "categorical"
            for name in data.columns
        }
        encoder = Encoder(kinds).fit(fitting)
        x, z = (_inputs(encoder.transform(frame)) for frame in (fitting, scored))
        columns: list[Any] = []
        for name, kind in kinds.items():
            if kind == "numeric":
                columns.append(DenseFeat(name, 1))
                continue
            size = len(encoder.vocabulary(name)) + 2
            field = SparseFeat(name, size, embedding_dim=DIM)
            if kind == "multi_categorical":
                length = max(x[name].shape[1], z[name].shape[1])
                for inputs in (x, z):
                    spare = length - inputs[name].shape[1]
                    inputs[name] = np.pad(inputs[name], ((0, 0), (0, spare)))
                field = VarLenSparseFeat(field, maxlen=length, combiner="mean")
            columns.append(field)
        model = DeepFM(
            columns,
            columns,
            dnn_hidden_units=hidden,
            l2_reg_linear=l2,
            l2_reg_embedding=l2,
        )
        model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
        search = {}
        if epochs is None:
            stop = keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=PATIENCE, restore_best_weights=True
            )
            labels = scored["label"].to_numpy(np.float32)
            search = {"validation_data": (z, labels), "callbacks": [stop]}
        history = model.fit(
            x,
            fitting["label"].to_numpy(np.float32),
            batch_size=256,
            epochs=epochs or MAX_EPOCHS,
            verbose=0,
            **search,
        )
        losses = history.history.get("val_loss", [])
        best = int(np.argmin(losses)) + 1 if losses else epochs or 0
        return model.predict(z, batch_size=4096, verbose=0)[:, 0], best

    return fit


def _inputs(encoded: dict[str, Floats]) -> dict[str, Floats]:
    """Returns ids from 1, where 1 is an unknown value, and 0 for missing ones."""
    return {
        name: np.nan_to_num(x)
        if x.dtype.kind == "f"
        else np.where(x == -1, 1, np.where(x > 0, x + 1, 0))
        for name, x in encoded.items()
    }


PEERS: dict[str, Fit] = {
    "modern-fm": modern_fm,
    "deepctr-no-tower": deepctr(()),
    "deepctr-deepfm": deepctr((256, 128, 64)),
}
RATES = {
    "modern-fm": (0.01, 0.05, 0.1, 0.2),
    "deepctr-no-tower": (0.001,),
    "deepctr-deepfm": (0.001,),
}
L2 = (1e-6, 1e-5, 1e-4, 1e-3)


def predict(
    data: LabelTable, train: pd.DataFrame, test: pd.DataFrame, name: str, seed: int
) -> Floats:
    """Returns the probabilities of the test rows, for the best options."""
    fit = PEERS[name]
    rows, validation = validation_split(len(train), seed)
    fitting, held_out = train.iloc[rows], train.iloc[validation]
    options, best, least = {}, 0, np.inf
    for rate, l2 in product(RATES[name], L2):
        tried = {"rate": rate, "l2": l2}
        scores, epochs = fit(data, fitting, held_out, seed, **tried)
        loss = log_loss(held_out["label"].to_numpy(), scores)
        if loss < least:
            options, best, least = tried, epochs, loss
    return fit(data, train, test, seed, **options, epochs=best)[0]


def main(wanted: list[str]) -> None:
    for name in [name for name in TABLES if name in wanted] or TABLES:
        data = table(name)
        for peer in [peer for peer in PEERS if peer in wanted] or PEERS:
            figures, seconds = [], []
            for seed in SEEDS:
                train, test = data.split(seed)
                started = time.perf_counter()
                scores = predict(data, train, test, peer, seed)
                seconds.append(time.perf_counter() - started)
                label = test["label"].to_numpy()
                figures.append(
                    {"log_loss": log_loss(label, scores), "auc": auc(label, scores)}
                )
            print_labels(f"{name} {peer}", figures, seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
