import numpy as np
import pandas as pd
import pytest

from fmlayers.cli import main
from fmlayers.data import DataError
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.evaluation import evaluate, evaluate_top_n


@pytest.fixture(scope="module", params=["mse", "bpr"])
def run(request, tmp_path_factory):
    """Train on implicit feedback or on ratings of generated data."""
    config = TrainingConfig(
        data="synthetic",
        features=("user", "item"),
        loss=request.param,
        dim=4,
        max_epochs=2,
        batch_size=2048,
        validation_fraction=0.0,
    )
    return train(config, tmp_path_factory.mktemp("runs") / "run")


def test_top_n_metrics_equal_those_of_loops(run):
    """Scores every pair, and sorts each user's."""
    k = 7
    found = evaluate(run, k=k)
    dataset = run.dataset()
    split = run.split(dataset)
    train_rows, test_rows = (dataset.ratings.iloc[rows] for rows in split)
    catalog = train_rows["item"].unique()
    pairs = (
        test_rows[["user"]]
        .drop_duplicates()
        .merge(pd.DataFrame({"item": catalog}), how="cross")
    )
    pairs["score"] = np.asarray(run.model.score(run.encoder.transform(pairs)))[:, 0]
    scores = {user: own.to_numpy() for user, own in pairs.groupby("user")["score"]}
    hits, recalls, popular_hits = [], [], []
    counts = train_rows["item"].value_counts()
    for user, rows in test_rows.groupby("user"):
        bar = np.quantile(rows["rating"], 0.85)
        relevant = set(rows["item"][rows["rating"] >= bar])
        seen = set(train_rows["item"][train_rows["user"] == user])
        fresh = np.array([item for item in catalog if item not in seen])
        keep = ~np.isin(catalog, list(seen))
        best = fresh[np.argsort(-scores[user][keep], kind="stable")][:k]
        hits.append(len(relevant & set(best)) / k)
        recalls.append(len(relevant & set(best)) / len(relevant))
        top = max(len(relevant & set(fresh[np.argsort(-counts[fresh])][:k])), 0)
        popular_hits.append(top / k)
    assert found.top_n["users"] == len(hits)
    np.testing.assert_allclose(found.top_n["precision"], np.mean(hits), atol=1e-3)
    np.testing.assert_allclose(found.top_n["recall"], np.mean(recalls), atol=1e-3)
    # Items of one count are in any order: as many hits but for these.
    np.testing.assert_allclose(
        found.popular["precision"], np.mean(popular_hits), rtol=0.1
    )


def test_rating_metrics_of_a_run_on_ratings(run):
    found = evaluate(run)
    if run.metrics["config"]["loss"] == "mse":
        for name in ("rmse", "mae", "mean_predictor_rmse"):
            np.testing.assert_allclose(
                found.ratings[name], run.metrics[name], rtol=1e-5
            )
    else:
        assert found.ratings == {}
        assert "rmse" not in run.metrics


def test_threshold_takes_the_place_of_the_quantile(run):
    top_n = evaluate(run, threshold=4.5).top_n
    dataset = run.dataset()
    test = dataset.ratings.iloc[run.split(dataset).test]
    assert top_n["users"] == test["user"][test["rating"] >= 4.5].nunique()
    with pytest.raises(DataError, match="one test row must have a rating of 6"):
        evaluate(run, threshold=6.0)
    recommender, none = run.recommender(), np.empty(0, np.int64)
    with pytest.raises(DataError, match=r"At least one test row must have a rating\."):
        evaluate_top_n(recommender, dataset, none, k=3)


def test_command(run, capsys):
    assert main(["evaluate", str(run.path), "--top", "5"]) == 0
    printed = capsys.readouterr().out
    figures = evaluate(run, k=5)
    assert printed == figures.text()
    assert "top 5 " in printed
    for name in ("precision", "recall", "map", "ndcg", "hit_rate", "coverage"):
        assert f"{figures.top_n[name]:.4f}" in printed
    assert ("RMSE" in printed) == (run.metrics["config"]["loss"] == "mse")
