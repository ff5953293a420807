"""The options that say how a table is written, each with a table written so."""

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import DataError, TableFormat, load, read_ratings, read_table
from fmlayers.runs import TrainingConfig


def cells(column):
    return column.astype(object).where(column.notna(), None).tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.csv"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig"])
def test_encodings(encoding, path):
    path.write_bytes("user,item,rating\nJosé,Ça,4\n".encode(encoding))
    options = TableFormat(encoding=encoding)
    ratings = read_ratings(path, table_format=options).ratings
    assert ratings.iloc[0].tolist() == ["José", "Ça", 4.0]


def test_another_encoding_error(path):
    path.write_bytes("user,item,rating\nAnn,b,1\nJosé,b,4\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"shop\.csv, line 3: .*0xe9.*`encoding`"):
        read_table(path)
    with pytest.raises(DataError, match=r"line 3: expected ascii, read the byte 0xe9"):
        read_table(path, table_format=TableFormat(encoding="ascii"))
    path.write_bytes("user,item,rating\nAnn,b,1\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"line 1: a null character.*utf-16"):
        read_table(path)


def test_a_file_without_a_header(path):
    path.write_text("007;b;1\n8;c;2\n")
    options = TableFormat(separator=";", columns=["user", "item", "rating"])
    ratings = load(str(path), table_format=options).ratings
    assert ratings.to_dict("list") == {
        "user": ["007", "8"],
        "item": ["b", "c"],
        "rating": [1.0, 2.0],
    }
    with pytest.raises(DataError, match=r"line 1: expected 2 fields .* read 3"):
        read_table(path, table_format=TableFormat(separator=";", columns=["a", "b"]))
    path.write_text("007;b;1\n8;c;good\n")
    with pytest.raises(DataError, match=r"line 2: the rating .* 'good'"):
        load(str(path), table_format=options)
    path.write_text("user;item;rating\n8;c;2\n")
    with pytest.raises(DataError, match=r"line 1: the names of the columns\. Leave"):
        load(str(path), table_format=options)


MISSING = """user,item,rating,price,age,city
NA,N/A,1,NA,30,NA
None,null,2,1.5,\\N,Rome
?,-,3,?,-,?
"""


def test_missing_values_among_numbers(path):
    path.write_text(MISSING)
    data = read_ratings(path)
    assert data.ratings["user"].tolist() == ["NA", "None", "?"]
    assert data.ratings["item"].tolist() == ["N/A", "null", "-"]
    assert cells(data.ratings["price"]) == [None, 1.5, None]
    assert cells(data.ratings["age"]) == ["30", r"\N", "-"]
    assert cells(data.ratings["city"]) == ["NA", "Rome", "?"]
    assert data.repairs == ("shop.csv: read as missing the cells 2 of price.",)


def test_missing_values_by_option(path):
    path.write_text(MISSING)
    data = read_ratings(path, table_format=TableFormat(missing=["?", "-", r"\N"]))
    assert data.ratings["user"].tolist() == ["NA", "None", "?"]
    assert data.ratings["item"].tolist() == ["N/A", "null", "-"]
    assert cells(data.ratings["price"]) == ["NA", "1.5", None]
    assert cells(data.ratings["age"]) == [30, None, None]
    assert cells(data.ratings["city"]) == ["NA", "Rome", None]
    assert data.repairs == (
        "shop.csv: read as missing the cells 1 of price, 2 of age, 1 of city.",
    )
    table = read_table(
        path,
        id_columns=["user"],
        text_columns=["city"],
        table_format=TableFormat(missing=["?", "Rome"]),
    )
    assert cells(table["user"]) == ["NA", "None", "?"]
    assert cells(table["city"]) == ["NA", None, None]


def test_blanks_around_missing_values(path):
    path.write_text("user, age, work\na, ?, ?\nb, 7, Office\n")
    assert cells(read_table(path)[" age"]) == [None, 7]
    table = read_table(path, table_format=TableFormat(missing=["?"]))
    assert cells(table[" work"]) == [None, " Office"]


def test_a_missing_label_error(path):
    path.write_text("n,clicked\n1,1\n2,NA\n3,0\n")
    options = {"rating": "clicked", "is_label": True, "needs_pairs": False}
    with pytest.raises(DataError, match=r"line 3: the label in .* is missing"):
        read_ratings(path, **options)
    path.write_text("n,clicked\n1,yes\n2,-\n3,no\n")
    with pytest.raises(DataError, match="must have two values"):
        read_ratings(path, **options)
    with pytest.raises(DataError, match=r"line 3: the label in .* is missing"):
        read_ratings(path, table_format=TableFormat(missing=["-"]), **options)


def test_old_runs_have_no_missing_values_but_empty_cells():
    record = TrainingConfig().to_dict()
    assert TrainingConfig.from_dict(record).missing is None
    del record["missing"]
    assert TrainingConfig.from_dict(record).missing == ()


@pytest.mark.parametrize(
    ("written", "options", "numbers"),
    [
        (["1,200.50", "-1,000", "7"], {"thousands": ","}, [1200.5, -1000, 7]),
        (["1.200,50", "12,5", "7"], {"thousands": ".", "decimal": ","}, None),
        (["1 200,5", "12,5"], {"thousands": " ", "decimal": ","}, [1200.5, 12.5]),
        (["1,5", ""], {"decimal": ","}, [1.5, None]),
    ],
)
def test_numbers(written, options, numbers, path):
    rows = "".join(f"a;{i};{cell};{cell or 0}\n" for i, cell in enumerate(written))
    path.write_text("user;item;price;rating\n" + rows)
    options = TableFormat(separator=";", **options)
    ratings = read_ratings(path, table_format=options).ratings
    numbers = numbers or [1200.5, 12.5, 7.0]
    assert cells(ratings["price"]) == numbers
    assert ratings["rating"].tolist() == [number or 0.0 for number in numbers]


@pytest.mark.parametrize(
    "cell", ["1,20", "12,3456", "1,,200", ",200", "1,200x", "1,234,56"]
)
def test_misplaced_thousands_are_no_numbers(cell, path):
    path.write_text(f'price,n\n"1,000",1\n"{cell}",2\n')
    options = TableFormat(thousands=",")
    assert read_table(path, table_format=options)["price"].tolist() == ["1,000", cell]
    with pytest.raises(DataError, match=rf"shop\.csv, line 3: .*'price'.*'{cell}'"):
        read_table(path, numeric_columns=["price"], table_format=options)


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [("$12", "`missing`"), ("1,200.50", "`thousands`"), ("inf", ""), ("x", "")],
)
def test_a_numeric_cell_that_is_no_number_error(cell, remedy, path):
    path.write_text(f'user,item,rating,price\na,b,1,NA\n\na,c,1,"{cell}"\n')
    match = rf"shop\.csv, line 4: column 'price' must have finite numbers.*{remedy}"
    with pytest.raises(DataError, match=match):
        read_ratings(path, numeric_columns=["price"])
    assert cell in read_ratings(path).ratings["price"].tolist()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"separator": "::"}, "`separator` must be one character"),
        ({"separator": '"'}, "`separator` must be one character"),
        ({"separator": "¦"}, "`separator` must be one ASCII"),
        ({"encoding": "klingon"}, '`encoding` must be .*"utf-8".*klingon'),
        ({"encoding": "hex"}, "`encoding` must be"),
        ({"thousands": "."}, "`thousands` must be one character, and none of"),
        ({"decimal": "5"}, "`decimal` must be one character"),
        ({"columns": ["a", "a"]}, "`columns` must be names that differ"),
        ({"columns": []}, "`columns` must be names that differ"),
        ({"columns": "ab"}, "`columns` must be a list of strings"),
        ({"missing": "NA"}, "`missing` must be a list of strings"),
        ({"quoting": False}, '`quoting` must be "auto"'),
        ({"format": "xlsx"}, '`format` must be "auto"'),
        ({"list_separator": ""}, "`list_separator` must be a string"),
    ],
)
def test_options_error(options, match):
    with pytest.raises(ValueError, match=match):
        TableFormat(**options)
    settings = {{"columns": "column_names"}.get(k, k): v for k, v in options.items()}
    with pytest.raises(ValueError, match="must be"):
        TrainingConfig(**settings)


def test_the_settings_of_a_run():
    config = TrainingConfig(
        column_names=["a", "b"], missing=["?"], decimal=",", thousands="."
    )
    assert config.table_format == TableFormat(
        columns=("a", "b"), missing=("?",), decimal=",", thousands="."
    )
    assert TrainingConfig.from_dict(config.to_dict()).table_format == (
        config.table_format
    )
    np.testing.assert_equal(TrainingConfig().table_format, TableFormat())


def test_a_column_with_a_kind_is_read_as_it_says(path):
    pd.DataFrame({"user": "a", "item": ["b", "c"], "rating": 1, "zip": "x"}).assign(
        zip=["02134", "10001"]
    ).to_csv(path, index=False)
    config = TrainingConfig(data=str(path), features=["user", "zip:categorical"])
    ratings = load(config.data, **config.columns_of_a_table()).ratings
    assert ratings["zip"].tolist() == ["02134", "10001"]
