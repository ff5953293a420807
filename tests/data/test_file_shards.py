"""Shards of many files, written by one process or several."""

import multiprocessing
import os
import signal

import numpy as np
import pandas as pd
import pytest
from kill_points import kill_points

from fmlayers.data import (
    DataError,
    Encoder,
    ShardedBatches,
    TableFiles,
    write_csv,
    write_shards,
)

pytest.importorskip("duckdb")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = {
    "user": "categorical",
    "genres": "multi_categorical",
    "tags": "weighted",
    "age": "numeric",
    "vector": "vector",
}
ROWS = 20


def write_input(folder, files=3):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(files):
        start = number * ROWS
        table = pd.DataFrame(
            {
                "user": rng.integers(0, 9, ROWS).astype(str),
                "genres": rng.choice(["A|B", "B", ""], ROWS),
                "tags": rng.choice(["A:1|B:2", "B:3"], ROWS),
                "age": rng.normal(size=ROWS),
                "vector": rng.choice(["1|2", "3|4"], ROWS),
                "rating": np.arange(start, start + ROWS),
            }
        )
        write_csv(table, folder / f"{number}.csv")
    return folder


def files_of(folder):
    return TableFiles(folder / "in", part_rows=8)


def write(folder, **options):
    files = files_of(folder)
    encoder = Encoder(COLUMNS).fit(iter(files))
    return write_shards(files, folder / "out", encoder, group_size=5, **options)


def contents(folder):
    """Return the columns of the set, in the order of its files."""
    paths = sorted(folder.glob("*.parquet"))
    tables = [parquet.read_table(path).to_pandas() for path in paths]
    return pd.concat(tables, ignore_index=True)


def is_complete(folder):
    try:
        data = ShardedBatches(folder, 1, seed=0)
    except DataError:
        return False
    assert len(data) == 3 * ROWS
    return True


def test_the_rows_are_those_of_one_table(tmp_path):
    write_input(tmp_path / "in")
    (tmp_path / "in" / "1a.csv").write_text(
        (tmp_path / "in" / "1.csv").read_text()[:35]
    )
    assert (tmp_path / "in" / "1a.csv").read_text().count("\n") == 1  # no rows
    assert write(tmp_path) == 3 * ROWS
    assert is_complete(tmp_path / "out")
    table = pd.concat([*files_of(tmp_path)], ignore_index=True)
    encoder = Encoder(COLUMNS).fit(table)
    write_shards(table, tmp_path / "memory", encoder)
    expected = contents(tmp_path / "memory")
    pd.testing.assert_frame_equal(contents(tmp_path / "out"), expected)
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == ["00000.parquet", "00001.parquet", "00003.parquet", "manifest.json"]
    # Another call has nothing left to do.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert write(tmp_path) == 3 * ROWS
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


def test_processes_write_different_files(tmp_path):
    write_input(tmp_path / "in")
    assert write(tmp_path, worker=1, workers=2) == ROWS
    assert not is_complete(tmp_path / "out")
    with pytest.raises(DataError, match="another encoder, target or size of groups"):
        write_shards(
            files_of(tmp_path), tmp_path / "out", Encoder({"user": "hash=3"}).fit([])
        )
    assert write(tmp_path, worker=0, workers=2) == 2 * ROWS
    assert is_complete(tmp_path / "out")
    expected = contents(tmp_path / "out")
    (tmp_path / "one").mkdir()
    (tmp_path / "in").rename(tmp_path / "one" / "in")
    write(tmp_path / "one")
    pd.testing.assert_frame_equal(contents(tmp_path / "one" / "out"), expected)


@pytest.mark.slow
def test_a_killed_call_goes_on_with_the_file_at_which_it_stopped(tmp_path):
    write_input(tmp_path / "in")
    points, kept = 0, set()
    for point in kill_points(write, tmp_path, imports=["pyarrow.parquet", "duckdb"]):
        points += 1
        folder = tmp_path / "out"
        was_complete = is_complete(folder)
        done = [p.name for p in folder.glob("*.shard.json")]
        shards = [folder / f"{name[:5]}.parquet" for name in done]
        moments = {path: path.stat().st_mtime_ns for path in shards}
        kept.add(len(moments))
        point.run(write)
        assert is_complete(folder)
        names = sorted(path.name for path in folder.iterdir())
        assert names == [f"{n:05}.parquet" for n in range(3)] + ["manifest.json"], point
        rows = contents(folder)["rating"]
        np.testing.assert_array_equal(rows, np.arange(3 * ROWS))
        for path, moment in moments.items():
            assert was_complete or path.stat().st_mtime_ns == moment
    assert kept == {0, 1, 2, 3}
    assert points >= 20
    print(f"kills: {points}, each call completed later")


def write_share(folder, worker):
    write(folder, worker=worker, workers=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_processes_and_the_others_complete_the_set(tmp_path):
    """Two processes at a time are killed at random moments and started again."""
    write_input(tmp_path / "in", files=6)
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    kills = 0
    for attempt in range(60):
        processes = [
            context.Process(target=write_share, args=(tmp_path, worker))
            for worker in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            # The first of them end at once, on any machine.
            longest = 0.005 * (attempt + 1)
            process.join(rng.uniform(0.0, longest) if attempt < 40 else 60)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                process.join()
        if all(process.exitcode == 0 for process in processes):
            break
    assert kills
    rows = contents(tmp_path / "out")["rating"]
    np.testing.assert_array_equal(rows, np.arange(6 * ROWS))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{n:05}.parquet" for n in range(6)} | {"manifest.json"}
    assert len(ShardedBatches(tmp_path / "out", 1, seed=0)) == 6 * ROWS


def test_errors_name_the_file_and_the_line(tmp_path):
    folder = write_input(tmp_path / "in", files=2)
    encoder = Encoder(COLUMNS).fit(TableFiles(folder))
    text = (folder / "1.csv").read_text().splitlines()
    for old, new, message in (
        (text[12].rpartition(",")[2], "", "'rating' is missing"),
        (text[12].rpartition(",")[2], "x", "'rating' must be a finite number"),
    ):
        lines = [*text]
        lines[12] = lines[12].removesuffix(old) + new
        (folder / "1.csv").write_text("\n".join(lines))
        files = TableFiles(folder, part_rows=8)
        with pytest.raises(DataError, match=rf"1\.csv, line 13: column {message}"):
            write_shards(files, tmp_path / f"out{new}", encoder)
        assert not is_complete(tmp_path / f"out{new}")
    with pytest.raises(DataError, match=r"0\.csv lacks the columns \['stars'\]"):
        write_shards(TableFiles(folder), tmp_path / "z", encoder, target="stars")
    with pytest.raises(ValueError, match="`worker` and `workers` need `TableFiles`"):
        write_shards([], tmp_path / "z", encoder, workers=2)
    parquet.write_table(
        parquet.read_table(tmp_path / "out" / "00000.parquet"), tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match="already contains Parquet files"):
        write_shards(TableFiles(folder), tmp_path, encoder)


def test_a_table_in_memory_replaces_what_is_left_of_files(tmp_path):
    write_input(tmp_path / "in")
    write(tmp_path, worker=1, workers=2)
    table = pd.concat([*files_of(tmp_path)], ignore_index=True)
    write_shards(table, tmp_path / "out", Encoder(COLUMNS).fit(table))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000.parquet", "manifest.json"]
    assert is_complete(tmp_path / "out")
