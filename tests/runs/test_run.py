import shutil
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from fmlayers._json_files import read_json, write_json
from fmlayers.data import DataError, Encoder
from fmlayers.runs import Run, RunError, train
from fmlayers.runs.folder import begin, finish
from fmlayers.runs.prediction import predict


def rows_of(films, count=50):
    return films.ratings[["user", "item"]].iloc[:count]


def test_side_columns_come_from_the_run(films, film_run):
    inputs = film_run.encoder.transform(films.table().iloc[:50])
    expected = predict(film_run.model, inputs)
    assert expected.shape == (50,)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(film_run.predict(rows_of(films)), expected, rtol=1e-6)
    # They matter: without them the ratings are others.
    bare = rows_of(films).assign(
        age=None, sex=None, occupation=None, year=None, genres=None
    )
    assert np.abs(film_run.predict(bare) - expected).max() > 1e-3


def test_side_tables_are_the_data_s(films, film_run):
    columns = ["user", "age", "sex", "occupation"]
    users = film_run.side_table("users")[columns]
    pd.testing.assert_frame_equal(users, films.users[columns].astype({"user": "str"}))
    items = film_run.side_table("items")
    assert items["title"].tolist() == films.items["title"].tolist()
    np.testing.assert_array_equal(items["year"], films.items["year"])
    genres = ["|".join(cell) or None for cell in films.items["genres"]]
    assert (
        items["genres"].astype(object).where(items["genres"].notna(), None).tolist()
        == genres
    )


def test_no_side_tables(run):
    assert run.side_table("users") is None
    assert run.side_table("items") is None


@pytest.mark.parametrize("kind", [int, float, str])
def test_ids_may_be_numbers_or_text(kind, films, film_run):
    rows = rows_of(films).map(kind)
    np.testing.assert_array_equal(
        film_run.predict(rows), film_run.predict(rows_of(films))
    )


def test_columns_of_the_rows_take_precedence(films, film_run):
    rows = rows_of(films, 20).assign(age=71.0, sex=None)
    table = films.table().iloc[:20].assign(age=71.0, sex=None)
    inputs = film_run.encoder.transform(table)
    np.testing.assert_allclose(
        film_run.predict(rows), predict(film_run.model, inputs), rtol=1e-6
    )
    assert (film_run.predict(rows) != film_run.predict(rows_of(films, 20))).any()


def test_unknown_and_missing_users_and_items(films, film_run):
    rows = pd.DataFrame(
        {"user": ["nobody", "1", None, "nobody"], "item": [1, -5, 1, None]}
    )
    table = pd.DataFrame(
        {
            "user": ["nobody", "1", None, "nobody"],
            "item": [1, -5, 1, None],
            "age": [None, films.users["age"][0], None, None],
            "sex": [None, films.users["sex"][0], None, None],
            "occupation": [None, films.users["occupation"][0], None, None],
            "year": [films.items["year"][0], None, films.items["year"][0], None],
            "genres": [films.items["genres"][0], None, films.items["genres"][0], None],
        }
    )
    inputs = film_run.encoder.transform(table)
    np.testing.assert_array_equal(inputs["user"][[0, 2, 3]], [-1, 0, -1])
    np.testing.assert_array_equal(inputs["item"][[1, 3]], [-1, 0])
    predicted = film_run.predict(rows)
    assert (np.isfinite(predicted) & (predicted >= 1) & (predicted <= 5)).all()
    np.testing.assert_allclose(predicted, predict(film_run.model, inputs), rtol=1e-6)


def test_a_row_a_prediction_in_order(films, film_run):
    rows = rows_of(films)
    again = pd.concat([rows[::-1], rows]).set_axis([7] * 100)
    before = again.copy()
    expected = film_run.predict(rows)
    np.testing.assert_allclose(
        film_run.predict(again), np.concatenate([expected[::-1], expected]), rtol=1e-6
    )
    pd.testing.assert_frame_equal(again, before)
    assert film_run.predict(rows.iloc[:0]).shape == (0,)
    assert len(np.unique(expected)) > 20


@pytest.mark.parametrize("column", ["user", "item"])
def test_missing_column_error(column, films, run, film_run):
    for each in (run, film_run):
        with pytest.raises(DataError, match=f"The rows lack the column '{column}'"):
            each.predict(rows_of(films).drop(columns=column))


def test_text_of_a_side_table_stays_text(make_config, tmp_path, films):
    # As numbers, the zip codes 01002 and 1002 would be one.
    folder = tmp_path / "ml-100k"
    folder.mkdir()

    def write(name, lines):
        (folder / name).write_text("\n".join(lines) + "\n")

    ratings = films.ratings.astype({"rating": int})
    write(
        "u.data", ["\t".join(map(str, row)) for row in ratings.itertuples(index=False)]
    )
    users = range(1, len(films.users) + 1)
    write("u.user", [f"{user}|24|M|technician|{user % 2}1002" for user in users])
    config = make_config(
        data=str(folder),
        features=["user", "item", "zip_code"],
        validation_fraction=0.0,
        max_epochs=1,
    )
    run = train(config, tmp_path / "run")
    assert run.encoder.vocabulary("zip_code") == ["01002", "11002"]
    test = run_rows(run, ratings)
    error = run.predict(test[["user", "item"]]) - test["rating"]
    np.testing.assert_allclose(
        np.sqrt(np.mean(error**2)), run.metrics["rmse"], rtol=1e-5
    )


def run_rows(run, ratings):
    """Return the test rows of a run with a random split."""
    order = np.random.default_rng(run.metrics["config"]["seed"]).permutation(
        len(ratings)
    )
    return ratings.iloc[order[-run.metrics["rows"]["test"] :]]


def test_read_rows_names_columns_as_in_training(run, tmp_path):
    renamed = tmp_path / "renamed"
    shutil.copytree(run.path, renamed)
    metrics = read_json(renamed / "metrics.json")
    metrics["config"] |= {"user": "who", "item": "what"}
    write_json(renamed / "metrics.json", metrics)
    path = tmp_path / "rows.csv"
    path.write_text("what;stars;who\n007;3;1\n3;;NA\n")
    table = Run(renamed).read_rows(path, ";")
    assert table[["item", "user"]].to_dict("list") == {
        "item": ["007", "3"],
        "user": ["1", "NA"],
    }
    np.testing.assert_array_equal(table["stars"], [3, np.nan])
    path.write_text("what,who,user\n1,2,3\n")
    with pytest.raises(DataError, match="'user'"):
        Run(renamed).read_rows(path)


def test_read_rows_names_the_bad_line(run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("user,item\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"rows\.csv, line 3: expected 2 fields"):
        run.read_rows(path)


def test_not_a_run_error(run, tmp_path):
    with pytest.raises(RunError, match=r"nothing is not a finished run\.$"):
        Run(tmp_path / "nothing")
    shutil.copytree(run.path, tmp_path / "half")
    (tmp_path / "half" / "model.keras").unlink()
    with pytest.raises(RunError, match=r"half is not a finished run\.$"):
        Run(tmp_path / "half")
    (tmp_path / "half.partial").mkdir()
    with pytest.raises(RunError, match="It was interrupted: resume it with .*--resume"):
        Run(tmp_path / "half")


def test_damaged_metrics_error(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text('{"rmse":')
    with pytest.raises(RunError, match=r"metrics\.json is not a JSON file: "):
        Run(tmp_path / "run")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


RECORD = {"fingerprint": "f"}


@pytest.mark.parametrize("content", ["thesis.tex", "config.json", ".git"])
def test_a_folder_of_something_else_is_never_touched(content, tmp_path):
    for name in ("folder", "new.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text('{"mine": 1}')
    (tmp_path / "file").write_text("years of work")
    for name in ("folder", "file", "new"):
        for options in ((False, False), (False, True), (True, False), (True, True)):
            resume, overwrite = options
            with (
                pytest.raises(RunError, match="exists and is not a run"),
                begin(tmp_path / name, RECORD, resume=resume, overwrite=overwrite),
            ):
                pass
    assert (tmp_path / "folder" / content).is_file()
    assert (tmp_path / "file").is_file()
    assert (tmp_path / "new.partial" / content).is_file()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_finished_run_called_partial_is_not_touched(run, tmp_path):
    """It is the user's, and no interrupted run."""
    shutil.copytree(run.path, tmp_path / "mine.partial")
    before = contents(tmp_path / "mine.partial")
    record = read_json(run.path / "config.json")
    for options in ((False, False), (False, True), (True, False), (True, True)):
        resume, overwrite = options
        with (
            pytest.raises(RunError, match=r"mine\.partial holds a finished run"),
            begin(tmp_path / "mine", record, resume=resume, overwrite=overwrite),
        ):
            pass
    assert contents(tmp_path / "mine.partial") == before


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "run").mkdir()
    with begin(tmp_path / "run", RECORD, resume=False, overwrite=False) as partial:
        finish(partial, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert read_json(tmp_path / "run" / "config.json") == RECORD


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [(), (".config-x1y2z3.json",)])
def test_a_run_killed_before_its_configuration_is_begun_again(left, resume, tmp_path):
    """Version 0.1.0 made the folder first."""
    partial = tmp_path / "run.partial"
    partial.mkdir()
    for name in left:
        (partial / name).write_text("")
    with begin(tmp_path / "run", RECORD, resume=resume, overwrite=False) as folder:
        assert folder == partial
        assert set(contents(partial)) == {"config.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]


def test_an_interrupted_run_is_not_begun_anew_unasked(tmp_path):
    with begin(tmp_path / "run", RECORD, resume=False, overwrite=False) as partial:
        (partial / "progress.json").write_text("{}")
    with (
        pytest.raises(RunError, match="interrupted run. Resume it with `--resume`, or"),
        begin(tmp_path / "run", RECORD, resume=False, overwrite=False),
    ):
        pass
    with begin(tmp_path / "run", RECORD, resume=True, overwrite=False) as again:
        assert again == partial
    assert set(contents(partial)) == {"config.json", "progress.json"}
    other = {**RECORD, "a": 2}
    with begin(tmp_path / "run", other, resume=False, overwrite=True):
        assert set(contents(partial)) == {"config.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]


def test_a_finished_run_replaces_what_was_there(tmp_path):
    out = tmp_path / "run"
    for a in (1, 2):
        record = {**RECORD, "a": a}
        with begin(out, record, resume=False, overwrite=True) as partial:
            for name in ("metrics.json", "model.keras", "progress.json", f"only-{a}"):
                (partial / name).write_text(str(a))
            assert not out.exists() or contents(out)["model.keras"] == b"1"
            finish(partial, out)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert set(contents(out)) == {
        "config.json",
        "metrics.json",
        "model.keras",
        "only-2",
    }


@pytest.mark.parametrize("name", ["run.replaced", ".run-old", "run.old"])
def test_overwriting_keeps_other_folders(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work")
    for _ in range(2):
        with begin(tmp_path / "run", RECORD, resume=False, overwrite=True) as partial:
            for file in ("metrics.json", "model.keras"):
                (partial / file).write_text("{}")
            finish(partial, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {name, "run"}
    assert (tmp_path / name / "thesis.tex").read_text() == "years of work"


@pytest.mark.slow
def test_a_folder_is_written_by_one_process(tmp_path):
    with begin(tmp_path / "run", RECORD, resume=False, overwrite=False) as partial:
        for resume in (False, True):
            with (
                pytest.raises(RunError, match="Another process is writing"),
                begin(tmp_path / "run", RECORD, resume=resume, overwrite=True),
            ):
                pass
    script = f"""
from pathlib import Path
from fmlayers.runs.folder import locked
with locked(Path({str(partial)!r})):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        for resume in (False, True):
            with (
                pytest.raises(RunError, match="Another process is writing"),
                begin(tmp_path / "run", RECORD, resume=resume, overwrite=True),
            ):
                pass
        other.communicate("\n")
    with begin(tmp_path / "run", RECORD, resume=True, overwrite=False) as again:
        assert again == partial


def test_unknown_rows_are_told(run):
    table = pd.DataFrame({"user": [1, "1", 1.0, "nobody", None], "item": [1] * 5})
    np.testing.assert_array_equal(
        run.is_unknown("user", table), [False, False, False, True, True]
    )
    assert not run.is_unknown("age", table).any()


def test_a_missing_user_is_not_one_called_nan(run, monkeypatch):
    encoder = Encoder({"user": "categorical"}).fit(pd.DataFrame({"user": ["nan"]}))
    monkeypatch.setattr(Run, "encoder", encoder)
    unknown = run.is_unknown("user", pd.DataFrame({"user": ["nan", np.nan]}))
    np.testing.assert_array_equal(unknown, [False, True])


@pytest.fixture
def broken(film_run, tmp_path):
    """Return a copy of a run without digests, as version 0.1.0 wrote it, to break."""
    folder = shutil.copytree(film_run.path, tmp_path / "run")
    metrics = read_json(folder / "metrics.json")
    del metrics["files"]
    write_json(folder / "metrics.json", metrics)
    return folder


@pytest.mark.parametrize(
    "content", [b"", b"no zip", b"PK\x03\x04 cut short"], ids=["empty", "text", "cut"]
)
def test_a_corrupt_model_is_named(content, broken):
    (broken / "model.keras").write_bytes(content)
    with pytest.raises(RunError, match=r"model\.keras is not a model that loads: ."):
        _ = Run(broken).model


def test_a_model_cut_short_is_named(broken):
    path = broken / "model.keras"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError, match=r"model\.keras is not a model that loads: ."):
        _ = Run(broken).model


def test_a_foreign_model_is_refused(broken):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.save(broken / "model.keras")
    with pytest.raises(RunError, match=r"not the model of a run: it has no encoder"):
        _ = Run(broken).model


def test_a_lambda_is_refused(broken):
    """Its code would run: loading a file must not."""
    (broken / "model.keras").unlink()
    layer = keras.layers.Lambda(lambda x: x + 1.0)
    model = keras.Sequential([keras.Input((1,)), layer])
    model.save(broken / "model.keras")
    message = r"model\.keras is not a model that loads: (.|\n)*Lambda"
    with pytest.raises(RunError, match=message):
        _ = Run(broken).model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must contain a JSON object"),
        ("{", "not a JSON file"),
        ("7", "Received: 7"),
    ],
)
def test_foreign_metrics_are_refused(text, message, broken):
    (broken / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=rf"metrics\.json.*{message}"):
        Run(broken)


def test_the_configuration_is_what_was_trained(run, make_config, early):
    assert run.config == make_config(**early)


@pytest.mark.parametrize(
    "changes", [{"model": "mine"}, {"dim": 0}, {"l2_of": 3}, {"features": "user"}]
)
def test_a_configuration_that_cannot_be_used_error(changes, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    metrics = read_json(tmp_path / "run" / "metrics.json")
    metrics["config"] |= changes
    write_json(tmp_path / "run" / "metrics.json", metrics)
    (name,) = changes
    with pytest.raises(RunError, match=f"has no valid configuration.*`{name}` must"):
        Run(tmp_path / "run").config  # noqa: B018
