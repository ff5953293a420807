"""Runs on tables of their own: items, users, test and validation rows, or in memory."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from checks import check_error

from fmlayers.cli import main
from fmlayers.data import DataError, Dataset, write_csv
from fmlayers.runs import Run, TrainingConfig, train
from fmlayers.runs.examples import Examples
from fmlayers.runs.folder import RunError
from fmlayers.runs.run_data import IN_MEMORY, RunData

USERS, ITEMS, CATEGORIES = 60, 40, 4


def make_tables(seed=0):
    """Returns ratings, users and items, whose columns decide the rating."""
    rng = np.random.default_rng(seed)
    rows = 2400
    user, item = rng.integers(USERS, size=rows), rng.integers(ITEMS, size=rows)
    age, color = 20 + np.arange(USERS), np.arange(ITEMS) % CATEGORIES
    rating = 3 + (color[item] - 1.5) * np.where(age[user] > 50, 1, -1) * 0.8
    ratings = pd.DataFrame(
        {
            "who": [f"u{x}" for x in user],
            "sku": item + 100,
            "stars": (rating + rng.normal(size=rows) * 0.3).round(2),
            "weekday": rng.choice(["mon", "tue"], rows),
        }
    )
    users = pd.DataFrame({"who": [f"u{x}" for x in range(USERS)], "age": age})
    # A number that is compared as text, a float since one is missing.
    brand = np.where(np.arange(ITEMS) == 7, np.nan, np.arange(ITEMS) % 5)
    items = pd.DataFrame(
        {
            "sku": np.arange(ITEMS) + 100,
            "color": [f"c{x}" for x in color],
            "brand": brand,
        }
    )
    return ratings.iloc[:2000], users, items, ratings.iloc[2000:]


@pytest.fixture(scope="module")
def tables():
    ratings, users, items, test = make_tables()
    return {
        "ratings": ratings.iloc[:1800],
        "users": users,
        "items": items,
        "validation": ratings.iloc[1800:],
        "test": test,
    }


SETTINGS = {
    "user": "who",
    "item": "sku",
    "target": "stars",
    "features": ["user", "item", "age", "color", "brand:categorical", "weekday"],
    "dim": 4,
    "max_epochs": 3,
}


def write(tables, folder):
    """Writes the tables, and returns the settings that name them."""
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv")
    files = {name: str(folder / f"{name}.csv") for name in tables}
    return {"data": files.pop("ratings"), **files}


@pytest.fixture(scope="module")
def file_run(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return train(TrainingConfig(**SETTINGS, **write(tables, folder)), folder / "run")


@pytest.fixture(scope="module")
def memory_run(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("memory") / "run"
    return train(TrainingConfig(**SETTINGS), out, dataset=tables)


def test_a_run_on_files_of_its_own(file_run, tables):
    assert file_run.metrics["rows"] == {"train": 2000, "validation": 200, "test": 400}
    assert "test rows of test.csv" in file_run.summary()
    dataset = file_run.dataset()
    split = file_run.split(dataset)
    truth = tables["test"]["stars"].to_numpy()
    np.testing.assert_array_equal(dataset.ratings["rating"].iloc[split.test], truth)
    assert file_run.metrics["rmse"] < 0.8 * file_run.metrics["mean_predictor_rmse"]
    columns = file_run.metrics["config"]["columns"]
    assert columns["age"] == "numeric"
    assert columns["brand"] == "categorical"


def test_columns_of_items_are_looked_up_as_they_were_trained(memory_run, tables):
    rows = tables["test"].rename(columns={"who": "user", "sku": "item"})
    joined = memory_run.test_table()
    assert set(joined["brand"].dropna()) == set("01234")
    expected = memory_run.predict(joined)
    np.testing.assert_allclose(memory_run.predict(rows), expected, rtol=1e-5)
    assert memory_run.catalog().table["brand"].dropna().isin(list("01234")).all()


def test_such_a_run_does_everything(file_run, tables, tmp_path):
    run = Run(file_run.path)
    run.check()
    evaluation = run.evaluate(k=5)
    np.testing.assert_allclose(evaluation.ratings["rmse"], run.metrics["rmse"])
    rows = tables["test"].rename(columns={"who": "user", "sku": "item"})
    keys = rows[["user", "item", "weekday"]]
    joined = run.test_table()
    np.testing.assert_allclose(run.predict(keys), run.predict(joined), rtol=1e-5)
    top = run.recommend(["u1", "u2"], k=3)
    assert top["color"].tolist() == [f"c{int(x) % CATEGORIES}" for x in top["item"]]
    assert "color" in run.explain_fields().text()
    assert "c1" in run.explain("u1", "101").text()
    assert "(missing)" in run.explain("u1", "107").text()
    assert len(run.plot(tmp_path)[0]) > 2


@pytest.mark.slow
def test_the_model_is_not_trained_on_validation_rows(tables, tmp_path):
    held_out = pd.DataFrame(
        {"who": ["u1", "new"], "sku": [100, 999], "stars": 5, "weekday": "sun"}
    )
    run = train(
        TrainingConfig(**SETTINGS),
        tmp_path / "run",
        dataset={**tables, "validation": held_out},
    )
    assert set(run.history()["phase"]) == {"search"}
    for column, value in (("user", "new"), ("item", "999"), ("weekday", "sun")):
        assert value not in run.encoder.vocabulary(column)
    assert run.metrics["rows"]["validation"] == 2
    assert "999" not in run.recommend(["u1"], k=100)["item"].tolist()
    assert run.metrics["validation_rmse"] is not None


def test_tables_in_memory_give_the_run_of_the_files(file_run, memory_run):
    for name in ("rmse", "epochs", "rows", "validation_rmse"):
        assert memory_run.metrics[name] == file_run.metrics[name]
    config = memory_run.config
    for name in ("data", "users", "items", "test", "validation"):
        assert getattr(config, name) == IN_MEMORY
    assert IN_MEMORY in memory_run.summary()
    assert memory_run.evaluate(k=5).top_n == file_run.evaluate(k=5).top_n


def test_a_run_in_memory_needs_its_data_again(memory_run, tables):
    alone = Run(memory_run.path)
    rows = tables["test"].rename(columns={"who": "user", "sku": "item"})
    assert len(alone.predict(rows)) == len(rows)
    assert len(alone.similar(101, k=2)) == 2
    for method in (
        alone.dataset,
        alone.evaluate,
        alone.explain_fields,
        lambda: alone.recommend(["u1"]),
    ):
        with pytest.raises(RunError, match=r"Pass them again, with `Run\(path, datas"):
            method()
    again = Run(memory_run.path, dataset=tables)
    assert again.evaluate(k=5).top_n == alone.evaluate(tables, k=5).top_n
    assert len(again.recommend(["u1"], k=2)) == 2


def changed(tables, name, column, value):
    table = tables[name].copy()
    table.iloc[0, table.columns.get_loc(column)] = value
    return {**tables, name: table}


@pytest.mark.parametrize(
    ("name", "column", "value", "match"),
    [
        ("ratings", "stars", 1.01, "no longer holds the ratings"),
        ("test", "sku", 101, "no longer holds the ratings"),
        ("ratings", "weekday", "sun", "but another column, table of users or items"),
        ("items", "color", "c9", "but another column, table of users or items"),
        ("users", "age", 99, "but another column, table of users or items"),
        ("test", "weekday", "sun", "but another column, table of users or items"),
    ],
)
def test_changed_data_are_refused(
    name, column, value, match, memory_run, file_run, tables, tmp_path
):
    other = changed(tables, name, column, value)
    with pytest.raises(DataError, match=match):
        Run(memory_run.path, dataset=other).evaluate()
    files = write(other, tmp_path)
    files["ratings"] = files.pop("data")
    with pytest.raises(DataError, match=match):
        file_run.evaluate(files)


def test_another_division_into_files_is_refused(memory_run, tables):
    ratings, more = tables["ratings"], tables["ratings"].tail(1)
    validation = pd.concat([more, tables["validation"]])
    other = {**tables, "ratings": ratings.head(-1), "validation": validation}
    with pytest.raises(DataError, match="or division into files"):
        memory_run.dataset(other)
    with pytest.raises(RunError, match="in memory, of which validation is missing"):
        memory_run.dataset({**tables, "validation": None})


def test_a_file_that_has_moved_is_named(file_run, tables, tmp_path):
    files = write(tables, tmp_path)
    files["ratings"] = files.pop("data")
    moved = file_run.dataset(files)
    pd.testing.assert_frame_equal(moved.ratings, file_run.dataset().ratings)
    with pytest.raises(DataError, match=r"nowhere.csv: there is no such file"):
        file_run.dataset({**files, "items": str(tmp_path / "nowhere.csv")})


@pytest.mark.slow
@pytest.mark.parametrize("how", ["finished", "interrupted"])
def test_resuming_compares_the_tables(how, tables, tmp_path, monkeypatch):
    config = TrainingConfig(**SETTINGS | {"max_epochs": 2})
    out = tmp_path / "run"
    if how == "interrupted":
        with monkeypatch.context() as patch:
            patch.setattr("fmlayers.runs.training.target_metrics", _fail)
            with pytest.raises(KeyboardInterrupt):
                train(config, out, dataset=tables)
    else:
        train(config, out, dataset=tables)
    other = changed(tables, "items", "color", "c9")
    with pytest.raises(
        RunError, match="another configuration: tables|holds a finished"
    ):
        train(config, out, dataset=other, resume=True)
    run = train(config, out, dataset=tables, resume=True)
    assert len(run.history()) == 2
    assert run.evaluate(k=3).ratings["rmse"] == run.metrics["rmse"]


def _fail(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_dataset_and_a_frame_are_data_too(tables, tmp_path):
    frame = tables["ratings"].merge(tables["items"], on="sku")
    config = TrainingConfig(**{**SETTINGS, "features": None})
    run = train(config, tmp_path / "frame", dataset=frame)
    assert "color" in pd.read_csv(run.path / "items.csv")
    assert run.config.data == IN_MEMORY
    assert run.config.items is None
    named = frame.rename(columns={"who": "user", "sku": "item", "stars": "rating"})
    dataset = Dataset("shop", named)
    small = TrainingConfig(features=["user", "brand:categorical"], dim=4, max_epochs=2)
    run = train(small, tmp_path / "dataset", dataset=dataset)
    assert run.evaluate(k=3).ratings["rmse"] == run.metrics["rmse"]
    # The number 2.0 of the data is the text "2" in items.csv, too.
    assert named["brand"].dtype == np.float64
    rows = run.test_table()
    predicted = run.predict(rows.drop(columns="brand"))
    np.testing.assert_allclose(predicted, run.predict(rows), rtol=1e-5)
    broken = Dataset("shop", named.assign(rating=np.nan))
    with pytest.raises(
        DataError, match="shop, row 0: the rating in column 'rating' mu"
    ):
        train(small, tmp_path / "broken", dataset=broken)
    broken = Dataset("shop", named.assign(user=None))
    with pytest.raises(DataError, match="shop, row 0: the user in column 'user' is mi"):
        train(small, tmp_path / "broken", dataset=broken)


def test_other_things_are_no_data(tables, tmp_path):
    for data in (3, {"items": tables["items"]}, {**tables, "movies": tables["items"]}):
        with pytest.raises(
            ValueError, match="`dataset` must be a `Dataset`, a `DataFra"
        ):
            train(TrainingConfig(), tmp_path / "run", dataset=data)
    dataset = Dataset("a", pd.DataFrame({"rating": [1.0, 2.0], "x": [1, 2]}))
    with pytest.raises(ValueError, match="`test` must be left out with a `Dataset`"):
        train(TrainingConfig(test="test.csv"), tmp_path / "run", dataset=dataset)


def test_settings_that_a_file_replaces():
    for settings, name in (
        ({"test": "t.csv", "test_fraction": 0.3}, "test_fraction"),
        ({"test": "t.csv", "split": "user"}, "split"),
        ({"validation": "v.csv", "validation_fraction": 0.2}, "validation_fraction"),
    ):
        table = "test" if "test" in settings else "validation"
        check_error(
            f"`{name}` must be left out with `{table}`. Received: {name}=",
            lambda settings=settings: TrainingConfig(**settings),
        )
    assert TrainingConfig(test="t.csv", seed=3).split == "random"
    for settings in ({}, {"task": "binary", "positive_threshold": 1}):
        check_error(
            "`positive_labels` must be used with the task 'binary' and without",
            lambda settings=settings: TrainingConfig(positive_labels=["1"], **settings),
        )


@pytest.fixture(scope="module")
def basket():
    rng = np.random.default_rng(0)
    rows = 3000
    user = rng.integers(80, size=rows)
    item = np.minimum(rng.geometric(0.03, size=rows), 100) - 1
    return pd.DataFrame(
        {
            "user": [f"u{x}" for x in user],
            "item": [f"i{x}" for x in item],
            "category": [f"c{x % 10}" for x in item],
            "city": [f"d{x % 7}" for x in user],
            "weekday": rng.choice(["mon", "tue", "wed"], rows),
        }
    ).drop_duplicates(["user", "item"], ignore_index=True)


BASKET = {"task": "implicit", "dim": 4, "max_epochs": 4}


def test_a_negative_has_its_own_category(basket):
    config = TrainingConfig(**BASKET)
    dataset = RunData.read(config, Dataset("b", basket.assign(rating=1.0))).dataset
    columns = dict.fromkeys(["user", "item", "category", "city", "weekday"])
    kinds = dict.fromkeys(columns, "categorical")
    rows = np.arange(len(basket))
    examples = Examples(config, kinds, dataset, rows[300:], rows[:300])
    batch, _ = examples.batches(len(rows))[0]
    known = basket.set_index("item")["category"].to_dict()
    for inputs in (batch, examples._validation[0]):
        cells = {
            name: examples.encoder.decode(name, np.ravel(inputs[name]))
            for name in columns
        }
        pairs = zip(cells["item"], cells["category"], strict=True)
        assert all(known[item] == category for item, category in pairs)
        assert len(set(zip(cells["item"], cells["category"], strict=True))) > 80
        groups = {
            name: np.reshape(cells[name], (-1, 1 + config.negatives))
            for name in columns
        }
        # What describes the user or the row is that of the positive.
        for name in ("user", "city", "weekday"):
            assert (groups[name] == groups[name][:, :1]).all()
        assert (groups["category"] != groups["category"][:, :1]).any()


@pytest.mark.parametrize("histories", [False, True])
def test_validation_rows_of_a_user_follow_each_other(histories, basket):
    """With histories, which are then summed once per user."""
    table = basket.assign(rating=np.arange(len(basket)) / 7)
    config = TrainingConfig(histories=histories)
    dataset = RunData.read(config, Dataset("b", table)).dataset
    kinds = dict.fromkeys(["user", "item"], "categorical")
    rows = np.arange(len(table))
    examples = Examples(config, kinds, dataset, rows[300:], rows[:300])
    inputs, ratings, *_ = examples._validation
    places = np.rint(ratings * 7).astype(int)
    np.testing.assert_array_equal(np.sort(places), rows[:300])
    whole = examples.encoder.transform(table.iloc[places])
    for name, expected in whole.items():
        np.testing.assert_array_equal(inputs[name], expected)
    changes = np.count_nonzero(np.diff(inputs["user"]))
    assert (changes == len(np.unique(inputs["user"])) - 1) == histories


@pytest.mark.slow
def test_a_category_does_not_betray_the_negatives(basket, tmp_path):
    val = {}
    for features in (["user", "item"], ["user", "item", "category"]):
        config = TrainingConfig(**BASKET, features=features)
        run = train(config, tmp_path / str(len(features)), dataset=basket_of(basket))
        val[len(features)] = run.metrics["validation_bpr"]
    # While negatives had the positive's category, it was 0.05 with categories.
    assert val[3] > 0.8 * val[2]


def basket_of(basket):
    return basket.assign(rating=1.0)


@pytest.mark.slow
def test_recommendations_and_exports_have_the_columns_of_the_item(basket, tmp_path):
    run = train(TrainingConfig(**BASKET), tmp_path / "run", dataset=basket_of(basket))
    assert run.recommender().queries.context_columns == ["weekday"]
    top = run.recommend(["u1"], k=5)
    assert top["category"].tolist() == [f"c{int(x[1:]) % 10}" for x in top["item"]]
    scores = run.predict(top[["user", "item"]].assign(weekday=None))
    np.testing.assert_allclose(scores, top["score"], rtol=1e-4)
    assert run.summary().count("category has one value per item") == 1


@pytest.mark.slow
def test_the_command_reads_all_files(tables, tmp_path, capsys):
    files = write(tables, tmp_path)
    options = [f"--{name}={path}" for name, path in files.items()]
    command = ["train", *options, "--user", "who", "--item", "sku", "--target", "stars"]
    small = ["--dim", "2", "--max-epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*command, *small]) == 0
    shown = capsys.readouterr()
    assert "test rows of test.csv" in shown.out
    assert re.search("age +numeric", shown.err)
    words = ["evaluate", str(tmp_path / "run"), "--top", "3"]
    fresh = subprocess.run(
        [sys.executable, "-m", "fmlayers", *words], capture_output=True, text=True
    )
    assert fresh.returncode == 0, fresh.stderr
    assert "RMSE" in fresh.stdout
    assert main(["recommend", str(tmp_path / "run"), "--user", "u3"]) == 0
    (tmp_path / "rows.csv").write_text("who,sku\nu1,101\nu2,102\n")
    rows = ["--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "p.csv")]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), *rows]) == 1
    assert "lack the column 'weekday'" in capsys.readouterr().err
    (tmp_path / "rows.csv").write_text("who,sku,weekday\nu1,101,mon\nu2,102,tue\n")
    assert main(["predict", str(tmp_path / "run"), *rows]) == 0
    assert list(pd.read_csv(tmp_path / "p.csv"))[:2] == ["who", "sku"]
    assert main([*command, *small, "--test-fraction", "0.3"]) == 1
    assert "`test_fraction` must be left out with `test`" in capsys.readouterr().err
    write_csv(tables["items"].head(9), tmp_path / "items.csv")
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    assert "table of users or items" in capsys.readouterr().err


@pytest.mark.slow
def test_named_columns_of_items(basket, tmp_path, capsys):
    path = tmp_path / "basket.csv"
    write_csv(basket_of(basket), path)
    command = ["train", "--data", str(path), "--task", "implicit", "--dim", "2"]
    command += ["--max-epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*command, "--item-columns", "weekday"]) == 1
    assert "`item_columns` must have one value per item" in capsys.readouterr().err
    assert main([*command, "--item-columns", "category"]) == 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["item_columns"] == ["category"]
    assert list(pd.read_csv(tmp_path / "run" / "items.csv")) == ["item", "category"]
