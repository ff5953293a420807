"""Columns of vectors."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from fmlayers import Vector
from fmlayers.data import (
    DataError,
    Dataset,
    Encoder,
    ShardedBatches,
    ShuffledBatches,
    read_table,
    write_shards,
)
from fmlayers.data.columns import describe_columns
from fmlayers.data.sources import infer_columns

KIND = {"text": "vector"}
X = np.array([[3, 4], [0, 5], [np.nan, np.nan], [np.nan, np.nan], [-5, 0]], "float32")
CELLS = {
    "lists": [[3, 4], (0, 5.0), None, [], ["-5", 0]],
    "arrays": [*X[:2], float("nan"), np.empty(0), X[4].astype("float16")],
    "texts": ["3|4", "0|5e0", "", None, "-5|0"],
}


def series(cells):
    return pd.Series([*cells, None], dtype=object)[:-1]


@pytest.mark.parametrize("form", CELLS)
def test_cells_are_divided_by_the_norm(form, tmp_path):
    table = pd.DataFrame({"text": series(CELLS[form])})
    encoder = Encoder(KIND).fit(table)
    assert encoder.features == [Vector("text", 2)]
    assert encoder.scale("text") == (0.0, 5.0)
    assert encoder.size("text") == 2
    assert encoder.inputs == ["text"]
    encoder.save(tmp_path / "encoder.json")
    for each in (encoder, Encoder.load(tmp_path / "encoder.json")):
        found = each.transform(table)["text"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, X / 5, rtol=1e-6)
        np.testing.assert_array_equal(each.encode("text", table["text"]), found)
    parts = [table[:1], table[2:4], table[4:], table[1:2]]
    assert Encoder(KIND).fit(parts).get_config() == encoder.get_config()


def test_vectors_of_norm_1_stay():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    table = pd.DataFrame({"text": list(x.astype("float32"))})
    found = Encoder(KIND).fit(table).transform(table)["text"]
    np.testing.assert_allclose(found, x, rtol=1e-5)


def test_zeros_have_the_scale_1():
    table = pd.DataFrame({"text": [[0.0, 0.0], None]})
    assert Encoder(KIND).fit(table).scale("text") == (0.0, 1.0)


def test_a_missing_number_makes_its_vector_missing():
    table = pd.DataFrame({"text": series([[3.0, 4.0], [100.0, None], [np.nan, 7.0]])})
    encoder = Encoder(KIND).fit(table)
    assert encoder.scale("text") == (0.0, 5.0)
    found = encoder.transform(table)["text"]
    assert np.isnan(found).any(axis=1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([1, 2, 3], "must be a vector of 2 finite numbers or missing. Received: 3 num"),
        ([1], "must be a vector of 2 .* Received: 1 numbers"),
        ("1|2|3", "Received: 3 numbers"),
        ([1, np.inf], "finite numbers or missing. Received: inf"),
        ([1, 1e39], "finite numbers or missing. Received: inf"),
        (["a", 1], r"Received: \['a', 1\]"),
        ("a|1", r"Received: 'a\|1'"),
        ([[1, 2]], r"Received: \[\[1, 2\]\]"),
        (3.5, "Received: 3.5"),
        ({"a": 1}, "Received: {'a': 1}"),
        ("1_0|2", r"Received: '1_0\|2'"),
        ("nan|2", r"Received: 'nan\|2'"),
        ("1||2", "Received: '1"),
        ([1j, 2], r"Received: \[1j, 2\]"),
        ([np.timedelta64(1), 2], r"Received: \[np.timedelta64"),
        ([10**400, 2], "Received: inf"),
        ([[np.nan], 2], r"Received: \[\[nan\], 2\]"),
        ([np.array([np.nan]), 2], r"Received: \[array"),
        (np.ones((1, 2)), r"Received: array\(\[\[1., 1.\]\]\)"),
        (np.empty((0, 2)), r"Received: array\(\["),
        (np.array(np.nan), r"Received: array\(nan\)"),
        (b"12", "Received: b'12'"),
        (["x" * 99, 1], r"Received: \['x{78}\.\.\.\.$"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_a_bad_cell_names_column_and_row(cell, message, method):
    table = pd.DataFrame(
        {"text": pd.Series([[1, 2], None, cell, cell], index=[7, 8, 9, 9])}
    )
    encoder = Encoder(KIND).fit(table[:2])
    with pytest.raises(DataError, match=rf"^Column 'text', row 2: .*{message}"):
        getattr(encoder, method)(table)


def test_numbers_are_read_like_numeric_cells():
    cells = [[True, "-1.5e0"], [b"3", Decimal("0.5")], " 1 | 2\n", [np.int8(2), pd.NA]]
    encoder = Encoder(KIND).fit(pd.DataFrame({"text": [[1, 0]]}))
    found = encoder.transform(pd.DataFrame({"text": series(cells)}))["text"]
    expected = [[1, -1.5], [3, 0.5], [1, 2], [2, np.nan]]
    np.testing.assert_array_equal(found, np.array(expected, "float32"))


def test_a_cell_that_is_no_vector_does_not_fit():
    for cells, row in ((["a"], 0), ([{"a": 1}, [1, 2]], 0), ([None, 3.5], 1)):
        with pytest.raises(DataError, match=f"'text', row {row}: must be a vector of"):
            Encoder(KIND).fit(pd.DataFrame({"text": series(cells)}))


def test_a_scaled_vector_fits_into_float32():
    encoder = Encoder(KIND).fit(pd.DataFrame({"text": [[0.1, 0.0]]}))
    table = pd.DataFrame({"text": series([None, [1, 2], [0, -3e38]])})
    message = (
        "^Column 'text', row 2: must be a vector of numbers in float32's range. Re"
    )
    with pytest.raises(DataError, match=message):
        encoder.transform(table)
    huge = pd.DataFrame({"text": [[3e38] * 4, [1e-40] * 4]})
    found = Encoder(KIND).fit(huge).transform(huge)["text"]
    np.testing.assert_allclose(found[0], 0.5**0.5, rtol=1e-6)


def test_missing_vectors_in_a_part_do_not_change_the_scale():
    parts = [pd.DataFrame({"text": series(x)}) for x in ([None] * 3, [[3, 4], None])]
    assert Encoder(KIND).fit(parts).scale("text") == (0.0, 5.0)


def test_a_later_part_has_the_length_of_the_first():
    parts = [pd.DataFrame({"text": [x]}) for x in (None, [1, 2], [1, 2, 3])]
    with pytest.raises(DataError, match="Column 'text', row 0: must be a vector of 2"):
        Encoder(KIND).fit(parts)
    with pytest.raises(DataError, match="Column 'text' has no vector in the training"):
        Encoder(KIND).fit(parts[0])


def test_a_saved_encoder_without_sizes_error(tmp_path):
    config = Encoder(KIND).fit(pd.DataFrame({"text": [[1, 2]]})).get_config()
    path = tmp_path / "encoder.json"
    for sizes in ({}, {"other": 2}):
        path.write_text(json.dumps({**config, "sizes": sizes}))
        with pytest.raises(DataError, match="do not match the columns"):
            Encoder.load(path)
    for sizes in ({"text": 0}, {"text": 2.5}, {"text": True}, {"text": "2"}):
        path.write_text(json.dumps({**config, "sizes": sizes}))
        with pytest.raises(
            DataError, match="`sizes` must be a positive integer.*'text'"
        ):
            Encoder.load(path)
    path.write_text(json.dumps({**config, "sizes": ["text"]}))
    with pytest.raises(DataError, match="`sizes` must be dicts"):
        Encoder.load(path)
    with pytest.raises(ValueError, match=r"one of \['text'\]. Received: column='x'"):
        Encoder.from_config(config).size("x")


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(90, 3)).astype("float32")
    cells = [None if i % 7 == 0 else x for i, x in enumerate(vectors)]
    return pd.DataFrame(
        {"user": np.arange(90) % 9, "text": cells, "rating": np.arange(90.0)}
    )


def test_shards_keep_vectors(table, tmp_path):
    pytest.importorskip("pyarrow")
    encoder = Encoder({"user": "categorical", **KIND}).fit(table)
    write_shards([table[:40], table[40:]], tmp_path, encoder, group_size=16)
    expected = encoder.transform(table)["text"]
    data = ShardedBatches(tmp_path, 20, seed=0)
    for inputs, targets in data.stream().take(2 * len(data)).as_numpy_iterator():
        assert inputs["text"].shape == (20, 3)
        np.testing.assert_array_equal(inputs["text"], expected[targets.astype(int)])


def test_null_vectors_of_other_files_are_missing(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [[1.0, 2.0], None, [3.0, None], [5.0, 6.0]]
    text = pa.array(cells, pa.list_(pa.float32(), 2))
    columns = {"text": text, "rating": np.arange(4.0, dtype="float32")}
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    data = ShardedBatches(tmp_path, 4, seed=0)
    ((inputs, targets),) = data.stream().take(1).as_numpy_iterator()
    expected = np.array([[1, 2], [np.nan] * 2, [3, np.nan], [5, 6]], "float32")
    np.testing.assert_array_equal(inputs["text"], expected[targets.astype(int)])


def test_batches_keep_vectors(table):
    encoder = Encoder({"user": "categorical", **KIND}).fit(table)
    inputs = encoder.without_padding(encoder.transform(table))
    targets = np.arange(90.0)
    data = ShuffledBatches(inputs, targets, 16, seed=0)
    for batch, rows in data.stream().take(6).as_numpy_iterator():
        np.testing.assert_array_equal(batch["text"], inputs["text"][rows.astype(int)])


@pytest.mark.parametrize("fixed", [True, False])
def test_columns_of_a_file(fixed, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cells = [[3.0, 4.0], [0.0, 5.0], None]
    kind = pa.list_(pa.float32(), 2) if fixed else pa.list_(pa.float64())
    columns = {
        "user": ["u", "v", "w"],
        "item": ["x"] * 3,
        "rating": [1.0, 2.0, 3.0],
        "text": pa.array(cells, kind),
        "words": ["1|0", "0|1", ""],
        "ids": [[1, 2], [3, 4], [5, 6]],
        "loose": [[1.0, 2.0], [3.0], []],
    }
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    for text_columns in ((), ("text", "words")):
        dataset = Dataset(
            "rows", read_table(tmp_path / "rows.parquet", text_columns=text_columns)
        )
        kinds = infer_columns(dataset)
        assert kinds["text"] == "vector"
        assert {kinds[name] for name in ("words", "ids", "loose")} == {
            "multi_categorical"
        }
        kinds = infer_columns(dataset, ["text", "words:vector"])
        found = Encoder(kinds).fit(dataset.ratings).transform(dataset.ratings)
        np.testing.assert_allclose(found["text"][:2], [[0.6, 0.8], [0, 1]], rtol=1e-6)
        np.testing.assert_array_equal(found["words"][:2], [[1, 0], [0, 1]])
        assert np.isnan(found["text"][2]).all()
        _, *described = describe_columns(dataset, kinds)
        assert all("  vector (2 numbers)  " in line for line in described[:2])
