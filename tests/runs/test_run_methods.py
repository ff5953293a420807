"""What the commands do is a method of the run each."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error

from fmlayers.data import sources
from fmlayers.runs import Run
from fmlayers.runs.evaluation import evaluate
from fmlayers.runs.explanation import explain_fields, explain_pair
from fmlayers.runs.recommender import Recommender


@pytest.fixture(autouse=True)
def small_data(films, monkeypatch):
    """Let the run find its data again."""
    monkeypatch.setattr(sources, "synthetic", lambda: films)


def test_evaluates(film_run, films):
    expected = evaluate(film_run, films, k=5, threshold=4.0)
    assert film_run.evaluate(k=5, threshold=4.0).text() == expected.text()


def test_recommends_a_row_per_item(film_run, films):
    table = film_run.recommend([3, "7"], k=4)
    assert table["user"].tolist() == [3] * 4 + ["7"] * 4
    assert table["rank"].tolist() == [1, 2, 3, 4] * 2
    scores, positions = Recommender(film_run, films).top_n(["3", "7"], 4)
    np.testing.assert_allclose(table["score"], scores.ravel())
    items = np.asarray(film_run.encoder.vocabulary("item"))[positions.ravel()]
    assert table["item"].tolist() == items.tolist()
    rated = film_run.predict(table[["user", "item"]].astype(str))
    np.testing.assert_allclose(table["rating"], rated, rtol=1e-4)


def test_recommends_seen_items_on_request(film_run, films):
    train = films.ratings.iloc[film_run.split(films).train]
    seen = set(train.loc[train["user"] == 3, "item"].astype(str))
    assert not seen & set(film_run.recommend([3], k=40)["item"])
    assert seen <= set(film_run.recommend([3], k=40, include_seen=True)["item"])


def test_recommends_to_nobody(film_run):
    assert len(film_run.recommend([], k=3)) == 0


def test_finds_similar_items(film_run):
    recommender = Recommender(film_run)
    item = recommender.catalog.keys[5]
    table = film_run.similar(item, k=3)
    cosines, positions = recommender.similar(5, 3)
    np.testing.assert_allclose(table["cosine"], cosines[0])
    assert table["item"].tolist() == recommender.catalog.keys[positions[0]].tolist()


def test_explains(film_run):
    report = explain_pair(film_run, "3", "5").text()
    assert film_run.explain(3, 5).text() == report
    fields = explain_fields(film_run, measure="abs").text()
    assert film_run.explain_fields(measure="abs").text() == fields


def test_plots(film_run, tmp_path):
    pytest.importorskip("matplotlib")
    written, left_out = film_run.plot(tmp_path / "pictures")
    assert all(path.is_file() for path in written)
    assert len(written) + len(left_out) == 5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_exports(film_run, tmp_path):
    path = film_run.export(tmp_path / "m.tflite", "litert")
    assert path.is_file()
    card = json.loads((tmp_path / "m.tflite.json").read_text("utf-8"))
    assert card["trained"]["metrics"]["rmse"] == film_run.metrics["rmse"]


def test_errors(film_run):
    check_error("There is no user 'nobody'", lambda: film_run.recommend(["nobody"]))
    check_error("`k` must be", lambda: film_run.recommend([3], k=0))
    check_error("There is no item 'Nowhere'", lambda: film_run.similar("Nowhere"))


def test_a_run_is_opened_by_its_folder(film_run):
    again = Run(str(film_run.path))
    assert again.config == film_run.config
    table = pd.DataFrame({"user": ["3"], "item": ["5"]})
    np.testing.assert_allclose(again.predict(table), film_run.predict(table))
