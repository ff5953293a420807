import datetime
import gzip
import sys

import numpy as np
import pandas as pd
import pytest

from fmlayers.data.dataset import Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.ratings import read_ratings
from fmlayers.data.tables import read_table, write_csv

RATINGS = '''user,item,rating,timestamp,device,zip,price
007,NA,4.5,100,phone,02134,1.5
8,b,1,90,NA,10001,
"x,""y""",b,3,95,,00501,-2e3
'''


@pytest.fixture
def csv(tmp_path):
    """Write a CSV file."""

    def write(text, name="clicks.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def cells(column):
    return column.astype(object).where(column.notna(), None).tolist()


def test_columns_of_ratings(csv):
    data = read_ratings(csv(RATINGS))
    assert data.name == "clicks"
    assert data.repairs == ()
    assert data.users is None
    assert list(data.ratings) == RATINGS.splitlines()[0].split(",")
    assert cells(data.ratings["user"]) == ["007", "8", 'x,"y"']
    assert cells(data.ratings["item"]) == ["NA", "b", "b"]
    assert data.ratings["rating"].tolist() == [4.5, 1.0, 3.0]
    assert data.ratings["rating"].dtype == np.float64
    assert data.ratings["timestamp"].tolist() == [100, 90, 95]
    assert data.ratings["timestamp"].dtype == np.int64
    assert cells(data.ratings["device"]) == ["phone", "NA", None]
    # As numbers, zip codes would lose their zeros.
    assert data.ratings["zip"].tolist() == ["02134", "10001", "00501"]
    assert cells(data.ratings["price"]) == [1.5, None, -2000.0]
    assert data.side_columns == ("device", "zip", "price")
    assert data.rating_bounds == (1.0, 4.5)
    pd.testing.assert_frame_equal(data.table(), data.ratings.assign(day=0))


def test_day_counts_from_1970_unless_the_data_have_one(csv):
    text = "user,item,rating,timestamp\na,b,1,86399\na,c,2,86400\nb,c,3,-1\n"
    data = read_ratings(csv(text), timestamp="timestamp")
    assert data.table()["day"].tolist() == [0, 1, -1]
    assert "day" not in data.side_columns
    text = "user,item,rating,timestamp,day\na,b,1,86400,monday\n"
    data = read_ratings(csv(text), timestamp="timestamp")
    assert data.table()["day"].tolist() == ["monday"]


def test_columns_of_other_names(csv):
    text = "when;what;stars;who\n5;b;2.5;a\n"
    data = read_ratings(
        csv(text),
        user="who",
        item="what",
        rating="stars",
        timestamp="when",
        separator=";",
    )
    expected = pd.DataFrame(
        {"user": ["a"], "item": ["b"], "rating": [2.5], "timestamp": [5]}
    )
    pd.testing.assert_frame_equal(data.ratings, expected)


def test_clicks_are_rated_1(csv):
    data = read_ratings(csv("user\titem\na\tb\nc\td\n"), rating=None, separator="\t")
    assert data.ratings["rating"].tolist() == [1.0, 1.0]


def test_text_columns(csv):
    path = csv(RATINGS)
    table = read_table(path, text_columns=("user", "zip", "absent"))
    assert cells(table["zip"]) == ["02134", "10001", "00501"]
    assert cells(table["user"]) == ["007", "8", 'x,"y"']
    zips = read_ratings(path, text_columns=["zip"]).ratings["zip"]
    assert cells(zips) == ["02134", "10001", "00501"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1", "2"], [1, 2]),
        (["1", ""], [1.0, None]),
        (["1", "x"], ["1", "x"]),
        (["1", "nan"], [1.0, None]),
        (["1", "NA", r"\N"], [1.0, None, None]),
        (["x", "nan"], ["x", "nan"]),
        (["NA", "NULL"], ["NA", "NULL"]),
        (["1", "inf"], ["1", "inf"]),
        (["True", "False"], ["True", "False"]),
        (["", ""], [None, None]),
    ],
)
def test_a_column_is_numbers_if_every_cell_is_one(column, expected, csv):
    table = read_table(csv("a,b\n" + "".join(f"{cell},-\n" for cell in column)))
    assert cells(table["a"]) == expected
    is_number = pd.api.types.is_numeric_dtype(table["a"])
    assert is_number == (1 in expected)


def test_gzip_byte_order_mark_and_windows_line_ends(csv):
    text = b"\xef\xbb\xbf" + RATINGS.replace("\n", "\r\n").encode()
    other = read_ratings(csv(gzip.compress(text), "clicks.csv.gz"))
    assert other.name == "clicks"
    pd.testing.assert_frame_equal(other.ratings, read_ratings(csv(RATINGS)).ratings)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1425941529", 1425941529),
        ("1425941529.75", 1425941529),
        ("-1.5", -2),
        ("2015-03-09", 1425859200),
        ("2015-03-09 22:52:09.9", 1425941529),
        ("2015-03-09T23:52:09+01:00", 1425941529),
        ("1969-12-31 23:59:58.5", -2),
    ],
)
def test_times_become_seconds(written, seconds, csv):
    data = read_ratings(csv(f"user,item,rating,at\na,b,1,{written}\n"), timestamp="at")
    assert data.ratings["timestamp"].tolist() == [seconds]
    assert data.ratings["timestamp"].dtype == np.int64


REPEATED = "user,item,rating{}\na,b,1{}\na,c,2{}\na,b,3{}\nb,b,4{}\na,b,5{}\n"


def test_the_latest_of_repeated_rows_stays(csv):
    times = (",timestamp", ",7", ",1", ",9", ",1", ",8")
    data = read_ratings(csv(REPEATED.format(*times)))
    assert data.ratings["rating"].tolist() == [2.0, 3.0, 4.0]
    assert data.ratings.index.tolist() == [0, 1, 2]
    assert data.repairs == (
        "clicks.csv: dropped 2 of 5 rows, each replaced by a later row of the same "
        "user and item.",
    )


@pytest.mark.parametrize("times", [("",) * 6, (",timestamp", *(",7",) * 5)])
def test_the_last_of_repeated_rows_stays_without_times(times, csv):
    data = read_ratings(csv(REPEATED.format(*times)))
    assert data.ratings["rating"].tolist() == [2.0, 4.0, 5.0]


def test_repeated_rows_can_be_kept_or_refused(csv):
    path = csv(REPEATED.format(*[""] * 6))
    data = read_ratings(path, on_duplicate="keep")
    assert data.ratings["rating"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert data.repairs == (
        "clicks.csv: kept 2 of 5 rows that repeat a user and an item.",
    )
    match = (
        r"^clicks.csv, line 4: user a has already rated item b, at clicks.csv, line 2$"
    )
    with pytest.raises(DataError, match=match):
        read_ratings(path, on_duplicate="error")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"^clicks\.csv is empty"),
        ("\n \n", r"^clicks\.csv is empty"),
        ("user,item,rating\n", r"^clicks\.csv has a header and no rows"),
        (
            "user,item,rating\na,b,1\na,b\n",
            r"^clicks\.csv, line 3: expected 3 fields separated by ',', "
            r"read 2: 'a,b'$",
        ),
        ("user,item,rating\na,b,1,2\n", "line 2: expected 3 .* read 4: 'a,b,1,2'"),
        ("user,item,rating\na,b,1\nc,d,1,2\n", "line 3: expected 3 .* read 4"),
        (
            'user,item,rating\n"a\n\nb",c,1\n\n"d\ne",f\n',
            "line 6: expected 3 fields .* read 2",
        ),
        ('user,item,rating\na,b,1\nc,"d,1\ne,f,1\n', "line 3: a quotation mark is nev"),
        ("user,item,rating\na,b,good\n", "line 2: the rating in .*'rating'.* 'good'$"),
        ('user,item,rating\n"a\nb",b,1\n\nc,d,inf\n', "line 5: the rating .* 'inf'$"),
        ("user,item,rating\na,b,\nc,d,1\n", "line 2: the rating .* read an empty cell"),
        (
            "user,item,rating\na,b,1\n,b,1\n",
            "line 3: the user in column 'user' is miss",
        ),
        ("user,item,rating\na,,1\n", "line 2: the item in column 'item' is missing"),
        (b"user,item,rating\na,b,1\nCaf\xe9,b,1\n", "line 3: expected UTF-8, .* 0xe9"),
        (
            "user,item,stars\na,b,1\n",
            r"no column 'rating' .*'user', 'item', 'stars'\.$",
        ),
        ("user;item;rating\na;b;1\n", "no column 'user' .* Is `separator` right"),
        ("user,item,rating,user\na,b,1,a\n", "the header names 'user' twice"),
        (",user,item,rating\n0,a,b,1\n", "column 1 has no name in the header"),
        (
            "user,item,rating,timestamp\na,b,1,5\na,c,1,soon\n",
            "line 3: the time in column 'timestamp' .* read 'soon'",
        ),
        ("user,item,rating,timestamp\na,b,1,1425941529000\n", "line 2: the time"),
        ("user,item,rating,timestamp\na,b,1,2015-13-01\n", "line 2: the time"),
        ("user,item,rating,timestamp\na,b,1,5\na,c,1,\n", "line 3: .* an empty cell"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text, match, csv):
    with pytest.raises(DataError, match=match):
        read_ratings(csv(text))


def test_a_table_has_the_same_errors(csv):
    with pytest.raises(DataError, match=r"clicks\.csv, line 3: expected 2 fields"):
        read_table(csv("a,b\n1,2\n3\n"))


def test_long_lines_are_shortened_in_errors(csv):
    with pytest.raises(DataError, match=r"read 2: 'x{77}\.\.\.'$"):
        read_ratings(csv("user,item,rating\n" + "x" * 500 + ",b\n"))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        read_ratings(tmp_path / "none.csv")


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_table(tmp_path)


def test_a_truncated_gzip(csv):
    data = gzip.compress(RATINGS.encode() * 50)
    with pytest.raises(DataError, match=r"clicks\.csv\.gz is truncated or damaged"):
        read_ratings(csv(data[:-20], "clicks.csv.gz"))


def test_a_column_that_would_have_the_name_of_another(csv):
    text = "customer,user,item,rating\na,b,c,1\n"
    with pytest.raises(DataError, match="a column 'user' that is not used as `user`"):
        read_ratings(csv(text), user="customer")
    with pytest.raises(DataError, match="a column 'rating' that is not used"):
        read_ratings(csv(text), rating=None)


def test_arguments_that_make_no_sense(csv):
    path = csv(RATINGS)
    with pytest.raises(ValueError, match="`on_duplicate` must be .*'first'"):
        read_ratings(path, on_duplicate="first")
    with pytest.raises(ValueError, match="`separator` must be one character.*'::'"):
        read_ratings(path, separator="::")
    with pytest.raises(ValueError, match="must be different columns"):
        read_ratings(path, user="item")


def test_parquet(tmp_path):
    frame = pd.DataFrame(
        {
            "user": [7, 8],
            "item": pd.Categorical(["a", "b"]),
            "rating": np.array([1, 4], dtype=np.int8),
            "timestamp": pd.to_datetime(["2015-03-09 22:52:09", "1970-01-01 00:00:00"]),
            "day": [datetime.date(2015, 3, 9), datetime.date(1970, 1, 2)],
            "genres": [["x", "y"], []],
            "count": pd.array([1, None], dtype="Int64"),
        }
    )
    path = tmp_path / "clicks.parquet"
    frame.to_parquet(path)
    data = read_ratings(path)
    assert data.ratings["user"].tolist() == [7, 8]
    assert cells(data.ratings["item"]) == ["a", "b"]
    assert not isinstance(data.ratings["item"].dtype, pd.CategoricalDtype)
    assert data.ratings["rating"].tolist() == [1.0, 4.0]
    assert data.ratings["timestamp"].tolist() == [1425941529, 0]
    assert data.ratings["genres"].tolist() == [("x", "y"), ()]
    assert cells(data.ratings["count"]) == [1, None]
    counted = read_ratings(path, text_columns=["count"])
    assert cells(counted.ratings["count"]) == ["1", None]
    frame.drop(columns="timestamp").to_parquet(path)
    by_day = read_ratings(path, timestamp="day")
    assert by_day.ratings["timestamp"].tolist() == [1425859200, 86400]


def test_bad_parquet(tmp_path):
    path = tmp_path / "clicks.parquet"
    frame = pd.DataFrame({"user": ["a", None], "item": ["b", "c"], "rating": [1, 2]})
    frame.to_parquet(path)
    with pytest.raises(DataError, match=r"clicks\.parquet, row 2: the user .* missing"):
        read_ratings(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"clicks\.parquet is not a readable Parquet"):
        read_ratings(path)
    frame.iloc[:0].to_parquet(path)
    with pytest.raises(DataError, match=r"clicks\.parquet has no rows"):
        read_ratings(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "clicks.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install fmlayers\[parquet\]"):
        read_table(path)


def test_write_csv(tmp_path):
    frame = pd.DataFrame(
        {
            "user": ["007", 'a"b'],
            "score": [0.1, np.nan],
            "genres": [("Comedy", "Drama"), ()],
            "year": pd.array([1990, None], dtype="Int64"),
        },
        index=[5, 9],
    )
    path = tmp_path / "out.csv"
    path.write_text("old")
    write_csv(frame, path)
    assert path.read_bytes() == (
        b'user,score,genres,year\n007,0.1,Comedy|Drama,1990\n"a""b",,,\n'
    )
    assert frame["genres"].tolist() == [("Comedy", "Drama"), ()]
    table = read_table(path, text_columns=["user"])
    assert cells(table["genres"]) == ["Comedy|Drama", None]
    assert cells(table["score"]) == [0.1, None]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    class Unwritable:
        def __str__(self):
            raise RuntimeError("stop")

    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_csv(pd.DataFrame({"a": ["x"] * 9 + [Unwritable()]}), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_into_no_folder(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        write_csv(pd.DataFrame({"a": [1]}), tmp_path / "none" / "out.csv")


@pytest.fixture
def tables():
    return {
        "ratings": pd.DataFrame(
            {
                "user": [2, 1, 9, 2],
                "item": [5, 6, 5, 7],
                "rating": [1.0, 2.0, 3.0, 4.0],
                "device": ["a", "b", "c", "d"],
            },
            index=[3, 3, 0, 1],
        ),
        "users": pd.DataFrame({"user": [1, 2], "age": [30, 40]}),
        "items": pd.DataFrame(
            {
                "genres": pd.Series([("x", "y"), ()], dtype=object),
                "item": [5, 6],
                "year": pd.array([None, 1990], dtype="Int64"),
            }
        ),
    }


def test_table_joins_all_that_is_known(tables):
    data = Dataset("mine", **tables)
    table = data.table()
    assert list(table) == [
        *("user", "item", "rating", "device", "age", "genres", "year"),
    ]
    assert table.index.equals(pd.RangeIndex(4))
    assert table["user"].tolist() == [2, 1, 9, 2]
    assert table["device"].tolist() == ["a", "b", "c", "d"]
    assert cells(table["age"]) == [40.0, 30.0, None, 40.0]
    assert table["genres"].tolist() == [("x", "y"), (), ("x", "y"), ()]
    assert cells(table["year"]) == [None, 1990, None, None]
    assert data.side_columns == ("device", "age", "genres", "year")


def test_tables_that_do_not_fit(tables):
    with pytest.raises(
        DataError, match="`ratings` has no column 'rating'. Its columns"
    ):
        Dataset("mine", tables["ratings"].drop(columns="rating"))
    with pytest.raises(DataError, match="`users` has no column 'user'"):
        Dataset("mine", tables["ratings"], users=tables["items"])
    with pytest.raises(
        DataError, match="`users` must have one row per user.*of user 1"
    ):
        Dataset("mine", tables["ratings"], pd.DataFrame({"user": [2, 1, 1]}))
    with pytest.raises(DataError, match="Column 'device' of `users` is in another"):
        Dataset("mine", tables["ratings"], tables["users"].assign(device=1))
    text = tables["users"].astype({"user": str})
    with pytest.raises(
        DataError, match=r"`users` must have rows of the users in .*int64"
    ):
        Dataset("mine", tables["ratings"], text)


def test_fingerprint_is_of_the_contents():
    ratings = pd.DataFrame({"user": [1, 2], "item": ["a", "é"], "rating": [1.0, 2.0]})
    known = "c3290bc3ea30f9ef7e46af15ff42781b218441a72ccbade0b703cbfd1bd4ca06"
    assert Dataset("a", ratings).fingerprint() == known
    same = ratings.astype({"user": "int32", "rating": "float32", "item": "category"})
    assert Dataset("b", same.assign(more=1), repairs=("x",)).fingerprint() == known
    others = [
        ratings.iloc[::-1],
        ratings.iloc[:1],
        ratings.astype({"user": str}),
        ratings.assign(rating=[1.0, 2.5]),
        ratings.assign(item=["aé", ""]),
        ratings.assign(timestamp=[1, 2]),
    ]
    prints = {Dataset("a", other).fingerprint() for other in others}
    assert len(prints | {known}) == 1 + len(others)


def test_cells_that_a_spreadsheet_would_run_are_escaped(tmp_path):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "a=1", "", None]
    table = pd.DataFrame({"=name": texts, "n": -1.5, "many": [("=1", "b")] * 9})
    write_csv(table, tmp_path / "plain.csv")
    pd.testing.assert_series_equal(
        read_table(tmp_path / "plain.csv", text_columns=["=name"])["=name"][:7],
        table["=name"][:7],
    )
    write_csv(table, tmp_path / "escaped.csv", escape_formulas=True)
    read = read_table(tmp_path / "escaped.csv", text_columns=["'=name"])
    assert list(read) == ["'=name", "n", "many"]
    escaped = [f"'{text}" for text in texts[:6]]
    assert read["'=name"][:7].tolist() == [*escaped, "a=1"]
    assert (read["n"] == -1.5).all()
    assert (read["many"] == "'=1|b").all()
    assert table["=name"][0] == "=1+1"
