"""Hints on columns that may be something else than they were taken for."""

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import Dataset, Encoder, TableFormat, infer_columns, load, read_table
from fmlayers.data.columns import describe_columns

ROWS = 1000


def dataset(rng, **columns):
    ratings = {
        "user": rng.integers(0, 90, ROWS).astype(str),
        "item": rng.integers(0, 70, ROWS).astype(str),
        "rating": rng.integers(1, 6, ROWS).astype(float),
        "timestamp": np.arange(ROWS),
    }
    return Dataset("shop", pd.DataFrame({**ratings, **columns}))


def hints(data, kinds=()):
    columns = infer_columns(data, kinds=kinds)
    chosen = {entry.split(":")[0] for entry in kinds}
    lines = describe_columns(data, columns, chosen=chosen)
    return [
        line
        for line in lines[1 + len(columns) :]
        if not line.startswith(("left out:", "no "))
    ]


def texts(values):
    return np.array([f"{value:g}" for value in values], dtype=object)


def test_ordinary_columns_have_no_hints(rng):
    data = dataset(
        rng,
        age=rng.integers(18, 90, ROWS),
        year=rng.integers(1930, 2020, ROWS),
        price=rng.normal(20, 3, ROWS),
        amount=rng.gamma(2.0, 100.0, ROWS),
        salary=rng.integers(100, 999, ROWS) * 100,
        clicks=rng.poisson(3, ROWS),
        color=rng.choice(["red", "green", "blue"], ROWS),
        brand=rng.integers(0, 300, ROWS).astype(str) + np.full(ROWS, "b", object),
        tags=rng.choice(["a|b", "a", "b", "b|c"], ROWS),
        fresh=rng.random(ROWS) < 0.5,
        label=rng.integers(0, 2, ROWS),
        gaps=np.where(rng.random(ROWS) < 0.3, np.nan, rng.normal(size=ROWS)),
    )
    assert hints(data) == []


@pytest.mark.parametrize(
    ("cells", "count", "first", "remedy"),
    [
        (["n/k"], "1", "'n/k' in row 1", '--missing "n/k" reads them'),
        (["-", "unknown"], "2", "'-' in row 1", '--missing "-" "unknown" reads them'),
        (["1,200.50"], "1", "'1,200.50'", '--thousands "," reads them'),
        (["1 200"] * 40, "40", "'1 200'", '--thousands " " reads them'),
        (["3,5"], "1", "'3,5'", "--decimal , reads them"),
        (["$12"], "1", "'$12'", "for numbers, remove the symbols from the file"),
        (
            [f"{i % 40} %" for i in range(ROWS)],
            "1,000",
            "'0 %'",
            "remove the symbols from the file",
        ),
        (
            ["?", "1,200", "$3"],
            "3",
            "'?'",
            '--thousands "," and --missing "?" reads them, and for numbers, remove',
        ),
    ],
)
def test_a_few_cells_that_are_no_numbers(cells, count, first, remedy, rng):
    price = texts(rng.integers(1, 50, ROWS))
    price[: len(cells)] = cells
    data = dataset(rng, price=price)
    (line,) = hints(data)
    assert line.startswith(f"not numbers: {count} of 1,000 cells of price, the first ")
    assert f"the first {first}" in line
    assert remedy in line
    assert hints(data, ["price:categorical"]) == []


def test_the_remedies_for_numbers_work(rng, tmp_path):
    price = texts(rng.normal(20, 3, ROWS))
    price[:2] = ["unknown", "1,200.50"]
    path = tmp_path / "shop.csv"
    dataset(rng, price=price).ratings.to_csv(path, index=False)
    (line,) = hints(load(str(path), on_duplicate="keep"))
    assert '--thousands "," and --missing "unknown" reads them' in line
    table_format = TableFormat(thousands=",", missing=["unknown"])
    data = load(str(path), on_duplicate="keep", table_format=table_format)
    assert infer_columns(data)["price"] == "numeric"
    assert data.ratings["price"].iloc[1] == 1200.5


@pytest.mark.parametrize("column", ["123 Main Street", "12a", "1.2.3", "red"])
def test_texts_with_digits_are_no_numbers(column, rng):
    cells = np.array([f"{column}{i % 9}" for i in range(ROWS)], object)
    assert hints(dataset(rng, x=cells)) == []


def test_leading_zeros_are_kept(rng, tmp_path):
    codes = np.array([f"{i:03}" for i in rng.integers(1, 200, ROWS)], object)
    codes[:3] = ["112", "012", "12"]
    path = tmp_path / "shop.csv"
    dataset(rng, zip=codes).ratings.to_csv(path, index=False)
    data = load(str(path), on_duplicate="keep")
    assert infer_columns(data)["zip"] == "categorical"
    encoder = Encoder({"zip": "categorical"}).fit(data.ratings)
    assert {"012", "12"} < set(encoder.vocabulary("zip"))
    assert hints(data) == [
        "leading zeros: zip is categorical, since '012' at shop.csv, line 3 would lose "
        "its zero as a number; for numbers, --kinds zip:numeric"
    ]
    numeric = load(str(path), on_duplicate="keep", numeric_columns=["zip"])
    assert numeric.ratings["zip"].iloc[1] == 12
    assert read_table(path)["zip"].iloc[1] == "012"
    decimals = tmp_path / "decimals.csv"
    decimals.write_text("x,y\n0.5,0\n-0.25,-0\n 0.1,00.5\n")
    kinds = read_table(decimals).dtypes
    assert kinds["x"].kind == "f"
    assert kinds["y"].kind == "O"


def test_nearly_unique_texts(rng):
    names = np.array([f"order {i // 2 * 7 % 999}x" for i in range(ROWS)], object)
    names[:300] = [f"note {i}" for i in range(300)]
    data = dataset(rng, note=names)
    (line,) = hints(data)
    assert line.startswith("nearly unique: note has ")
    assert line.endswith(
        "leave it out with --kinds note:none, or hash it with --kinds note:hash=N"
    )
    assert hints(data, ["note:hash=100"]) == []
    assert hints(data, ["note:none"]) == []
    assert "note" not in infer_columns(data, kinds=["note:none"])


def test_nearly_unique_texts_of_a_side_table(rng):
    data = dataset(rng)
    items = pd.DataFrame({"item": [str(i) for i in range(70)]})
    items["plot"] = [f"story {i}" for i in range(70)]
    items["studio"] = [f"studio {i % 9}" for i in range(70)]
    data = Dataset("shop", data.ratings, items=items)
    (line,) = hints(data)
    assert line.startswith("nearly unique: plot has 70 distinct values in 70 cells")


@pytest.mark.parametrize(
    "times",
    [
        np.arange(ROWS) * 1000 + 1_600_000_000,
        pd.date_range("2024-01-01", periods=ROWS, freq="h").strftime("%Y-%m-%d %H:%M"),
    ],
)
def test_a_second_column_of_times(times, rng):
    (line,) = hints(dataset(rng, updated=times))
    assert line.startswith("times: updated looks like timestamps and is ")
    assert "--timestamp updated" in line
    data = dataset(rng, updated=times, created=times)
    without = Dataset("shop", data.ratings.drop(columns="timestamp"))
    (line,) = hints(without)  # `updated` is in the line "no timestamps"
    assert line.startswith("times: created")


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("store", lambda rng: rng.integers(0, 12, ROWS)),
        ("age", lambda rng: rng.choice([1, 18, 25, 35, 45, 50, 56], ROWS)),
        ("zip", lambda rng: rng.integers(10_000, 99_999, 300)[np.arange(ROWS) % 300]),
        ("place", lambda rng: rng.integers(10_000, 99_999, 90)[np.arange(ROWS) % 90]),
        ("site", lambda rng: np.arange(ROWS) % 400 + 1),
        ("movie_id", lambda rng: rng.integers(0, 9999, ROWS) * 10),
        ("store", lambda rng: rng.integers(0, 12, ROWS).astype(float)),
    ],
)
def test_codes_that_are_integers(name, cells, rng):
    data = dataset(rng, **{name: cells(rng)})
    (line,) = hints(data)
    assert line.startswith(f"codes: {name} (")
    assert line.endswith(f"if it is a code, --kinds {name}:categorical")
    assert hints(data, [f"{name}:categorical"]) == []


def test_a_number_that_stands_for_a_missing_value(rng):
    numbers = rng.normal(50, 9, ROWS).round(1)
    numbers[5:9] = -999
    (line,) = hints(dataset(rng, height=numbers))[:1]
    assert line == (
        "missing: 4 of 1,000 cells of height are -999, its only negative number; if it "
        "stands for a missing value, --missing -999"
    )
    assert not hints(dataset(rng, delta=rng.integers(-3, 99, ROWS)))


def test_one_cell_with_the_separator_of_lists(rng):
    colors = rng.choice([f"color {i}" for i in range(8)], ROWS).astype(object)
    colors[6] = "AT|T"
    data = dataset(rng, brand=colors)
    assert infer_columns(data)["brand"] == "categorical"
    assert hints(data) == [
        "lists: 1 of 1,000 cells of brand contain '|', the first 'AT|T' in row 7, too "
        "few to be lists; to split them, --kinds brand:multi_categorical"
    ]
    assert hints(data, ["brand:multi_categorical"]) == []


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["a", "b", "a|b", "b|c", "c"], "multi_categorical"),
        (["x|y", "z"], "multi_categorical"),
        ([*map(str, range(100)), "7|8", "8|9"], "multi_categorical"),
        ([*map(str, range(100)), "p|q", "r|s"], "categorical"),
        ([*map(str, range(300)), "7|8", "8|9"], "categorical"),
        (["a", "b", "c", "d", "e|f"], "categorical"),
        (["a", "b", "c", "d", ("e", "f")], "multi_categorical"),
    ],
)
def test_lists_need_evidence(cells, kind):
    ratings = {"user": "u", "item": "i", "rating": 1.0}
    x = pd.Series([*cells, None], dtype=object)
    data = Dataset("shop", pd.DataFrame({"x": x}).assign(**ratings))
    assert infer_columns(data)["x"] == kind


def test_constant_columns(rng):
    data = dataset(rng, site="web", version=2.0, empty=np.nan)
    assert hints(data) == [
        "constant: site, version, empty, with one value or none; leave them out with "
        "--kinds site:none"
    ]
    assert hints(data, ["site:none", "version:none", "empty:none"]) == []


def test_long_tails(rng):
    columns = {
        "views": np.floor(rng.lognormal(3, 2, ROWS)),
        "gain": np.where(rng.random(ROWS) < 0.05, rng.integers(100, 9999, ROWS), 0),
        "loss": -rng.lognormal(3, 2, ROWS),
    }
    data = dataset(rng, **columns)
    (line,) = hints(data)
    assert line.startswith("long tail: views (0 to ")
    assert ", gain (0 to " in line
    assert line.endswith("try --kinds views:log1p or views:quantiles=20")
    kinds = ["views:log1p", "gain:quantiles=20", "loss:numeric"]
    assert hints(data, kinds) == []


def test_mostly_missing_columns(rng):
    data = dataset(rng, a=np.where(rng.random(ROWS) < 0.8, np.nan, 1 + rng.random()))
    data.ratings["b"] = np.where(np.arange(ROWS) < 900, None, "x").astype(object)
    data.ratings.loc[950:, "b"] = "y"
    data.ratings["a"] += rng.normal(size=ROWS)
    (line,) = hints(data)
    assert line.startswith("mostly missing: a (")
    assert ", b (90%), " in line


def test_many_columns_share_a_line(rng):
    data = dataset(rng, **{f"f{i}": np.ones(ROWS) for i in range(9)})
    (line,) = hints(data)
    assert "f4 and 4 more, with one value or none" in line


def test_kinds_change_only_their_columns(rng):
    data = dataset(rng, price=rng.normal(size=ROWS), color="red", title="A")
    kinds = infer_columns(data, kinds=["price:quantiles=9", "color:none"])
    assert kinds == {
        "user": "categorical",
        "item": "categorical",
        "price": "quantiles=9",
    }
    assert "title" in infer_columns(data, kinds=["title:hash=50"])
    assert infer_columns(data, ["price", "user"], kinds=["price:log1p"]) == {
        "price": "log1p",
        "user": "categorical",
    }


@pytest.mark.parametrize(
    ("features", "kinds", "message"),
    [
        (None, ["price"], "`kinds` must contain entries such as"),
        (None, ["price:lots"], r"`kinds` must be of the kinds \('categorical'"),
        (None, ["cost:numeric"], "Feature 'cost' is not among the columns"),
        (["user"], ["price:log1p"], r"`kinds` must name columns of the model.*'price'"),
        (["user"], ["user:none"], "`kinds` must not leave out all columns"),
        (["price:none"], [], "`features` must be of the kinds"),
        (None, ["rating:numeric"], "'rating'"),
    ],
)
def test_kinds_errors(features, kinds, message, rng):
    data = dataset(rng, price=rng.normal(size=ROWS))
    with pytest.raises(ValueError, match=message):
        infer_columns(data, features, kinds=kinds)


def test_a_colon_in_the_name_of_a_column(rng):
    data = dataset(rng, **{"a:b": rng.normal(size=ROWS)})
    assert infer_columns(data, ["a:b"]) == {"a:b": "numeric"}
    assert infer_columns(data, ["a:b:log1p"]) == {"a:b": "log1p"}
