"""Runs on columns of every kind."""

import keras
import numpy as np
import pandas as pd
import pytest

from fmlayers.runs import TrainingConfig, train

pytestmark = pytest.mark.slow


def ratings(tmp_path):
    """Writes a table in which an item's columns follow from the item."""
    rng = np.random.default_rng(0)
    genres = [f"war:{x:.2f}|noir:{1 - x:.2f}" for x in rng.random(12)]
    texts = [f"{x:.2f}|{y:.2f}" for x, y in rng.normal(size=(12, 2))]
    user, item = rng.integers(0, 30, 400), rng.integers(0, 12, 400)
    table = pd.DataFrame(
        {
            "user": [f"u{i}" for i in user],
            "item": [f"i{i}" for i in item],
            "genres": [genres[i] for i in item],
            "text": [texts[i] for i in item],
            "rating": rng.integers(1, 6, 400),
        }
    ).drop_duplicates(["user", "item"])
    table.to_csv(tmp_path / "ratings.csv", index=False)
    return table


FEATURES = {
    "weighted": ("user", "item", "genres:weighted"),
    "vector": ("user", "item", "text:vector"),
}


@pytest.mark.parametrize("loss", ["mse", "bpr"])
@pytest.mark.parametrize("kind", FEATURES)
def test_a_run_trains_and_predicts(kind, loss, tmp_path):
    table = ratings(tmp_path)
    config = TrainingConfig(
        data=str(tmp_path / "ratings.csv"),
        features=FEATURES[kind],
        loss=loss,
        dim=4,
        max_epochs=2,
    )
    run = train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "summary.txt").read_text("utf-8")
    assert f" {kind} (2 " in lines
    predicted = run.predict(table)
    assert np.isfinite(predicted).all()
    inputs = run.encoder.transform(table)
    scores = keras.ops.convert_to_numpy(run.model(inputs))[:, 0]
    np.testing.assert_allclose(predicted, scores, rtol=1e-4, atol=1e-5)
    if loss == "mse":
        np.testing.assert_array_equal(run.predict(table.iloc[::-1]), predicted[::-1])
