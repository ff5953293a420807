import numpy as np
import pandas as pd
import pytest

from fmlayers.data import Encoder

pytestmark = pytest.mark.usefixtures("on_tensorflow")

ODD = [
    "",
    'O\'Neil said "no"',
    "a,b;c",
    "new\nline",
    "七人の侍",
    "Жить",
    " spaces ",
    "one|two",
    "tab\tand\\n",
    "007",
]
LARGE = [2**63 - 1, -(2**63), 2**53 + 1, 2**24 + 1, 0, 7, 11, 13, 17, 19]


@pytest.fixture(scope="module")
def table():
    lists = [ODD[i:] for i in range(len(ODD))]
    return pd.DataFrame(
        {"title": ODD, "id": LARGE, "tags": lists, "year": np.linspace(1930, 1999, 10)}
    )


@pytest.fixture(scope="module")
def odd_encoder(table):
    columns = {
        "title": "categorical",
        "id": "categorical",
        "tags": "multi_categorical",
        "year": "numeric",
    }
    return Encoder(columns).fit(table)


@pytest.fixture(scope="module")
def raw(odd_encoder):
    from fmlayers.export.raw_encoder import RawEncoder

    return RawEncoder(odd_encoder)


def encoded(raw, **columns):
    import tensorflow as tf

    arrays = {
        name: tf.constant(values) if isinstance(values, list) else values
        for name, values in columns.items()
    }
    return {name: x.numpy() for name, x in raw(arrays).items()}


def test_text_is_encoded_as_by_the_encoder(raw, odd_encoder, table):
    unknown = ["nobody", "one", "O'Neil", "Жит", "\n"]
    titles = [*ODD, *unknown]
    expected = odd_encoder.encode("title", pd.Series(titles))
    assert (expected[len(ODD) :] == -1).all()
    np.testing.assert_array_equal(encoded(raw, title=titles)["title"], expected)


def test_integers_are_exact_as_text_and_as_numbers(raw, odd_encoder):
    ids = [*LARGE, 2**63 - 2, 2**53, 2**24, 1, -7]
    expected = odd_encoder.encode("id", pd.Series(ids))
    assert (expected[len(LARGE) :] == -1).all()
    np.testing.assert_array_equal(encoded(raw, id=ids)["id"], expected)
    texts = [str(i) for i in ids]
    np.testing.assert_array_equal(encoded(raw, id=texts)["id"], expected)


def test_empty_text_is_missing_unless_it_is_a_value(raw, odd_encoder):
    assert encoded(raw, id=["", "7"])["id"].tolist()[0] == 0
    (value,) = odd_encoder.encode("title", pd.Series([""]))
    assert encoded(raw, title=[""])["title"].tolist() == [value]
    assert value > 0


@pytest.mark.parametrize(
    "cells",
    [
        ["七人の侍|Жить", "", "|", "Жить", "nobody|007|"],
        ["", "|"],
        [],
    ],
)
def test_lists_as_text(cells, raw, odd_encoder):
    expected = odd_encoder.encode("tags", pd.Series(cells, dtype=object))
    import tensorflow as tf

    found = encoded(raw, tags=tf.constant(cells, tf.string, shape=(len(cells),)))
    np.testing.assert_array_equal(found["tags"], expected.reshape(found["tags"].shape))
    assert found["tags"].shape[1] >= 1


def test_lists_as_lists_have_any_value(raw, odd_encoder):
    lists = [["one|two", "new\nline"], ["nobody", ""], ["", ""]]
    expected = [
        odd_encoder.encode("tags", pd.Series([["one|two", "new\nline"]]))[0].tolist(),
        [-1, 0],
        [0, 0],
    ]
    assert encoded(raw, tags=lists)["tags"].tolist() == expected


def test_numbers_are_scaled_as_by_the_encoder(raw, odd_encoder):
    years = np.array([1930.0, np.nan, 2050.0, -1e9], "float32")
    expected = odd_encoder.encode("year", pd.Series(years))
    np.testing.assert_allclose(encoded(raw, year=years)["year"], expected, rtol=1e-6)


def test_integers_are_told_from_text():
    from fmlayers.export.raw_encoder import RawEncoder

    table = pd.DataFrame(
        {
            "whole": ["1", "-5", "9223372036854775807"],
            "padded": ["1", "2", "007"],
            "large": ["1", "2", "9223372036854775808"],
            "word": ["1", "2", "three"],
            "long": ["1", "2", "9" * 5000],
        }
    )
    raw = RawEncoder(Encoder(dict.fromkeys(table, "categorical")).fit(table))
    found = {entry.name: entry.dtype for entry in raw.entries(table, typed=True)}
    expected = dict.fromkeys(table, "string") | {"whole": "int64"}
    assert found == expected


def test_columns_without_values():
    from fmlayers.export.raw_encoder import RawEncoder

    table = pd.DataFrame({"title": [None, None], "tags": ["", ""]})
    columns = {"title": "categorical", "tags": "multi_categorical"}
    raw = RawEncoder(Encoder(columns).fit(table))
    found = encoded(raw, title=["", "x"], tags=["", "x"])
    assert found["title"].tolist() == [0, -1]
    assert found["tags"].tolist() == [[0], [-1]]


def test_raw_values_reach_the_model(machine, films, encoder, tmp_path):
    """Both signatures of a SavedModel score what the encoder makes of the cells."""
    import tensorflow as tf

    from fmlayers.export import export

    path = export(machine, tmp_path / "machine")
    loaded = tf.saved_model.load(str(path))
    table = films.table().head(40)
    table.loc[table.index[:3], "age"] = np.nan
    expected = machine.score(encoder.transform(table)).numpy()
    assert np.std(expected) > 0.1
    age = table["age"].to_numpy("float32")
    text = {
        "user": table["user"].astype(str).tolist(),
        "item": table["item"].astype(str).tolist(),
        "genres": ["|".join(cell) for cell in table["genres"]],
    }
    width = max(map(len, table["genres"]))
    typed = {
        "user": table["user"].to_numpy("int64"),
        "item": table["item"].to_numpy("int64"),
        "genres": [[*cell, *[""] * (width - len(cell))] for cell in table["genres"]],
    }
    for name, given in (("serve_raw", text), ("serve_raw_values", typed)):
        tensors = {key: tf.constant(x) for key, x in given.items()}
        found = loaded.signatures[name](age=tf.constant(age), **tensors)
        np.testing.assert_allclose(found["score"], expected, atol=1e-5)
    blank = {"user": [""], "item": ["no such"], "genres": [""], "age": [np.nan]}
    cells = pd.DataFrame({"user": [None], "item": ["no such"], "genres": [""]})
    expected = machine.score(encoder.transform(cells.assign(age=np.nan))).numpy()
    tensors = {key: tf.constant(x) for key, x in blank.items()}
    found = loaded.signatures["serve_raw"](**tensors)
    np.testing.assert_allclose(found["score"], expected, atol=1e-6)


KINDS = {
    "log": "log1p",
    "bin": "quantiles=4",
    "one": "quantiles=4",
    "hash": "hash=7",
    "tags": "multi_hash=7",
    "shares": "weighted_hash=7",
}


def test_every_kind_is_encoded_as_by_the_encoder(table):
    from fmlayers.export.raw_encoder import RawEncoder

    year = table["year"].astype("float32")
    shares = [f"{text.replace('|', '') or 'x'}:{i}" for i, text in enumerate(ODD)]
    columns = {"log": year, "bin": year, "one": 1.0, "hash": ODD, "tags": ODD}
    rows = pd.DataFrame({**columns, "shares": shares})
    encoder = Encoder(KINDS).fit(rows)
    rows.loc[3, ["log", "bin"]] = np.nan
    rows.loc[4, ["log", "bin"]] = -1e30
    cells = {name: rows[name].tolist() for name in rows}
    for name in ("log", "bin", "one"):
        cells[name] = rows[name].to_numpy("float32")
    raw = RawEncoder(encoder)
    found = encoded(raw, **cells)
    expected = encoder.transform(rows)
    assert list(found) == list(expected)
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-6, err_msg=name)
    assert {entry.dtype for entry in raw.entries(("log", "bin"))} == {"float32"}
    np.testing.assert_array_equal(expected["one"], 1)
    assert expected["hash"][0] == 0  # the empty text
