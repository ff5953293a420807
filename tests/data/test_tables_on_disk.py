"""Files larger than memory: their rows, and what encoders learn from them."""

import bz2
import gzip
import itertools
import json
import lzma
import math
import subprocess
import sys
import textwrap
import threading
import time
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kill_points import kill_points

from fmlayers.data import (
    DataError,
    Encoder,
    TableFiles,
    TableFormat,
    read_table,
    write_counts,
    write_csv,
    write_shards,
)
from fmlayers.data.exact_sums import ExactSums
from fmlayers.data.kinds.stored_values import StoredValues

pytest.importorskip("duckdb")
parquet = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")

KINDS = {
    "user": "categorical",
    "genres": "multi_categorical",
    "tags": "weighted",
    "age": "numeric",
    "price": "log1p",
    "rank": "quantiles=3",
    "vector": "vector",
    "agent": "hash=5",
    "words": "multi_hash=7",
}
USER = [
    "a",
    "b",
    "é",
    "ü",
    "😀",
    "1",
    "1.0",
    "007",
    " ",
    "x,y",
    'say "x"',
    "A|B",
    "\u0301",
]
TAGS = ["a:1", "a:0.5|b:2", "b:-1|b:3", "|a:1", None]
NUMBERS = ["1", "2.50", " 3 ", "-1e-3", "1e22", "0.1", "-0", None]
# Values of each column, as texts.
CELLS = {
    "user": [*USER, None],
    "genres": ["A", "A|B", "|B||", "é|A|A", None, "|"],
    "tags": TAGS,
    "age": NUMBERS,
    "price": NUMBERS,
    "rank": NUMBERS,
    "vector": ["1|2", "0.25|-3", None],
    "agent": [*USER, None],
    "words": ["A", "A|B", "é|A|A", None],
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.sampled_from(x) for name, x in CELLS.items()}),
    min_size=1,
    max_size=40,
)


def config_of(encoder):
    """Return what was learned, with each float to its last bit."""
    return json.dumps(encoder.get_config())


def split(table, cuts):
    """Yield the parts of a table between some rows."""
    places = [0, *sorted(min(cut, len(table)) for cut in cuts), len(table)]
    for start, end in itertools.pairwise(places):
        yield table.iloc[start:end].reset_index(drop=True)


def write_files(parts, folder, suffix):
    folder.mkdir()
    for number, part in enumerate(parts):
        path = folder / f"{number}.{suffix}"
        if suffix == "csv":
            write_csv(part, path)
        else:
            parquet.write_table(pa.Table.from_pandas(part, preserve_index=False), path)
    return folder


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=ROWS,
    cuts=st.lists(st.integers(0, 40), max_size=3),
    part_rows=st.integers(1, 9),
    min_count=st.integers(1, 3),
    suffix=st.sampled_from(["csv", "parquet"]),
)
def test_files_teach_what_a_table_in_memory_does(
    rows, cuts, part_rows, min_count, suffix, tmp_path_factory
):
    table = pd.DataFrame(rows, dtype="str")
    # A column needs a vector.
    table.loc[0, "vector"] = "1|2"
    folder = tmp_path_factory.mktemp("files") / "x"
    files = TableFiles(
        write_files(split(table, cuts), folder, suffix), part_rows=part_rows
    )
    encoder = Encoder(KINDS, min_count=min_count)
    expected = Encoder(KINDS, min_count=min_count).fit(table)
    assert config_of(encoder.fit(files)) == config_of(expected)
    read = pd.concat(list(files), ignore_index=True)
    inputs, others = expected.transform(table), encoder.transform(read)
    for name, x in inputs.items():
        np.testing.assert_array_equal(others[name], x)


def six_cells(values):
    return st.lists(st.none() | values, min_size=6, max_size=6)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    columns=st.lists(
        st.one_of(
            st.lists(st.none() | st.booleans(), min_size=6, max_size=6),
            st.lists(st.none() | st.integers(-9, 2**62), min_size=6, max_size=6),
            st.lists(
                st.none() | st.floats(allow_infinity=False), min_size=6, max_size=6
            ),
            st.lists(st.none() | st.text(max_size=3), min_size=6, max_size=6),
            st.lists(st.none() | st.datetimes(), min_size=6, max_size=6),
            st.lists(st.none() | st.dates(), min_size=6, max_size=6),
            st.lists(
                st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3),
                min_size=6,
                max_size=6,
            ),
            st.lists(
                st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
                min_size=6,
                max_size=6,
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_typed_columns_of_parquet_files(columns, tmp_path_factory):
    table = pa.table({f"c{i}": pa.array(x) for i, x in enumerate(columns)})
    path = tmp_path_factory.mktemp("files") / "x.parquet"
    parquet.write_table(table, path)
    kinds = {
        name: "multi_categorical"
        if pa.types.is_list(table[name].type)
        else "categorical"
        for name in table.column_names
    }
    names = list(kinds)
    expected = Encoder(kinds).fit(
        read_table(path, text_columns=names, id_columns=names)
    )
    for part_rows in (2, 100):
        files = TableFiles([path], part_rows=part_rows)
        assert config_of(Encoder(kinds).fit(files)) == config_of(expected)
        assert config_of(Encoder(kinds).fit(iter(files))) == config_of(expected)


def refusal(read):
    """Return the message of an error, `None` without one."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.lists(
        st.sampled_from(
            ["a", "é", ",", ",", "\n", "\r\n", "\r", '"', '""', " ", "b", "\t", "1"]
        ),
        max_size=30,
    ).map("".join),
    part_rows=st.integers(1, 4),
    quoting=st.sampled_from(["auto", "always", "never"]),
)
def test_a_csv_file_has_the_cells_and_errors_of_read_table(
    text, part_rows, quoting, tmp_path_factory
):
    path = tmp_path_factory.mktemp("files") / "x.csv"
    path.write_bytes(f"p,q\n{text}".encode())
    table_format = TableFormat(quoting=quoting, format="csv")

    def in_parts():
        files = TableFiles([path], table_format=table_format, part_rows=part_rows)
        return pd.concat([*files], ignore_index=True)

    def in_memory():
        texts = ["p", "q"]
        return read_table(
            path, table_format=table_format, text_columns=texts, id_columns=texts
        )

    reason = refusal(in_memory)
    if reason is None:
        pd.testing.assert_frame_equal(in_parts(), in_memory(), check_dtype=False)
    elif reason.endswith("has a header and no rows."):
        assert "No objects to concatenate" in refusal(in_parts)
    else:
        assert refusal(in_parts).endswith(reason)


def test_files_may_be_compressed_and_in_another_encoding(tmp_path):
    text = "user,rating\né,1\nü,2\n"
    for encoding, pack in itertools.product(
        ("utf-8", "latin-1", "utf-16"),
        (bytes, gzip.compress, bz2.compress, lzma.compress),
    ):
        path = tmp_path / "x.csv"
        path.write_bytes(pack(text.encode(encoding)))
        table_format = TableFormat(encoding=encoding)
        table = next(iter(TableFiles([path], table_format=table_format)))
        assert table.to_dict("list") == {"user": ["é", "ü"], "rating": ["1", "2"]}
    path.write_bytes("user,rating\na,1\né,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.csv, line 3: expected UTF-8, read .*0xe9"):
        list(TableFiles([path]))


def test_the_order_of_files(tmp_path):
    for name in ("b.csv", "a.csv", "_c.csv", ".d.csv"):
        (tmp_path / name).write_text("user\nx\n")
    names = [path.name for path in TableFiles(tmp_path).paths]
    assert names == ["a.csv", "b.csv"]
    names = [path.name for path in TableFiles(tmp_path / "[ab].csv").paths]
    assert names == ["a.csv", "b.csv"]
    names = [p.name for p in TableFiles([tmp_path / "b.csv", tmp_path / "a.csv"]).paths]
    assert names == ["b.csv", "a.csv"]
    with pytest.raises(DataError, match="has no CSV or Parquet files"):
        TableFiles(tmp_path / "*.txt")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"notes\.md is not a table, by its name"):
        TableFiles(tmp_path)
    with pytest.raises(DataError, match=r"z\.csv: there is no such file"):
        TableFiles([tmp_path / "z.csv"])


def test_folders_name_columns(tmp_path):
    for day in ("7", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"day={day}").mkdir()
        table = pa.table({"user": ["a", "b"]})
        parquet.write_table(table, tmp_path / f"day={day}" / "x.parquet")
    files = TableFiles(tmp_path)
    encoder = Encoder({"user": "categorical", "day": "categorical"}).fit(files)
    assert encoder.vocabulary("day") == ["7"]
    encoder = Encoder({"day": "categorical"}).fit(files)
    np.testing.assert_array_equal(
        encoder.transform(pd.concat([*files]))["day"], [1, 1, 0, 0]
    )


def test_texts_for_missing_values(tmp_path):
    (tmp_path / "x.csv").write_text("user,age\na, NA\nNA,2\n")
    files = TableFiles(tmp_path, table_format=TableFormat(missing=["NA"]))
    encoder = Encoder({"user": "categorical", "age": "numeric"}).fit(files)
    assert encoder.vocabulary("user") == ["a"]
    assert encoder.scale("age") == (2.0, 1.0)


def test_errors_name_the_file_and_the_line(tmp_path):
    (tmp_path / "a.csv").write_text("user,age\na,1\n")
    (tmp_path / "b.csv").write_text('user,age\n"x\ny",1\n\nb,2\nc,old\n')
    files = TableFiles(tmp_path, part_rows=2)
    with pytest.raises(DataError, match=r"b\.csv, line 6: column 'age' must.*'old'"):
        Encoder({"age": "numeric"}).fit(files)
    with pytest.raises(DataError, match=r"a\.csv lacks the columns \['zip'\]"):
        Encoder({"zip": "categorical"}).fit(files)
    parquet.write_table(pa.table({"x": ["1", "2", "?"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet, row 3: column 'x' must be"):
        Encoder({"x": "numeric"}).fit(TableFiles(tmp_path / "c*", part_rows=2))
    (tmp_path / "d.svm").write_text("1 3:1\n")
    with pytest.raises(DataError, match=r"d\.svm has the format libsvm"):
        list(TableFiles(tmp_path / "d.svm"))
    with pytest.raises(ValueError, match="must not set `decimal`"):
        TableFiles(tmp_path, table_format=TableFormat(decimal=","))
    files = TableFiles(tmp_path / "a.csv", memory_limit="much")
    with pytest.raises(ValueError, match="`memory_limit` must be the text of a size"):
        Encoder({"user": "categorical"}).fit(files)


@pytest.mark.slow
def test_values_beyond_the_memory_limit_are_in_files(tmp_path):
    rng = np.random.default_rng(0)
    count = 2_000_000  # whose texts alone exceed the limit
    table = pd.DataFrame({"user": rng.integers(0, count, count)})
    table["user"] = "the number of this user is " + table["user"].astype(str)
    folder = write_files(split(table, [count // 2]), tmp_path / "in", "parquet")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.is_set():
            seen.update(path.name for path in temporary.rglob("duckdb_temp*"))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    files = TableFiles(folder, memory_limit="60MB", temp_folder=temporary)
    encoder = Encoder({"user": "categorical"})
    try:
        encoder.fit(files)
    finally:
        ended.set()
        watcher.join()
    assert seen
    assert not [*temporary.iterdir()]
    expected = Encoder({"user": "categorical"}).fit(table)
    assert encoder.vocabulary("user") == expected.vocabulary("user")
    files = TableFiles(folder, memory_limit="10MB", temp_folder=temporary)
    with pytest.raises(MemoryError, match="DuckDB needs a higher `memory_limit`"):
        encoder.fit(files)


COLUMNS = {"user": "categorical", "age": "numeric", "rank": "quantiles=3"}


def write_small_files(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        table = pd.DataFrame(
            {
                "user": rng.integers(0, 9, 20).astype(str),
                "age": rng.normal(size=20),
                "rank": rng.integers(0, 5, 20),
                "rating": rng.integers(1, 6, 20),
            }
        )
        write_csv(table, folder / f"{number}.csv")
    return folder


def count_values(folder):
    files = TableFiles(folder / "in", part_rows=8)
    write_counts(files, folder / "counts", Encoder(COLUMNS))


@pytest.mark.slow
def test_a_killed_count_goes_on_with_the_file_at_which_it_stopped(tmp_path):
    files = TableFiles(write_small_files(tmp_path / "in"), part_rows=8)
    expected = config_of(Encoder(COLUMNS).fit(files))
    points, kept = 0, set()
    for point in kill_points(count_values, tmp_path, imports=["duckdb", "pyarrow"]):
        points += 1
        done = {
            x: x.stat().st_mtime_ns for x in (tmp_path / "counts").glob("0*.parquet")
        }
        kept.add(len(done))
        if len(done) < 3:
            with pytest.raises(DataError, match=r"lacks the counts|has no counts"):
                Encoder(COLUMNS).fit_counts(tmp_path / "counts")
        point.run(count_values)
        assert config_of(Encoder(COLUMNS).fit_counts(tmp_path / "counts")) == expected
        for path, moment in done.items():
            assert path.stat().st_mtime_ns == moment
        # The temporary files of the killed process are removed.
        if len(done) < 3:
            assert len([*(tmp_path / "counts").iterdir()]) == 3
    assert kept == {0, 1, 2, 3}
    assert points >= 12
    print(f"kills: {points}, each call completed later")


@pytest.mark.slow
def test_processes_count_different_files(tmp_path):
    files = TableFiles(write_small_files(tmp_path / "in"))
    code = f"""
        import sys
        from fmlayers.data import Encoder, TableFiles, write_counts
        files = TableFiles({str(tmp_path / "in")!r})
        worker = int(sys.argv[1])
        encoder = Encoder({COLUMNS!r})
        folder = {str(tmp_path / "counts")!r}
        print(write_counts(files, folder, encoder, worker=worker, workers=2))
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(worker)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker in range(2)
    ]
    printed = [process.communicate()[0].split()[-1] for process in processes]
    assert printed == ["2", "1"]
    for min_count in (1, 5):
        merged = Encoder(COLUMNS, min_count=min_count).fit_counts(tmp_path / "counts")
        single = Encoder(COLUMNS, min_count=min_count).fit(files)
        table = pd.concat([*files], ignore_index=True)
        memory = Encoder(COLUMNS, min_count=min_count).fit(table)
        assert config_of(merged) == config_of(single) == config_of(memory)


def test_counts_of_other_files_are_refused(tmp_path):
    files = TableFiles(write_small_files(tmp_path / "in"))
    folder = tmp_path / "counts"
    assert write_counts(files, folder, Encoder(COLUMNS), worker=1, workers=2) == 1
    assert write_counts(files, folder, Encoder(COLUMNS), worker=1, workers=2) == 0
    with pytest.raises(DataError, match=r"lacks the counts of 2 of 3.*00000\.parquet"):
        Encoder(COLUMNS).fit_counts(folder)
    with pytest.raises(DataError, match="of other files, columns or formats"):
        write_counts(files, folder, Encoder({"user": "categorical"}))
    assert write_counts(files, folder, Encoder(COLUMNS)) == 2
    with pytest.raises(DataError, match="of other files, columns or formats"):
        Encoder({"user": "categorical"}).fit_counts(folder)
    (tmp_path / "in" / "1.csv").write_text("user,age,rank\n1,2,3\n")
    with pytest.raises(DataError, match="of other files, columns or formats"):
        write_counts(TableFiles(tmp_path / "in"), folder, Encoder(COLUMNS))
    with pytest.raises(ValueError, match=r"`worker` must be one of 0 \.\.\. 1"):
        write_counts(files, tmp_path / "x", Encoder(COLUMNS), worker=2, workers=2)


def test_vectors_of_several_lengths_are_refused(tmp_path):
    for number, text in enumerate(("1|2", "1|2|3")):
        (tmp_path / f"{number}.csv").write_text(f"x,y\n{text},1\n")
    with pytest.raises(DataError, match="vectors of one length. Received: 2 numbers"):
        Encoder({"x": "vector"}).fit(TableFiles(tmp_path))


def test_files_teach_the_order_of_a_vocabulary(tmp_path):
    texts = ["user\nb\na\n007\n", "user\nü\nb\n\n7\n", "user\né\na\n"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.csv").write_text(text)
    encoder = Encoder({"user": "categorical"}).fit(TableFiles(tmp_path))
    assert encoder.vocabulary("user") == ["a", "b", "007", "7", "é", "ü"]
    encoder = Encoder({"user": "categorical"}, min_count=2).fit(TableFiles(tmp_path))
    assert encoder.vocabulary("user") == ["a", "b"]


def test_sums_are_exact(rng):
    numbers = rng.normal(size=999) * 10.0 ** rng.integers(-300, 150, 999)
    numbers[:4] = 5e-324, -5e-324, 0.0, -0.0
    for parts in ([0, 999], [0, 3, 500, 999]):
        sums = ExactSums()
        for start, end in itertools.pairwise(parts):
            part = ExactSums()
            part.add(numbers[start:end])
            sums.merge(ExactSums.restored(part.record()))
        exact = [Fraction(x) for x in numbers.tolist()]
        assert Fraction(sums.total, 2**1126) == sum(exact)
        assert Fraction(sums.squares, 2**2252) == sum(x * x for x in exact)
        mean = sum(exact) / 999
        variance = sum((x - mean) ** 2 for x in exact) / 999
        assert sums.mean == float(mean)
        np.testing.assert_allclose(sums.deviation, math.sqrt(variance), rtol=1e-15)


def test_vocabularies_in_files_give_the_same_ids(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    kinds = {"user": "categorical", "genres": "multi_categorical", "age": "numeric"}
    table = pd.DataFrame(
        {
            "user": rng.choice([*USER, None], 300),
            "genres": rng.choice([*CELLS["genres"], "A|x"], 300),
            "age": rng.normal(size=300),
            "rating": 1,
        }
    )
    files = TableFiles(write_files(split(table, [90, 200]), tmp_path / "in", "parquet"))
    counts, stored = tmp_path / "counts", tmp_path / "stored"
    write_counts(files, counts, Encoder(kinds))
    for min_count in (1, 40):
        expected = Encoder(kinds, min_count=min_count).fit(table)
        encoder = Encoder(kinds, min_count=min_count)
        for _ in range(2):
            folder = stored / str(min_count)
            encoder.fit_counts(counts, vocabularies=folder)
            unknown = pd.Series(["?", "\ud800"], dtype=object)
            rare = table.head(2).assign(user=unknown)
            other = pd.concat([table.astype(object), rare])
            inputs = encoder.transform(other)
            for name, x in expected.transform(other).items():
                np.testing.assert_array_equal(inputs[name], x)
        assert encoder.features == expected.features
        assert config_of(encoder) == config_of(expected)
        assert encoder.vocabulary("user") == expected.vocabulary("user")
    with pytest.raises(DataError, match="is not the vocabulary of these counts"):
        Encoder(kinds, min_count=2).fit_counts(counts, vocabularies=stored / "1")
    # Shards are written without the vocabularies in memory.
    monkeypatch.delattr(StoredValues, "texts")
    write_shards(files, tmp_path / "shards", encoder)
    write_shards([*files], tmp_path / "memory", expected)
    for path in (tmp_path / "shards").glob("*.parquet"):
        one, other = (
            parquet.read_table(folder / path.name)
            for folder in (tmp_path / "shards", tmp_path / "memory")
        )
        assert one.equals(other)


@pytest.mark.slow
def test_a_large_vocabulary_in_a_file_keeps_its_order(tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, 500_000, 600_000).astype(str)})
    files = TableFiles(write_files([table], tmp_path / "in", "parquet"))
    write_counts(files, tmp_path / "counts", Encoder({"user": "categorical"}))
    encoder = Encoder({"user": "categorical"})
    encoder.fit_counts(tmp_path / "counts", vocabularies=tmp_path / "stored")
    expected = Encoder({"user": "categorical"}).fit(table)
    assert encoder.vocabulary("user") == expected.vocabulary("user")
    sample = pd.concat([table.sample(5000, random_state=0), table.assign(user="x")[:9]])
    np.testing.assert_array_equal(
        encoder.transform(sample)["user"], expected.transform(sample)["user"]
    )
