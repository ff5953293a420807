"""A callback that evaluates recommendations during training."""

from typing import Any

import keras
import pandas as pd

from fmlayers.data import DataError, Dataset, Encoder, Split
from fmlayers.data.cells import as_text
from fmlayers.runs.evaluation import evaluate_top_n
from fmlayers.runs.examples import Examples
from fmlayers.runs.recommender import Recommender


class TopNMetrics(keras.callbacks.Callback):
    """Adds `val_ndcg` and `val_map` to the metrics of an epoch.

    It evaluates the top `k` recommendations of each user on the user's validation rows,
    as `fmlayers evaluate` does on test rows. The recommendations are chosen among all
    items of the training rows that the user has not rated there. A validation row is
    relevant if its rating is at least the 0.85 quantile of the user's validation
    ratings.

    Args:
        examples: The training rows and the validation rows.
        k: Number of recommendations per user.
    """

    def __init__(self, examples: Examples, k: int) -> None:
        super().__init__()
        self.examples = examples
        self.k = k

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        examples = self.examples
        trained = _ModelInTraining(self.model, examples)
        self.recommender = Recommender(
            trained, examples.dataset, train_rows=examples.fitting
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.recommender.search.refresh()
        examples = self.examples
        if logs is None or examples.validation is None:
            return
        metrics = evaluate_top_n(
            self.recommender, examples.dataset, examples.validation, k=self.k
        ).metrics()
        logs |= {"val_ndcg": metrics["ndcg"], "val_map": metrics["map"]}


class _ModelInTraining:
    """A model in training, with the attributes of a run that a `Recommender` reads."""

    def __init__(self, model: keras.Model, examples: Examples) -> None:
        self.model = model
        self.examples = examples

    @property
    def encoder(self) -> Encoder:
        return self.examples.encoder

    def side_table(self, name: str) -> pd.DataFrame | None:
        dataset = self.examples.dataset
        table = dataset.users if name == "users" else dataset.items
        key = name[:-1]
        return None if table is None else table.assign(**{key: table[key].map(as_text)})

    def split(self, dataset: Dataset) -> Split:
        raise DataError("A model in training has no test rows.")
