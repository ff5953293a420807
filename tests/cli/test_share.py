"""Several processes that score parts of the rows and users."""

import shutil

import numpy as np
import pandas as pd
import pytest
from kill_points import kill_points

from fmlayers import cli
from fmlayers.runs import Run, prediction, recommender
from fmlayers.runs.share import Share


def test_parts_are_whole_batches_in_order():
    for count in (0, 1, 7, 8, 9, 100):
        for workers in (1, 2, 3, 20):
            parts = [Share(i, workers).rows(count, 8) for i in range(workers)]
            rows = [row for part in parts for row in range(count)[part]]
            assert rows == list(range(count))
            assert all(part.start % 8 == 0 or part.start == count for part in parts)
            sizes = [-(-(part.stop - part.start) // 8) for part in parts]
            assert max(sizes) - min(sizes) <= 1
    names = [Share(i, 11).path("a/b.csv").name for i in range(11)]
    assert names == sorted(names)
    assert names[3] == "b-03-of-11.csv"
    assert Share().path("a/b.csv").name == "b.csv"


@pytest.mark.parametrize(
    ("worker", "workers", "message"),
    [(0, 0, "`workers` must be at least 1"), (2, 2, "`worker` must be one of 0")],
)
def test_a_share_must_be_one_of_several(worker, workers, message):
    with pytest.raises(ValueError, match=message):
        Share(worker, workers)


def run_all(command, path, workers):
    """Run each worker twice, and return their tables and their files."""
    tables, files = [], []
    for worker in range(workers):
        words = [*command, "--worker", worker, "--workers", workers]
        assert cli.main(list(map(str, words))) == 0
        file = Share(worker, workers).path(path)
        before = file.read_bytes()
        assert cli.main(list(map(str, words))) == 0
        assert file.read_bytes() == before
        files.append(file)
        tables.append(before.decode().splitlines(keepends=True))
    assert sorted(files) == files
    return tables


def check_union(path, tables):
    header, *rows = path.read_text().splitlines(keepends=True)
    assert all(table[0] == header for table in tables)
    assert [row for table in tables for row in table[1:]] == rows
    assert sum(len(table) > 1 for table in tables) > 1


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(prediction, "BATCH_SIZE", 16)
    monkeypatch.setattr(recommender, "BATCH_SIZE", 4)
    monkeypatch.setattr("fmlayers.runs.recommendation_file.BATCH_SIZE", 4)


def test_predictions_of_all_workers_are_those_of_one(
    film_run, films, tmp_path, small_batches, capsys
):
    rows = films.ratings.assign(note='a, "b"', day=films.table()["day"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command = ["predict", film_run, "--data", tmp_path / "rows.csv"]
    command += ["--out", tmp_path / "out.csv"]
    assert cli.main(list(map(str, command))) == 0
    tables = run_all(command, tmp_path / "out.csv", 3)
    check_union(tmp_path / "out.csv", tables)
    table = pd.read_csv(tmp_path / "out.csv")
    assert len(table) == len(rows)
    expected = Run(film_run).predict(rows)
    np.testing.assert_allclose(table["prediction"], expected, rtol=1e-5)


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_recommendations_of_all_workers_are_those_of_one(
    layout, film_run, data, tmp_path, small_batches, capsys
):
    path = tmp_path / "out.csv"
    command = ["recommend", film_run, "--users", "all", "--csv", path]
    command += ["--layout", layout, "--features", "age=25"]
    assert cli.main(list(map(str, command))) == 0
    check_union(path, run_all(command, path, 3))
    printed = capsys.readouterr().out
    assert (
        f"wrote the recommendations for 8 users to {Share(0, 3).path(path)}" in printed
    )


def predict_share(folder):
    command = ["predict", folder / "run", "--data", folder / "rows.csv"]
    command += ["--out", folder / "out.csv", "--worker", 1, "--workers", 2]
    assert cli.main(list(map(str, command))) == 0


@pytest.mark.slow
def test_a_killed_worker_leaves_a_whole_file_or_none(film_run, films, tmp_path):
    shutil.copytree(film_run, tmp_path / "run")
    rows = films.ratings.assign(day=films.table()["day"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    predict_share(tmp_path)
    path = tmp_path / "out-1-of-2.csv"
    expected = path.read_bytes()
    path.unlink()
    points = 0
    for point in kill_points(predict_share, tmp_path, imports=["fmlayers.runs"]):
        points += 1
        assert not path.exists() or path.read_bytes() == expected
        point.run(predict_share)
        assert path.read_bytes() == expected
        names = {x.name for x in tmp_path.iterdir()}
        assert names == {"run", "rows.csv", path.name}
    assert points >= 4
    print(f"kills: {points}")


def test_errors(film_run, capsys):
    for words, message in (
        (["predict", "--data", "x", "--worker", "0"], "must be used together"),
        (["predict", "--data", "x", "--worker", "0", "--workers", "2"], "with `--out`"),
        (["recommend", "--user", "1", "--worker", "0", "--workers", "2"], "`--users`"),
        (
            ["recommend", "--users", "all", "--csv", "x", "--worker", "2"],
            "must be used together",
        ),
        (
            ["predict", "--data", "x", "--worker", "2", "--workers", "2"],
            "`worker` must be one of 0 ... 1",
        ),
    ):
        assert cli.main([words[0], str(film_run), *words[1:]]) == 1
        assert message in capsys.readouterr().err
