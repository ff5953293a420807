"""The same numbers as other packages', where the definitions agree.

They take a matrix of scores of every user and item. Ours takes lists.
"""

import numpy as np
import pytest

from fmlayers.metrics import Relevance, ranking_metrics, ranking_metrics_by_user

USERS, ITEMS = 40, 90


@pytest.fixture
def scores(rng):
    return rng.permuted(np.tile(np.linspace(0, 1, ITEMS), (USERS, 1)), axis=1)


@pytest.fixture
def liked(rng, scores):
    share = rng.choice([0.03, 0.1, 0.5], size=(USERS, 1))
    liked = rng.random((USERS, ITEMS)) < share * (0.5 + scores)
    liked[:, 0] |= ~liked.any(axis=1)  # every user has a relevant item
    return liked


@pytest.fixture
def judged(scores, liked):
    lists = np.argsort(-scores, axis=1)
    relevant = Relevance(*np.nonzero(liked))
    return lambda k: (lists, relevant, ITEMS, k)


@pytest.mark.parametrize("k", [1, 5, 25, ITEMS])
def test_scikit_learn_ndcg(scores, liked, judged, k):
    metrics = pytest.importorskip("sklearn.metrics")
    *case, k = judged(k)
    theirs = metrics.ndcg_score(liked.astype(float), scores, k=k)
    np.testing.assert_allclose(ranking_metrics(*case, k=k)["ndcg"], theirs, rtol=1e-12)


def test_scikit_learn_average_precision_of_a_full_ranking(scores, liked, judged):
    metrics = pytest.importorskip("sklearn.metrics")
    *case, k = judged(ITEMS)
    theirs = [
        metrics.average_precision_score(*user)
        for user in zip(liked, scores, strict=True)
    ]
    ours = ranking_metrics_by_user(*case, k=k)["average_precision"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 25])
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("precision", "PrecisionAtK"),
        ("recall", "RecallAtK"),
        ("ndcg", "NDCG"),
        ("average_precision", "MeanAveragePrecision"),
    ],
)
def test_keras_rs(scores, liked, judged, k, name, peer):
    metrics = pytest.importorskip("keras_rs.metrics")
    *case, k = judged(k)
    ours = ranking_metrics_by_user(*case, k=k)[name]
    if name == "average_precision":
        # Theirs divides by all the relevant items, also by those beyond place k.
        num_relevant = liked.sum(axis=1)
        assert (num_relevant > k).any()
        ours = ours * np.minimum(num_relevant, k) / num_relevant
    metric = getattr(metrics, peer)(k=k)
    metric.update_state(liked.astype("float32"), scores.astype("float32"))
    np.testing.assert_allclose(ours.mean(), float(metric.result()), rtol=1e-5)
