import numpy as np
import pandas as pd
import pytest

from fmlayers.data import write_csv
from fmlayers.metrics import calibration_error
from fmlayers.runs import TrainingConfig, train

SETTINGS = {"task": "binary", "target": "label", "dim": 4, "max_epochs": 8}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """About 1 % of the labels are 1, from 0.1 % to 10 % by place and hour."""
    rng = np.random.default_rng(7)
    place, hour = rng.integers(0, 40, 40_000), rng.integers(0, 24, 40_000)
    log_odds = -5.0 + rng.normal(0, 0.8, 40)[place] + rng.normal(0, 0.6, 24)[hour]
    label = rng.random(40_000) < 1.0 / (1.0 + np.exp(-log_odds))
    table = pd.DataFrame(
        {
            "place": [f"p{x}" for x in place],
            "hour": [f"h{x}" for x in hour],
            "label": label.astype(int),
        }
    )
    path = tmp_path_factory.mktemp("data") / "clicks.csv"
    write_csv(table, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("positive_weight", "bound"), [(1.0, 0.005), (30.0, 0.003)])
def test_rare_labels_stay_calibrated(positive_weight, bound, clicks, tmp_path):
    config = TrainingConfig(
        data=str(clicks), positive_weight=positive_weight, **SETTINGS
    )
    run = train(config, tmp_path / "run")
    dataset = run.dataset()
    rows = dataset.table().iloc[run.split(dataset).train]
    share = rows["rating"].mean()
    assert 0.005 < share < 0.02
    np.testing.assert_allclose(run.predict(rows).mean(), share, rtol=0.05)
    # Of perfect predictions, the error would be about 0.0015: 15 bins of 2,667 rows.
    whole = dataset.table()
    error = calibration_error(whole["rating"], run.predict(whole))
    # Without weight, the effects on rare labels are learned slowly and stay too small.
    assert error < bound
    assert run.metrics["pr_auc"] > 1.5 * run.metrics["mean_predictor_pr_auc"]
    assert run.metrics["log_loss"] < run.metrics["mean_predictor_log_loss"]


def test_the_bias_starts_at_the_log_odds_of_the_base_rate(clicks, tmp_path):
    config = TrainingConfig(
        data=str(clicks),
        positive_weight=50.0,
        **SETTINGS | {"max_epochs": 1},
        learning_rate=1e-9,
    )
    run = train(config, tmp_path / "run")
    share = run.metrics["mean_predictor_log_loss"]
    np.testing.assert_allclose(run.metrics["log_loss"], share, rtol=1e-4)
