"""Parquet files of all types, and folders of them."""

import datetime
import decimal
import os
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import (
    DataError,
    Encoder,
    infer_columns,
    load,
    read_ratings,
    read_table,
)

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

BIG = 2**60 + 1  # not a float
MIDNIGHT = datetime.datetime(2020, 1, 2)
COLUMNS = {
    "integer": (pa.array([BIG, None], pa.int64()), [BIG, None]),
    "unsigned": (pa.array([2**63 + 1, None], pa.uint64()), [2**63 + 1, None]),
    "integers": (pa.array([[BIG, None], None]), [(BIG, None), None]),
    "coded": (pa.array([BIG, None]).dictionary_encode(), [BIG, None]),
    "coded text": (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    "decimal": (
        pa.array([decimal.Decimal("1.25"), None], pa.decimal128(9, 2)),
        [1.25, None],
    ),
    "whole decimal": (
        pa.array([decimal.Decimal(BIG), None], pa.decimal128(38, 0)),
        [BIG, None],
    ),
    "large decimal": (
        pa.array([decimal.Decimal(10**30 + 1), None], pa.decimal128(38, 0)),
        [1e30, None],  # exact as an id
    ),
    "decimals": (
        pa.array([[decimal.Decimal("1.5")], None], pa.list_(pa.decimal128(9, 1))),
        [(1.5,), None],
    ),
    "bytes": (pa.array(["é".encode(), None]), ["é", None]),
    "fixed bytes": (pa.array([b"ab", None], pa.binary(2)), ["ab", None]),
    "half": (pa.array([0.5, None], pa.float16()), [0.5, None]),
    "duration": (
        pa.array([datetime.timedelta(days=1, seconds=2), None]),
        [86402.0, None],
    ),
    "large text": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "flag": (pa.array([True, None]), [True, None]),
    "nothing": (pa.nulls(2), [None, None]),
    "date": (pa.array([MIDNIGHT.date(), None]), [MIDNIGHT.date(), None]),
    "map": (
        pa.array([[("a", 1.0)], None], pa.map_(pa.string(), pa.float64())),
        [(("a", 1.0),), None],
    ),
}


def cells(column):
    return [None if x is None or x is pd.NA or x != x else x for x in column]


@pytest.mark.parametrize("name", COLUMNS)
def test_types(name, tmp_path):
    array, expected = COLUMNS[name]
    parquet.write_table(pa.table({name: array}), tmp_path / "a.parquet")
    read = read_table(tmp_path / "a.parquet")[name]
    assert cells(read) == expected
    assert [type(x) for x in cells(read.astype(object))][1] is type(None)
    is_number = isinstance(expected[0], (int, float)) and expected[0] is not True
    assert pd.api.types.is_numeric_dtype(read.dtype) == is_number


def test_large_ids_stay_exact(tmp_path):
    ids = pa.array([BIG, BIG + 1, None])
    table = pa.table({"ad": ids, "price": pa.array([1.0, None, 2.0])})
    parquet.write_table(table, tmp_path / "a.parquet")
    encoder = Encoder({"ad": "categorical"}).fit(read_table(tmp_path / "a.parquet"))
    assert encoder.vocabulary("ad") == [str(BIG), str(BIG + 1)]
    text = read_table(tmp_path / "a.parquet", text_columns=["ad"])
    assert cells(text["ad"]) == [str(BIG), str(BIG + 1), None]


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (pa.array([b"\xff\xfe", None]), r"a\.parquet: column 'x' of the type binary"),
        (pa.array([None, {"a": 1}]), r"a\.parquet, row 2: column 'x' must have values"),
        (pa.array([[[1]], None]), r"a\.parquet, row 1: column 'x' must have values"),
        (pa.array([[{"a": 1}], None]), r"a\.parquet, row 1: column 'x' must have val"),
    ],
)
def test_other_types_error(array, match, tmp_path):
    parquet.write_table(pa.table({"x": array}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=match):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("cell", ["$12", float("inf"), MIDNIGHT])
def test_a_cell_that_must_be_a_number_error(cell, tmp_path):
    pd.DataFrame({"price": [cell, cell]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 1: column 'price' must have"):
        read_table(tmp_path / "a.parquet", numeric_columns=["price"])


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times(zone, unit, tmp_path):
    at = pd.Timestamp("2015-03-09 22:52:09", tz=zone)
    times = pa.array([at.to_pydatetime()], pa.timestamp(unit, tz=zone))
    columns = {"user": ["a"], "item": ["b"], "rating": [1], "timestamp": times}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    seconds = read_ratings(tmp_path / "a.parquet").ratings["timestamp"].tolist()
    assert seconds == [int(at.timestamp())]


def test_indexes_of_pandas(tmp_path):
    frame = pd.DataFrame({"n": [1, 2]})
    for index, names in (
        (pd.RangeIndex(2), ["n"]),
        (pd.RangeIndex(2, name="user"), ["user", "n"]),
        (pd.Index([5, 9]), ["n"]),
        (pd.Index([5, 9], name="user"), ["user", "n"]),
    ):
        frame.set_index(index).to_parquet(tmp_path / "a.parquet")
        assert list(read_table(tmp_path / "a.parquet")) == names


@pytest.fixture
def folder(tmp_path):
    """Return a folder of parts by day, with what Spark adds."""
    path = tmp_path / "events"
    for day, start in (("7", 0), ("8", 3), ("__HIVE_DEFAULT_PARTITION__", 6)):
        part = path / f"day={day}" / "kind=a%2Fb"
        part.mkdir(parents=True)
        users = [BIG + start, BIG + start + 1, BIG + start + 2]
        frame = pd.DataFrame({"user": users, "item": "x", "rating": [1.0, 2.0, 3.0]})
        frame.to_parquet(part / "part-0.snappy.parquet")
        (part / ".part-0.snappy.parquet.crc").write_bytes(b"crc")
    (path / "_SUCCESS").touch()
    return path


def test_a_folder_of_parts(folder):
    data = load(str(folder))
    assert data.name == "events"
    assert data.ratings["user"].tolist() == [BIG + i for i in range(9)]
    assert cells(data.ratings["day"]) == [7.0] * 3 + [8.0] * 3 + [None] * 3
    assert set(data.ratings["kind"]) == {"a/b"}
    assert infer_columns(data)["kind"] == "categorical"
    table = read_table(str(folder) + os.sep)
    assert len(table) == 9


def test_places_in_a_folder(folder):
    part = folder / "day=8" / "kind=a%2Fb" / "part-0.snappy.parquet"
    frame = pd.read_parquet(part, partitioning=None)
    frame.assign(rating=[1.0, np.nan, 3.0]).to_parquet(part)
    match = r"^events/day=8/kind=a%2Fb/part-0\.snappy\.parquet, row 2: the rating"
    with pytest.raises(DataError, match=match):
        load(str(folder))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"extra": 1}, r"must have the same columns. They differ in \['extra'\]"),
        ({"item": 5}, "column 'item' has numbers, and text in events/day=7"),
        ({"day": 5}, "has a column 'day', as its folder has"),
    ],
)
def test_parts_that_differ_error(change, match, folder):
    part = folder / "day=8" / "kind=a%2Fb" / "part-0.snappy.parquet"
    pd.read_parquet(part, partitioning=None).assign(**change).to_parquet(part)
    with pytest.raises(DataError, match=rf"events/day=8.*{match}"):
        load(str(folder))


def test_parts_with_missing_values_only(folder):
    part = folder / "day=8" / "kind=a%2Fb" / "part-0.snappy.parquet"
    frame = pd.read_parquet(part, partitioning=None)
    for other in folder.rglob("*.parquet"):
        frame.assign(ad=BIG, price=0.5, word="w").to_parquet(other)
    frame.assign(ad=None, price=np.nan, word=None).to_parquet(part)
    table = read_table(folder)
    assert cells(table["ad"]) == [BIG] * 3 + [None] * 3 + [BIG] * 3
    assert cells(table["price"]) == [0.5] * 3 + [None] * 3 + [0.5] * 3
    assert cells(table["word"]) == ["w"] * 3 + [None] * 3 + ["w"] * 3


def test_other_files_in_a_folder_error(folder, tmp_path, make_movielens):
    (folder / "notes.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"events has Parquet files and others, such "):
        load(str(folder))
    movielens = make_movielens("ml-1m")
    pd.DataFrame({"a": [1]}).to_parquet(movielens / "more.parquet")
    assert load(str(movielens)).name == "ml-1m"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no MovieLens files"):
        load(str(tmp_path / "empty"))


def test_the_damage_of_a_part_is_named(folder):
    part = max(chain(folder.rglob("*.parquet")))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"events/day=_.*is not a readable Parquet"):
        load(str(folder))
