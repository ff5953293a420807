"""Studies on tables of their own, and in memory."""

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import write_csv
from fmlayers.runs import TrainingConfig
from fmlayers.runs.folder import RunError
from fmlayers.tuning import Study, TuningConfig, tune
from fmlayers.tuning.study_folder import StudyError


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    user, item = rng.integers(30, size=900), rng.integers(20, size=900)
    rating = 3.0 + (user % 2) * (item % 3 - 1) + rng.normal(size=900) * 0.1
    rows = pd.DataFrame({"user": user, "item": item, "rating": rating})
    items = pd.DataFrame({"item": range(20), "color": np.arange(20) % 3})
    return {
        "ratings": rows[:600],
        "validation": rows[600:750],
        "test": rows[750:],
        "items": items,
    }


def make_config(**settings):
    training = TrainingConfig(dim=4, max_epochs=2, batch_size=64, **settings)
    return TuningConfig(training=training, search={"dim": "2,4"})


@pytest.mark.slow
def test_a_study_of_tables_in_memory(tables, tmp_path):
    out = tmp_path / "study"
    study = tune(make_config(), out, dataset=tables, max_trials=1)
    assert study.record["rows"] == {"fitting": 600, "validation": 150, "test": 150}
    run = study.run
    assert run.metrics["rows"] == {"train": 750, "validation": 150, "test": 150}
    assert run.evaluate(k=3).ratings["rmse"] == run.metrics["rmse"]
    # The best run is not trained on the validation rows, either.
    assert run.metrics["config"]["validation_fraction"] == 0.0
    same = tune(make_config(), out, dataset=tables, max_trials=1)
    assert len(same.trials()) == 1
    other = {**tables, "items": tables["items"].assign(color=1)}
    with pytest.raises(StudyError, match="is a study of other data"):
        tune(make_config(), out, dataset=other, max_trials=1)
    with pytest.raises(RunError, match="of which .* are missing"):
        Study(out).run.evaluate()
    assert Study(out, dataset=tables).run.evaluate(k=3).ratings


@pytest.mark.slow
def test_a_study_of_files(tables, tmp_path):
    files = {name: str(tmp_path / f"{name}.csv") for name in tables}
    for name, table in tables.items():
        write_csv(table, files[name])
    files["data"] = files.pop("ratings")
    study = tune(make_config(**files), tmp_path / "study", max_trials=1)
    assert study.record["rows"] == {"fitting": 600, "validation": 150, "test": 150}
    assert "test rows of test.csv" in study.summary()
    assert study.run.evaluate(k=3).ratings["rmse"] == study.run.metrics["rmse"]


def test_each_process_reads_the_data(tables, tmp_path):
    with pytest.raises(ValueError, match="`dataset` must be left out if several proc"):
        tune(make_config(), tmp_path / "study", dataset=tables, workers=2)
