"""Runs on columns of every kind."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from fmlayers.data import DataError
from fmlayers.runs import Run, TrainingConfig, explanation, train

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
NUMBERS = ("price:log1p", "age:quantiles=4", "city:hash=30", "tags:multi_hash=30")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with kinds that replace the inferred ones."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    table = ratings(folder).drop(columns=["genres", "text"])
    rows = len(table)
    table["price"] = rng.lognormal(3, 2, rows).round(2)
    table["age"] = rng.integers(18, 80, rows)
    table["city"] = [f"city {i}" for i in rng.integers(0, 200, rows)]
    table["tags"] = [f"t{i}|t{j}" for i, j in rng.integers(0, 50, (rows, 2))]
    table["note"] = [f"note {i}" for i in range(rows)]
    table.loc[table.index[:9], ["price", "age", "city", "tags"]] = None
    table.to_csv(folder / "ratings.csv", index=False)
    config = TrainingConfig(
        data=str(folder / "ratings.csv"),
        kinds=(*NUMBERS, "note:none"),
        dim=4,
        max_epochs=2,
    )
    return train(config, folder / "run"), table, folder


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
    described = {"weighted": "genres  weighted", "vector": "text    vector (2 numbers)"}
    assert f"\n{described[kind]} " in lines
    predicted = run.predict(table)
    assert np.isfinite(predicted).all()
    inputs = run.encoder.transform(table)
    scores = keras.ops.convert_to_numpy(run.model(inputs))[:, 0]
    np.testing.assert_allclose(predicted, scores, rtol=1e-4, atol=1e-5)
    if loss == "mse":
        np.testing.assert_array_equal(run.predict(table.iloc[::-1]), predicted[::-1])


def test_a_run_replaces_inferred_kinds(run):
    finished, table, _ = run
    columns = finished.metrics["config"]["columns"]
    assert columns == {
        "user": "categorical",
        "item": "categorical",
        **dict(entry.split(":") for entry in NUMBERS),
    }
    described = finished.metrics["described"]
    assert any(line.startswith("price   log1p") for line in described)
    assert not any(line.startswith("long tail") for line in described)
    summary = (finished.path / "summary.txt").read_text("utf-8")
    assert "\n".join(described) in summary
    predicted = finished.predict(table)
    assert np.isfinite(predicted).all()
    again = Run(finished.path).predict(table.assign(city="another", age=1e9, price=0))
    assert np.isfinite(again).all()


def test_predict_reads_numbers_of_every_kind(run):
    finished, table, folder = run
    path = folder / "rows.csv"
    table.drop(columns="rating").to_csv(path, index=False)
    predicted, _ = finished.predicted_rows(path)
    np.testing.assert_allclose(predicted["prediction"], finished.predict(table), 1e-5)
    path.write_text("user,item,price,age,city,tags\nu1,i1,3,old,c,t1\n")
    with pytest.raises(
        DataError, match=r"rows\.csv, line 2: column 'age' must have fin"
    ):
        finished.predicted_rows(path)


def test_a_bin_is_explained_as_an_interval(run):
    finished, table, _ = run
    parts = pd.DataFrame(table.iloc[20:21])
    value = explanation._value(finished, "age", parts)
    (low, high) = value.split(" in ")[1].strip("(])").split(", ")
    assert float(low) < table["age"].iloc[20] <= float(high)
    assert explanation._value(finished, "age", parts.assign(age=None)) == "(missing)"
    assert explanation._value(finished, "city", parts.assign(city="new")) == "new"
    assert explanation._value(finished, "price", parts).startswith(
        f"{table['price'].iloc[20]}"
    )


def test_a_run_on_hashed_users_and_items(tmp_path):
    table = ratings(tmp_path)
    config = TrainingConfig(
        data=str(tmp_path / "ratings.csv"),
        features=("user:hash=50", "item:hash=20"),
        dim=4,
        max_epochs=2,
    )
    run = train(config, tmp_path / "run")
    assert np.isfinite(run.predict(table)).all()
    assert run.metrics["unknown_in_test"] == {}
    with pytest.raises(ValueError, match="The column item must be categorical to reco"):
        run.recommend(["u1"])
    with pytest.raises(ValueError, match="`histories` must be used with the features"):
        train(replace(config, histories=True), tmp_path / "histories")


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs the TensorFlow backend"
)
def test_an_export_of_hashed_items_has_no_catalog(tmp_path):
    ratings(tmp_path)
    config = TrainingConfig(
        data=str(tmp_path / "ratings.csv"),
        features=("user", "item:hash=20"),
        dim=4,
        max_epochs=1,
    )
    run = train(config, tmp_path / "run")
    served = run.export(tmp_path / "served", "saved_model")
    card = (served / "card.json").read_text("utf-8")
    assert '"serve_raw"' in card
    assert '"recommend"' not in card
