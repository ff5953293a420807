import hashlib
import itertools
import math

import numpy as np
import pytest

from fmlayers.data import DataError, SyntheticClicks, load, synthetic_clicks
from fmlayers.data.generated_clicks import _SIZES
from fmlayers.metrics import auc, log_loss, pr_auc
from fmlayers.runs import TrainingConfig, train


@pytest.fixture(scope="module")
def clicks():
    return synthetic_clicks(num_rows=40_000)


def test_the_table_has_the_shape_of_criteo(clicks):
    numeric = [f"I{i}" for i in range(1, 14)]
    text = [f"C{i}" for i in range(1, 27)]
    assert isinstance(clicks, SyntheticClicks)
    assert list(clicks.ratings) == ["rating", *numeric, *text]
    assert not clicks.has_pairs
    gaps = clicks.ratings[numeric].isna().mean()
    assert 0.6 < gaps.max() < 0.8
    assert (gaps > 0).sum() >= 10
    assert not clicks.ratings[text].isna().any(axis=None)
    assert (_SIZES[0], _SIZES[-1], len(_SIZES)) == (10, 100_000, 26)
    assert all(1.3 < b / a < 1.6 for a, b in itertools.pairwise(_SIZES))


def test_numbers_have_long_tails(clicks):
    numbers = clicks.ratings["I8"].dropna()
    assert numbers.mean() > 4 * numbers.median()
    assert (numbers >= 0).all()
    assert (numbers == np.floor(numbers)).all()


@pytest.mark.parametrize("column", ["C5", "C16", "C26"])
def test_values_have_zipf_frequencies(clicks, column):
    counts = clicks.ratings[column].value_counts().to_numpy()
    ranks = np.array([1, 2, 4, 8, 16])
    expected = counts[0] / ranks
    np.testing.assert_allclose(counts[ranks - 1], expected, rtol=0.15)


def test_labels_follow_their_probabilities(clicks):
    labels, p = clicks.ratings["rating"].to_numpy(), clicks.probability
    assert set(labels) == {0.0, 1.0}
    for low, high in ((0.0, 1.0), (0.0, 0.1), (0.4, 0.6), (0.9, 1.0)):
        rows = (p >= low) & (p < high)
        deviation = math.sqrt((p[rows] * (1.0 - p[rows])).sum())
        assert abs(labels[rows].sum() - p[rows].sum()) < 4 * deviation


@pytest.mark.parametrize("seed", range(4))
def test_the_base_rate_and_the_best_auc_depend_little_on_the_seed(seed):
    data = synthetic_clicks(num_rows=20_000, seed=seed)
    assert 0.2 < data.ratings["rating"].mean() < 0.35
    assert 0.75 < data.best_metrics()["auc"] < 0.8


def test_the_best_metrics_are_means_over_labels():
    """Against the expectation over all labels of a few rows, in plain loops."""
    p = np.array([0.9, 0.2, 0.2, 0.5])
    data = synthetic_clicks(num_rows=4)
    data = SyntheticClicks(name="few", ratings=data.ratings, probability=p)
    best = data.best_metrics()
    above = below = 0.0
    for i in range(4):
        for j in range(4):
            wins = float(p[i] > p[j]) + 0.5 * float(p[i] == p[j])
            above += p[i] * (1.0 - p[j]) * wins
            below += p[i] * (1.0 - p[j])
    np.testing.assert_allclose(best["auc"], above / below)
    entropy = -(p * np.log(p) + (1.0 - p) * np.log(1.0 - p)).mean()
    np.testing.assert_allclose(best["log_loss"], entropy)
    np.testing.assert_allclose(data.best_metrics([1, 2])["auc"], 0.5)


def test_no_prediction_beats_the_best_metrics(clicks):
    labels, p = clicks.ratings["rating"].to_numpy(), clicks.probability
    best = clicks.best_metrics()
    np.testing.assert_allclose(auc(labels, p), best["auc"], atol=0.01)
    np.testing.assert_allclose(pr_auc(labels, p), best["pr_auc"], atol=0.015)
    np.testing.assert_allclose(log_loss(labels, p), best["log_loss"], atol=0.01)
    noisy = 1.0 / (1.0 + (1.0 / p - 1.0) * np.exp(np.sin(np.arange(len(p)))))
    assert auc(labels, noisy) < best["auc"] - 0.01


def test_the_columns_interact(clicks):
    """Without pairs, the log-odds would be a sum of one effect per column."""
    log_odds = np.log(clicks.probability / (1.0 - clicks.probability))
    residual = log_odds - log_odds.mean()
    columns = [f"C{i}" for i in range(1, 14)]
    tables = [clicks.ratings[column].to_numpy() for column in columns]
    codes = [np.unique(table, return_inverse=True)[1] for table in tables]
    explained = np.zeros_like(residual)
    for _ in range(5):
        for code in codes:
            means = np.bincount(code, residual - explained) / np.bincount(code)
            explained += means[code]
    left = residual - explained
    assert left.std() > 0.5
    assert left.std() < log_odds.std() - 0.2


def test_the_same_seed_gives_the_same_bytes(clicks):
    """Pinned, so that another machine or NumPy that draws differently is noticed."""
    small = synthetic_clicks(num_rows=500, seed=7)
    digests = (
        small.fingerprint(),
        hashlib.sha256(small.probability.tobytes()).hexdigest(),
    )
    assert [digest[:16] for digest in digests] == [
        "f302110f4cb83263",
        "8b4a57140b7ec332",
    ]
    assert synthetic_clicks(num_rows=500, seed=8).fingerprint() != small.fingerprint()


def test_the_source_has_options():
    data = load("synthetic-clicks:rows=50,seed=3")
    assert data.fingerprint() == synthetic_clicks(num_rows=50, seed=3).fingerprint()
    assert len(load("synthetic-clicks").ratings) == 30_000
    for source in ("rows=", "rows=-5", "lines=7", "rows=1e6", "100"):
        with pytest.raises(ValueError, match="must be rows=N and seed=N"):
            load(f"synthetic-clicks:{source}")
    with pytest.raises(ValueError, match="`num_rows` must be a positive integer"):
        load("synthetic-clicks:rows=0")


def test_the_task_of_the_source_is_binary(tmp_path):
    assert TrainingConfig(data="synthetic-clicks").task == "binary"
    assert TrainingConfig(data="synthetic-clicks:rows=9", loss="bce").task == "binary"
    assert TrainingConfig(data="synthetic-clicks", task="regression").loss == "mse"
    config = TrainingConfig(data="synthetic-clicks:rows=500", task="implicit")
    with pytest.raises(DataError, match="needs users and items"):
        train(config, tmp_path / "run")


def test_a_run_states_the_best_metrics(tmp_path):
    config = TrainingConfig(data="synthetic-clicks:rows=2000", dim=4, max_epochs=1)
    run = train(config, tmp_path / "run")
    split = run.split(run.dataset())
    best = synthetic_clicks(num_rows=2000).best_metrics(split.test)
    assert run.metrics["best_auc"] == best["auc"]
    assert "best possible" in run.summary()
    assert f"{best['auc']:.4f}" in run.evaluate().text()
