"""A run judged on its test rows: its ratings, and its lists."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data import DataError, Dataset, Encoder, Split, SyntheticDataset
from fmlayers.data.encoder import UNKNOWN, as_text
from fmlayers.metrics import (
    Relevance,
    mae,
    ranking_metrics,
    relevant_by_quantile,
    relevant_by_threshold,
    rmse,
)
from fmlayers.retrieval import SeenItems
from fmlayers.runs.prediction import predict
from fmlayers.runs.recommender import Recommender, positions_of
from fmlayers.runs.saved_run import SavedRun
from fmlayers.scoring_model import ScoringModel

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a run's test rows say of it.

    Attributes:
        ratings: RMSE and MAE of the ratings, and of the training rows' mean; empty
            for a model whose scores are no ratings.
        lists: Metrics of the lists by name, as of `ranking_metrics`.
        popular: The same of one list for all, the items with the most training rows
            that a user has not rated.
        k: Length of a list.
        relevant: What counts as relevant, in words.
    """

    ratings: dict[str, float]
    lists: dict[str, float]
    popular: dict[str, float]
    k: int
    relevant: str

    def text(self) -> str:
        """Returns the metrics as a table."""
        lines = []
        if self.ratings:
            lines += [f"{'ratings of the test rows':26}{'RMSE':>10}{'MAE':>10}"]
            for name, prefix in (
                ("the model", ""),
                ("mean predictor", "mean_predictor_"),
            ):
                rmse, mae = (self.ratings[prefix + x] for x in ("rmse", "mae"))
                lines.append(f"{name:26}{rmse:10.4f}{mae:10.4f}")
            lines.append("")
        names = [name for name in self.lists if name != "users"]
        title = f"lists of {self.k}"
        lines += [title.ljust(26) + "".join(f"{name:>10}" for name in names)]
        for name, figures in (
            ("the model", self.lists),
            ("most popular", self.popular),
        ):
            row = "".join(f"{figures[metric]:10.4f}" for metric in names)
            lines.append(f"{name:26}{row}")
        lines += [
            "",
            f"means over {int(self.lists['users']):,} users; lists of the whole "
            "catalogue without what the user rated in training;",
            f"relevant: {self.relevant}",
        ]
        return "\n".join(lines) + "\n"


def evaluate(
    run: SavedRun,
    dataset: Dataset | None = None,
    *,
    k: int = 25,
    quantile: float = 0.85,
    threshold: float | None = None,
    candidates: int | None = None,
) -> Evaluation:
    """Judges a run by the ratings of its test rows and by a list for each user.

    A list is made of the whole catalogue, the items of the training rows, without
    those that the user rated there. An item that has no training row is in no list,
    and counts where it is relevant as one not found.

    Args:
        run: The run.
        dataset: Optional data, `run.dataset()` if left out.
        k: Positive integer, the length of a list. Defaults to 25.
        quantile: Relevant are a user's test items from this quantile of the user's
            own test ratings on. Defaults to 0.85.
        threshold: Optional rating from which on an item is relevant, in place of
            `quantile`.
        candidates: As of `fmlayers.retrieval.retrieve`.

    Raises:
        DataError: If the data are gone or not those of the run.
        ValueError: If an argument breaks its constraint.
    """
    dataset = run.dataset() if dataset is None else dataset
    split = run.split(dataset)
    ratings: dict[str, Any] = {}
    if run.config.has_ratings:
        ratings = rating_metrics(run.model, run.encoder, dataset, split)
    recommender = Recommender(run, dataset, candidates=candidates)
    judged = judged_lists(
        recommender, dataset, split.test, k=k, quantile=quantile, threshold=threshold
    )
    if threshold is None:
        words = (
            f"a user's test items from the {quantile:g} quantile of their ratings on"
        )
    else:
        words = f"test items rated {threshold:g} or higher"
    train = dataset.ratings.iloc[split.train]
    popular = _popular(
        positions_of(train["user"], judged.users),
        positions_of(train["item"], judged.items),
        (len(judged.users), len(judged.items)),
        k,
    )
    return Evaluation(ratings, judged.metrics(), judged.metrics(popular), k, words)


@dataclass(frozen=True, eq=False)
class JudgedLists:
    """Lists for all users of the data, and what some rows say is relevant.

    Attributes:
        lists: `(users, k)`, positions in `items`.
        relevant: The relevant items of each user, of whom some may be in no list.
        users: The users as text.
        items: The catalogue's items as text.
        num_tested: How many items there are together with those of no list.
    """

    lists: npt.NDArray[np.int32]
    relevant: Relevance
    users: pd.Index
    items: pd.Index
    num_tested: int

    def metrics(self, lists: npt.NDArray[np.int32] | None = None) -> dict[str, float]:
        """Returns what `ranking_metrics` does, of these lists or of others."""
        lists = self.lists if lists is None else lists
        k = lists.shape[1]
        metrics = ranking_metrics(lists, self.relevant, self.num_tested, k=k)
        # Of the catalogue, which the items of test rows alone are not in.
        share = self.num_tested / len(self.items)
        return metrics | {"coverage": metrics["coverage"] * share}


def judged_lists(
    recommender: Recommender,
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    *,
    k: int,
    quantile: float = 0.85,
    threshold: float | None = None,
) -> JudgedLists:
    """Makes a list for every user, to be judged by some rows of the data.

    Args:
        recommender: Makes the lists.
        dataset: The data that it has seen some rows of.
        rows: Others of its rows.
        k, quantile, threshold: As of `evaluate`.

    Raises:
        DataError: If no row is relevant.
    """
    users, items = recommender.users, recommender.catalogue.keys
    _, lists = recommender.lists(list(users), k)
    # Items of these rows alone follow those of the catalogue.
    test = dataset.ratings.iloc[rows]
    tested = pd.Index(test["item"].map(as_text).unique(), dtype=object)
    every = items.append(tested.difference(items))
    pairs = positions_of(test["user"], users), positions_of(test["item"], every)
    values = test["rating"].to_numpy()
    if threshold is None:
        relevant = relevant_by_quantile(*pairs, values, quantile=quantile)
    else:
        relevant = relevant_by_threshold(*pairs, values, threshold)
    if not len(relevant.users):
        raise DataError(f"No test row has a rating of {threshold:g} or higher.")
    return JudgedLists(lists, relevant, users, items, len(every))


def _popular(
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
    shape: tuple[int, int],
    k: int,
) -> npt.NDArray[np.int32]:
    """Returns for each user the first k unseen items of those most often rated."""
    num_users, num_items = shape
    seen = SeenItems(users, items, num_users)
    counts = np.bincount(items[items >= 0], minlength=num_items)
    order = np.argsort(-counts, kind="stable").astype(np.int32)
    lists = np.full((num_users, k), -1, np.int32)
    for user in range(num_users):
        fresh = np.ones(num_items, bool)
        fresh[seen.of(user)] = False
        best = order[fresh[order]][:k]
        lists[user, : len(best)] = best
    return lists


def rating_metrics(
    model: ScoringModel, encoder: Encoder, dataset: Dataset, split: Split
) -> dict[str, Any]:
    """Returns RMSE and MAE on the test rows, beside those of the mean predictor."""
    table = dataset.table().iloc[split.test]
    truth = table["rating"].to_numpy(np.float64)
    inputs = encoder.transform(table)
    ratings = predict(model, inputs)
    mean = np.full_like(truth, dataset.ratings["rating"].iloc[split.train].mean())
    figures = {
        "rmse": rmse(truth, ratings),
        "mae": mae(truth, ratings),
        "mean_predictor_rmse": rmse(truth, mean),
        "mean_predictor_mae": mae(truth, mean),
        "unknown_in_test": {
            column: int((inputs[column] == UNKNOWN).sum())
            for column, kind in encoder.columns.items()
            if kind == "categorical"
        },
    }
    if isinstance(dataset, SyntheticDataset):
        figures["floor_rmse"] = dataset.floor_rmse(split.test)
    return figures
