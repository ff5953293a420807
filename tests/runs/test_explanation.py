import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from run_records import record_digests

from fmlayers.data import DataError, sources
from fmlayers.explain import explain, term_sizes
from fmlayers.models import Ensemble, FactorizationMachine
from fmlayers.runs import Run, explanation, pictures, train
from fmlayers.runs.explanation import explain_fields, explain_pair
from fmlayers.runs.pictures import write_pictures

FIELDS = ("user", "item", "age", "sex", "occupation", "year", "genres")


@pytest.fixture
def data(films, monkeypatch):
    """Let `synthetic` be what the run was trained on."""
    monkeypatch.setattr(sources, "synthetic", lambda: films)
    return films


@pytest.fixture(scope="module")
def make_run(make_config, tmp_path_factory):
    """Train a run of user and item."""

    def make(**changes):
        config = make_config(
            validation_fraction=0.0,
            max_epochs=1,
            features=("user", "item"),
            **changes,
        )
        out = tmp_path_factory.mktemp("runs") / "run"
        return train(config, out)

    return make


@pytest.fixture(scope="module")
def deep_run(make_run):
    return make_run(model="deepfm")


@pytest.fixture(scope="module")
def neural_run(make_run):
    return make_run(model="neumf")


@pytest.fixture(scope="module")
def run_of_clicks(make_run):
    return make_run(loss="bpr")


def table_of(text, heading):
    """Returns the lines below a heading as a dict from first cell to the others."""
    lines = text.split("\n")
    start = next(k for k, line in enumerate(lines) if line.startswith(heading))
    rows = {}
    for line in lines[start + 1 :]:
        if not line:
            break
        name, *cells = re.split(r"\s{2,}", line)
        rows[name] = cells
    return rows


def test_a_pair_is_explained_as_it_is_rated(films, film_run):
    user, item = films.ratings[["user", "item"]].iloc[0]
    found = explain_pair(film_run, str(user), str(item))
    joined = films.table().iloc[:1]
    inputs = film_run.encoder.transform(joined)
    expected = explain(film_run.model, inputs)
    np.testing.assert_array_equal(found.parts.matrix, expected.matrix)
    np.testing.assert_allclose(found.rating, film_run.predict(joined)[0], rtol=1e-6)
    assert found.parts.fields == FIELDS
    row = joined.iloc[0]
    assert found.values == [
        *(str(user), str(item), str(row["age"]), row["sex"], row["occupation"]),
        *(str(row["year"]), ", ".join(row["genres"]) or "(missing)"),
    ]


def test_text_of_a_pair(film_run):
    found = explain_pair(film_run, "1", "2")
    text = found.text()
    matrix = found.parts.matrix[0]
    fields = table_of(text, "field")
    assert tuple(fields) == FIELDS
    for k, name in enumerate(FIELDS):
        assert fields[name][0] == found.values[k]
        np.testing.assert_allclose(float(fields[name][-1]), matrix[k, k], atol=5e-5)
    pairs = table_of(text, "pair (the 10 largest of 21)")
    assert len(pairs) == 10
    sizes = [abs(float(cells[0])) for cells in pairs.values()]
    assert sizes == sorted(sizes, reverse=True)
    upper = np.sort(np.abs(matrix[np.triu_indices(7, 1)]))[::-1]
    np.testing.assert_allclose(sizes, upper[:10], atol=5e-5)
    name, (cell,) = next(iter(pairs.items()))
    f, g = (FIELDS.index(field) for field in name.split(" * "))
    np.testing.assert_allclose(float(cell), matrix[f, g], atol=5e-5)
    sums = {
        name: float(x)
        for name, x in re.findall(r"^([a-z ]+?)\s+([+-]?\d\.\d{4})$", text, re.M)
    }
    parts = [sums[name] for name in ("bias", "fields", "pairs")]
    np.testing.assert_allclose(sum(parts), sums["raw score"], atol=2e-4)
    np.testing.assert_allclose(sums["rating"], found.rating, atol=5e-5)
    assert "rest" not in text


def test_the_deep_part_is_told(deep_run):
    found = explain_pair(deep_run, "1", "2")
    rest = float(re.search(r"rest \(deep part\)\s+([+-]\d\.\d+)", found.text())[1])
    np.testing.assert_allclose(rest, found.parts.rest[0], atol=5e-5)
    assert rest != 0.0
    fields = explain_fields(deep_run)
    told = float(re.search(r"rest \(deep part\)\s+(\d\.\d+)", fields.text())[1])
    np.testing.assert_allclose(told, fields.sizes.rest, atol=5e-5)


def test_unknown_and_missing_values_are_told(film_run):
    found = explain_pair(film_run, "nobody", "nothing")
    values = ["nobody (unknown)", "nothing (unknown)", *["(missing)"] * 5]
    assert found.values == values
    # The unknown row has learned nothing, the missing have no term.
    np.testing.assert_array_equal(found.parts.matrix, 0.0)
    np.testing.assert_allclose(found.parts.score, found.parts.bias)


def test_sizes_are_those_of_the_test_rows(data, film_run):
    rows = film_run.split(data).test
    inputs = film_run.encoder.transform(data.table().iloc[rows])
    for measure in ("std", "abs"):
        found = explain_fields(film_run, measure=measure).sizes
        expected = term_sizes(film_run.model, inputs, measure=measure)
        np.testing.assert_allclose(found.matrix, expected.matrix, rtol=1e-6)
        assert (found.rows, found.fields) == (len(rows), FIELDS)


def test_text_of_the_fields(data, film_run):
    found = explain_fields(film_run)
    text = found.text()
    first = "standard deviation of each term of the raw score, over 240 test rows\n"
    assert text.startswith(first)
    lines = text.split("\n")
    assert tuple(lines[2].split()) == FIELDS
    for k, name in enumerate(FIELDS):
        cells = lines[3 + k].split()
        assert cells[0] == name
        numbers = np.array(cells[1:], float)
        np.testing.assert_allclose(numbers, found.sizes.matrix[k, k:], atol=5e-5)
        assert len({len(line) for line in lines[2:10]}) == 1  # in columns
    terms = table_of(text, "term (the 10 largest of 28)")
    largest = max(found.sizes.matrix[k, k] for k in range(7))
    assert len(terms) == 10
    assert float(next(iter(terms.values()))[0]) >= largest - 5e-5
    assert f"raw score  {found.sizes.score:.4f}\n" in text
    absolute = explain_fields(film_run, measure="abs").text()
    assert absolute.startswith("mean absolute value of each term of the raw score")
    assert "raw score  " not in absolute


def test_reports_are_drawn(data, film_run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        explanation.plots, "field_heat_map", lambda *args, **options: calls.append(args)
    )
    pair = explain_pair(film_run, "1", "2")
    fields = explain_fields(film_run)
    pair.plot(tmp_path / "pair.png")
    fields.plot(tmp_path / "fields.png")
    np.testing.assert_array_equal(calls[0][0], pair.parts.matrix[0])
    np.testing.assert_array_equal(calls[1][0], fields.sizes.matrix)
    assert calls[0][1:] == (FIELDS, tmp_path / "pair.png")
    assert calls[1][1:] == (FIELDS, tmp_path / "fields.png")


def test_pictures_of_a_run(data, film_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    written, left_out = write_pictures(film_run, tmp_path / "new" / "folder")
    names = ["learning_curves", "predicted_against_true", "field_heat_map", "item_map"]
    assert [path.name for path in written] == [f"{name}.png" for name in names]
    for path in written:
        assert path.parent == tmp_path / "new" / "folder"
        assert path.read_bytes().startswith(b"\x89PNG")
    (reason,) = left_out
    assert reason.startswith("model_diagram.png is left out: `model_diagram` needs pyd")


def test_pictures_show_the_test_rows(data, film_run, tmp_path, monkeypatch):
    calls = {}
    for name in pictures.plots.__all__:
        monkeypatch.setattr(
            pictures.plots,
            name,
            lambda *args, name=name, **_: calls.update({name: args}),
        )
    # An item that no training row has.
    shutil.copytree(film_run.path, tmp_path / "run")
    with (tmp_path / "run" / "items.csv").open("a") as file:
        file.write("999,The Unseen (1999),1999,Western\n")
    record_digests(tmp_path / "run")
    written, left_out = write_pictures(Run(tmp_path / "run"), tmp_path)
    assert [path.stem for path in written] == [*calls]
    assert left_out == []
    assert {name: args[-1] for name, args in calls.items()} == {
        path.stem: path for path in written
    }
    table = data.table().iloc[film_run.split(data).test]
    ratings, predictions, _ = calls["predicted_against_true"]
    np.testing.assert_array_equal(ratings, table["rating"])
    np.testing.assert_allclose(predictions, film_run.predict(table), rtol=1e-6)
    history, _ = calls["learning_curves"]
    pd.testing.assert_frame_equal(history, pd.read_csv(film_run.path / "history.csv"))

    vectors, genres, _ = calls["item_map"]
    items = data.items
    assert set(film_run.encoder.vocabulary("item")) == set(items["item"].astype(str))
    assert len(vectors) == len(genres) == len(items)
    assert genres == [cell[0] if cell else None for cell in items["genres"]]
    # What the users' side is multiplied with.
    inputs = film_run.encoder.transform(
        items.assign(user=None, age=None, sex=None, occupation=None)
    )
    names = ["item", "year", "genres"]
    _, expected = film_run.model.decompose({n: inputs[n] for n in names}, names)
    np.testing.assert_allclose(vectors, np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_items_of_an_ensemble_are_those_of_its_members(data, film_run):
    encoder = film_run.encoder
    run = Run(film_run.path)
    run.model = Ensemble.of(
        2, lambda: FactorizationMachine(encoder.features, 3), encoder=encoder
    )
    vectors, _ = pictures._items_of(run, run.side_table("items"))
    names = ["item", "year", "genres"]
    inputs = {name: encoder.encode(name, data.items[name]) for name in names}
    _, expected = run.model.decompose(inputs, names)
    np.testing.assert_allclose(vectors, np.asarray(expected), rtol=1e-5, atol=1e-7)
    assert vectors.shape == (40, 6)


@pytest.mark.slow
def test_what_a_run_cannot_have_is_told(neural_run, tmp_path):
    written, left_out = write_pictures(neural_run, tmp_path)
    assert [path.stem for path in written][:2] == [
        "learning_curves",
        "predicted_against_true",
    ]
    assert left_out[0].startswith("field_heat_map.png is left out: `model` must be")
    assert left_out[1] == (
        "item_map.png is left out: The items of the run must have genres."
    )
    assert not (tmp_path / "item_map.png").exists()


def test_clicks_have_no_ratings(run_of_clicks, tmp_path):
    found = explain_pair(run_of_clicks, "1", "2")
    assert found.rating is None
    assert "raw score" in found.text()
    assert "rating" not in found.text()
    written, left_out = write_pictures(run_of_clicks, tmp_path)
    assert [path.stem for path in written[:2]] == ["learning_curves", "field_heat_map"]
    assert not any("predicted" in sentence for sentence in left_out)


def test_pictures_need_matplotlib(data, film_run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install fmlayers\[plot\]"):
        write_pictures(film_run, tmp_path)


def test_other_data_are_refused(film_run, tmp_path):
    for refused in (
        lambda: explain_fields(film_run),  # `synthetic` is another here
        lambda: write_pictures(film_run, tmp_path / "new"),
    ):
        with pytest.raises(DataError, match="no longer holds the ratings"):
            refused()
    assert not [*tmp_path.iterdir()]


def test_data_may_have_moved(deep_run, tmp_path):
    moved = tmp_path / "moved.csv"
    original = deep_run.metrics["config"]["data"]
    shutil.copy(original, moved)
    np.testing.assert_array_equal(
        explain_fields(deep_run, str(moved)).sizes.matrix,
        explain_fields(deep_run).sizes.matrix,
    )
