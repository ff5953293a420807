import numpy as np
import sklearn.calibration
import sklearn.metrics
from checks import check_error
from hypothesis import given, settings
from hypothesis import strategies as st

from fmlayers.metrics import (
    auc,
    calibration_curve,
    calibration_error,
    log_loss,
    pr_auc,
    precision_recall_curve,
    roc_curve,
)

METRICS = (log_loss, auc, pr_auc, calibration_error)


@st.composite
def tables(draw):
    """Labels of both kinds, predictions with ties, and weights."""
    size = draw(st.integers(2, 60))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    labels[:2] = 0, 1
    levels = draw(st.sampled_from([2, 5, 1000]))
    probabilities = rng.integers(0, levels + 1, size) / levels
    weights = rng.integers(0, 4, size) / 2
    weights[:2] = 1.0
    return labels, probabilities, weights


@given(tables())
@settings(deadline=None, max_examples=100)
def test_equal_those_of_scikit_learn(table):
    labels, probabilities, weights = table
    for w in (None, weights):
        options = {"sample_weight": w}
        expected = sklearn.metrics.roc_auc_score(labels, probabilities, **options)
        np.testing.assert_allclose(auc(labels, probabilities, w), expected)
        expected = sklearn.metrics.average_precision_score(
            labels, probabilities, **options
        )
        np.testing.assert_allclose(pr_auc(labels, probabilities, w), expected)
        clipped = np.clip(probabilities, 1e-3, 1 - 1e-3)
        expected = sklearn.metrics.log_loss(labels, clipped, **options)
        np.testing.assert_allclose(log_loss(labels, clipped, w), expected)


@given(tables())
@settings(deadline=None, max_examples=50)
def test_a_weight_is_a_number_of_copies(table):
    labels, probabilities, weights = table
    copies = (2 * weights).astype(int)
    rows = np.repeat(np.arange(len(labels)), copies)
    for metric in METRICS:
        np.testing.assert_allclose(
            metric(labels, probabilities, weights),
            metric(labels[rows], probabilities[rows]),
            err_msg=metric.__name__,
        )


def test_curves_equal_those_of_scikit_learn(rng):
    labels = rng.integers(0, 2, 200)
    scores = np.round(rng.normal(size=200) + labels, 1)
    false, true, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(labels, scores), (false, true))
    precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, scores)
    ours = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(ours.x, recall[::-1])
    np.testing.assert_allclose(ours.y[1:], precision[::-1][1:])


def test_calibration(rng):
    """Of calibrated predictions the error is noise, of others their difference."""
    p = rng.random(60_000) ** 3
    labels = rng.random(60_000) < p
    assert calibration_error(labels, p) < 0.008
    curve = calibration_curve(labels, p, bins=20)
    share, predicted = sklearn.calibration.calibration_curve(
        labels, p, n_bins=20, strategy="quantile"
    )
    np.testing.assert_allclose(curve.x, predicted, atol=1e-4)
    np.testing.assert_allclose(curve.y, share, atol=1e-3)
    shifted = np.minimum(p + 0.1, 1.0)
    expected = np.mean(shifted - p)
    np.testing.assert_allclose(calibration_error(labels, shifted), expected, atol=0.008)


def test_equal_predictions_share_a_bin():
    labels, p = [1, 0, 0, 0], [0.25] * 4
    assert calibration_error(labels, p) == 0.0
    curve = calibration_curve(labels, p)
    np.testing.assert_array_equal(curve, [[0.25], [0.25]])


def test_a_certain_wrong_prediction_has_a_finite_loss():
    loss = log_loss([1, 0], [0.0, 0.0])
    np.testing.assert_allclose(loss, 23 * np.log(2) / 2, rtol=1e-6)


def test_errors():
    for metric in METRICS:
        check_error("`labels` must be 0 or 1", lambda m=metric: m([0, 2], [0.5, 0.5]))
        check_error(
            r"`labels` and `probabilities` must have the same shape",
            lambda m=metric: m([0, 1], [[0.5], [0.5]]),
        )
        check_error("at least one label", lambda m=metric: m([], []))
        check_error(
            r"`weights` must be finite and not negative. Received: -1 at index 1",
            lambda m=metric: m([0, 1], [0.5, 0.5], [1.0, -1.0]),
        )
        check_error("not all be zero", lambda m=metric: m([0, 1], [0, 1], [0, 0]))
    for metric in (log_loss, calibration_error):
        check_error(
            "`probabilities` must be between 0 and 1. Received: 1.5 at index 0",
            lambda m=metric: m([0, 1], [1.5, 0.5]),
        )
    for metric in (auc, pr_auc):
        assert metric([0, 1], [-3.0, 7.0]) == 1.0
        check_error("only the label 0", lambda m=metric: m([0, 0], [0.1, 0.2]))
        check_error("finite numbers", lambda m=metric: m([0, 1], [np.nan, 0.2]))
    check_error("`bins` must", lambda: calibration_error([0, 1], [0, 1], bins=0))
