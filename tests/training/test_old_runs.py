"""Runs that earlier versions saved load, and predict and list what they did then."""

import json
from pathlib import Path

import numpy as np
import pytest

from fmlayers.runs import Run
from fmlayers.runs.recommender import Recommender

OLD = sorted((Path(__file__).parent / "old").glob("run-*"))


def test_there_are_old_runs():
    assert [path.name for path in OLD][:1] == ["run-0.1.0"]


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.name)
def test_an_old_run_is_as_it_was(path):
    run = Run(path)
    expected = json.loads((path / "expected.json").read_text("utf-8"))
    ratings = run.predict(run.read_rows(path / "rows.csv"))
    np.testing.assert_allclose(ratings, expected["ratings"], rtol=1e-5)
    recommender = Recommender(run)
    scores, positions = recommender.top_n(expected["users"], 5)
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5)
    keys = recommender.catalog.keys.to_numpy()
    assert keys[positions].tolist() == expected["items"]
    kinds = {type(feature).__name__ for feature in run.model.features}
    assert kinds == {"Categorical", "MultiCategorical", "Numeric", "History"}
