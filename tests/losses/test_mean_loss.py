import keras
import numpy as np
import pytest

from fmlayers.losses import BPR, BalancedCrossentropy, MeanLoss, SquaredLogError


@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_mean_over_all_rows_of_all_batches(weighted, rng):
    targets, predictions = rng.random(30), rng.random((30, 1))
    weights = rng.random(30) if weighted else None
    metric = MeanLoss(SquaredLogError(), root=True)
    for rows in (slice(0, 20), slice(20, 30)):
        part = None if weights is None else weights[rows]
        metric.update_state(targets[rows], predictions[rows], sample_weight=part)
    expected = (np.log1p(predictions[:, 0]) - np.log1p(targets)) ** 2
    expected = np.sqrt(np.average(expected, weights=weights))
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)


def test_the_groups_of_bpr_have_the_mean_weight_of_their_rows(rng):
    labels = np.tile([1.0, 0.0, 0.0], 4)
    scores = rng.normal(size=12)
    weights = rng.random(12)
    groups = np.asarray(BPR(3, reduction="none")(labels, scores))
    of_groups = weights.reshape(4, 3).mean(axis=1)
    metric = MeanLoss(BPR(3))
    metric.update_state(labels, scores, sample_weight=weights)
    expected = np.average(groups, weights=of_groups)
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-5)
    loss = BPR(3, reduction="sum")(labels, scores, sample_weight=weights)
    np.testing.assert_allclose(float(loss), (groups * of_groups).sum(), rtol=1e-5)


def test_is_restored_with_its_loss():
    metric = MeanLoss(BalancedCrossentropy(3.0), root=True, name="mine")
    clone = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(clone) is MeanLoss
    assert clone.get_config() == metric.get_config()
    assert clone.loss.positive_weight == 3.0
