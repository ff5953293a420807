"""Evaluation of a run on its test rows: predicted targets and recommendations."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._text_tables import aligned
from fmlayers.data import (
    DataError,
    Dataset,
    Encoder,
    Split,
    SyntheticClicks,
    SyntheticDataset,
)
from fmlayers.data.cells import as_text
from fmlayers.data.errors import named_places
from fmlayers.data.kinds import UNKNOWN
from fmlayers.metrics import (
    Relevance,
    auc,
    calibration_error,
    log_loss,
    mae,
    pr_auc,
    ranking_metrics,
    relevant_by_quantile,
    relevant_by_threshold,
    rmse,
    rmsle,
)
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.positions import positions_of
from fmlayers.runs.prediction import predict, probabilities
from fmlayers.runs.rated_items import RatedItems
from fmlayers.runs.recommender import Recommender
from fmlayers.runs.saved_run import SavedRun
from fmlayers.runs.summary import label_table, rating_table
from fmlayers.runs.targets import weights_of
from fmlayers.scoring_model import ScoringModel


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of a run on its test rows.

    Attributes:
        ratings: RMSE and MAE of the model and of the mean of the training ratings, and
            RMSLE if the target was transformed. Empty for a run on labels or implicit
            feedback, which predicts no ratings.
        labels: Log loss, AUC, PR-AUC and calibration error of the model, and of the
            share of the label 1 in the training rows. Empty for other runs.
        top_n: Metrics of the top-N recommendations by name; see
            `fmlayers.metrics.ranking_metrics`. Empty for a run without users and items.
        popular: The same metrics of a baseline that recommends the most popular items:
            those with the most training rows, without the items that the user rated.
        k: Number of recommendations per user.
        relevant: Description of the relevant items.
    """

    ratings: dict[str, Any]
    labels: dict[str, Any]
    top_n: dict[str, float]
    popular: dict[str, float]
    k: int
    relevant: str

    def text(self) -> str:
        """Returns the metrics as text tables."""
        tables = []
        if self.ratings:
            tables.append(rating_table("model", self.ratings, "rating prediction"))
        if self.labels:
            tables.append(label_table("model", self.labels))
        if not self.top_n:
            return "\n".join(tables)
        metrics = [name for name in self.top_n if name != "users"]
        ranking: list[tuple[str, ...]] = [(f"top {self.k}", *metrics)]
        for name, values in (("model", self.top_n), ("most popular", self.popular)):
            ranking.append((name, *(f"{values[metric]:.4f}" for metric in metrics)))
        tables.append(aligned(ranking))
        notes = (
            f"means over {int(self.top_n['users']):,} users; the whole catalog is "
            "ranked, without the items that the user rated in the training rows\n"
            f"relevant: {self.relevant}\n"
        )
        return "\n".join([*tables, notes])


def evaluate(
    run: SavedRun,
    dataset: Dataset | None = None,
    *,
    k: int = 25,
    quantile: float = 0.85,
    threshold: float | None = None,
    candidates: int | None = None,
) -> Evaluation:
    """Evaluates the ratings and the top-N recommendations of a run on its test rows.

    The recommendations rank the whole catalog, the items of the training rows, without
    the items that the user rated there. An item without training rows is never
    recommended. If it is relevant, it counts as a miss.

    Args:
        run: The run.
        dataset: Optional data of the run. Defaults to `run.dataset()`.
        k: Positive integer, the number of recommendations per user. Defaults to 25.
        quantile: An item of a user's test rows is relevant if its rating is at least
            this quantile of the user's test ratings. Defaults to 0.85.
        threshold: Optional. An item is relevant if its rating is at least this value,
            instead of `quantile`. Defaults to the label 1 for a run on labels, and to
            the run's `positive_threshold`, if it has one.
        candidates: See `fmlayers.retrieval.retrieve`.

    Raises:
        DataError: If the data are missing or have changed, or no test row is relevant.
        ValueError: If an argument violates its constraint.
    """
    dataset = run.dataset() if dataset is None else dataset
    split = run.split(dataset)
    metrics = target_metrics(run.config, run.model, run.encoder, dataset, split)
    of_ratings = metrics if run.config.task == "regression" else {}
    of_labels = metrics if run.config.task == "binary" else {}
    if not dataset.has_pairs:
        return Evaluation(of_ratings, of_labels, {}, {}, k, "")
    if threshold is None:
        threshold = 0.5 if of_labels else run.config.positive_threshold
    recommender = Recommender(run, dataset, candidates=candidates)
    top_n = evaluate_top_n(
        recommender, dataset, split.test, k=k, quantile=quantile, threshold=threshold
    )
    if threshold is None:
        relevant = (
            f"test items with a rating of at least the {quantile:g} quantile of the "
            "user's test ratings"
        )
    else:
        relevant = f"test items with a rating of at least {threshold:g}"
    assert recommender.rated is not None
    popular = _popular(recommender.rated, len(recommender.catalog), k)
    both = top_n.metrics(), top_n.metrics(popular)
    return Evaluation(of_ratings, of_labels, *both, k, relevant)


@dataclass(frozen=True, eq=False)
class TopNEvaluation:
    """The top-N recommendations of all users, and the items that are relevant to them.

    Attributes:
        positions: Integers `(users, k)`, the recommended items, best first, padded with
            -1.
        relevant: The relevant items of each user. They may be outside the catalog.
        num_items: Number of items in the catalog.
        num_evaluated: Number of items in the catalog or in the evaluated rows.
    """

    positions: npt.NDArray[np.int32]
    relevant: Relevance
    num_items: int
    num_evaluated: int

    def metrics(
        self, positions: npt.NDArray[np.int32] | None = None
    ) -> dict[str, float]:
        """Returns the metrics; see `fmlayers.metrics.ranking_metrics`.

        Args:
            positions: Optional other recommendations for the same users. Defaults to
                `self.positions`.
        """
        positions = self.positions if positions is None else positions
        metrics = ranking_metrics(
            positions, self.relevant, self.num_evaluated, k=positions.shape[1]
        )
        # The coverage is a share of the catalog.
        share = self.num_evaluated / self.num_items
        return metrics | {"coverage": metrics["coverage"] * share}


def evaluate_top_n(
    recommender: Recommender,
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    *,
    k: int,
    quantile: float = 0.85,
    threshold: float | None = None,
) -> TopNEvaluation:
    """Recommends items to all users and finds the relevant items of each user.

    Args:
        recommender: The recommender, created with `dataset`.
        dataset: The data.
        rows: The rows of `dataset` to evaluate on.
        k: See `evaluate`.
        quantile: See `evaluate`.
        threshold: See `evaluate`.

    Raises:
        DataError: If no row is relevant.
    """
    users, items = recommender.users, recommender.catalog.keys
    _, positions = recommender.top_n(list(users), k)
    test = dataset.ratings.iloc[rows]
    test_items = pd.Index(test["item"].map(as_text).unique(), dtype=object)
    # The positions of items outside the catalog follow those of the catalog.
    all_items = items.append(test_items.difference(items))
    pairs = positions_of(test["user"], users), positions_of(test["item"], all_items)
    ratings = test["rating"].to_numpy()
    if threshold is None:
        relevant = relevant_by_quantile(*pairs, ratings, quantile=quantile)
    else:
        relevant = relevant_by_threshold(*pairs, ratings, threshold)
    if not len(relevant.users):
        least = "" if threshold is None else f" of {threshold:g} or more"
        raise DataError(f"At least one test row must have a rating{least}.")
    return TopNEvaluation(positions, relevant, len(items), len(all_items))


def _popular(rated: RatedItems, num_items: int, k: int) -> npt.NDArray[np.int32]:
    """Returns, for each user, the k unseen items with the most training rows."""
    counts = np.bincount(rated.items[rated.items >= 0], minlength=num_items)
    order = np.argsort(-counts, kind="stable").astype(np.int32)
    positions = np.full((len(rated.users), k), -1, np.int32)
    for user in range(len(rated.users)):
        is_unseen = np.ones(num_items, bool)
        is_unseen[rated.seen.of(user)] = False
        best = order[is_unseen[order]][:k]
        positions[user, : len(best)] = best
    return positions


def target_metrics(
    config: TrainingConfig,
    model: ScoringModel,
    encoder: Encoder,
    dataset: Dataset,
    split: Split,
) -> dict[str, Any]:
    """Returns the metrics of a model and of the mean predictor on the test rows.

    The mean predictor predicts the mean target of the training rows. Implicit feedback
    has no such metrics: the dict is empty.
    """
    if config.task == "implicit":
        return {}
    table = dataset.table().iloc[split.test]
    truth = table["rating"].to_numpy(np.float64)
    with named_places(lambda c, row: dataset.place_of(c, int(split.test[row]))):
        inputs = encoder.transform(table)
    weights = weights_of(config, table)
    train = dataset.ratings.iloc[split.train]
    mean = np.full_like(
        truth, np.average(train["rating"], weights=weights_of(config, train))
    )
    metrics: dict[str, Any] = {}
    if config.task == "binary":
        for prefix, p in (
            ("", probabilities(model, inputs)),
            ("mean_predictor_", mean),
        ):
            of_labels = _label_metrics(truth, p, weights)
            metrics |= {prefix + name: value for name, value in of_labels.items()}
    else:
        ratings = predict(model, inputs)
        with np.errstate(over="ignore"):
            for prefix, predicted in (("", ratings), ("mean_predictor_", mean)):
                metrics[f"{prefix}rmse"] = rmse(truth, predicted, weights)
                metrics[f"{prefix}mae"] = mae(truth, predicted, weights)
                if config.target_transform == "log1p":
                    metrics[f"{prefix}rmsle"] = rmsle(truth, predicted, weights)
    metrics["unknown_in_test"] = {
        column: int((inputs[column] == UNKNOWN).sum())
        for column, kind in encoder.columns.items()
        if kind == "categorical"
    }
    if isinstance(dataset, SyntheticDataset) and config.task == "regression":
        metrics["floor_rmse"] = dataset.floor_rmse(split.test)
    if isinstance(dataset, SyntheticClicks) and config.task == "binary":
        best = dataset.best_metrics(split.test)
        metrics |= {f"best_{name}": value for name, value in best.items()}
    return metrics


def _label_metrics(
    labels: npt.NDArray[np.float64],
    probabilities: npt.NDArray[Any],
    weights: npt.NDArray[np.float64] | None,
) -> dict[str, float | None]:
    """Returns the metrics of probabilities; areas are `None` with one label only."""
    counted = labels if weights is None else labels[weights > 0.0]
    both = len(np.unique(counted)) == 2
    rows = labels, probabilities, weights
    return {
        "log_loss": log_loss(*rows),
        "auc": auc(*rows) if both else None,
        "pr_auc": pr_auc(*rows) if both else None,
        "calibration_error": calibration_error(*rows),
    }
