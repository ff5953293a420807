"""Training, validation and test rows from files of their own."""

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import DataError, read_ratings, split_rows, write_csv
from fmlayers.data.sources import load

TRAIN = "who,age,income\na,39,<=50K\nb,50,>50K\nc,,<=50K\n"
LABELS = {"rating": "income", "is_label": True, "needs_pairs": False}


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        path = tmp_path / name
        if isinstance(text, pd.DataFrame):
            text.to_parquet(path) if name.endswith("parquet") else write_csv(text, path)
        else:
            path.write_text(text)
        return str(path)

    return write


def test_rows_of_files_follow_each_other(file):
    train = file("train.csv", TRAIN)
    test = file("test.csv", "income,who,age\n>50K,d,20\n<=50K,a,21\n")
    validation = file("valid.csv", "who,age,income\ne,7,>50K\n")
    data = read_ratings(train, test=test, validation=validation, **LABELS)
    assert data.name == "train"
    assert data.ratings["who"].tolist() == ["a", "b", "c", "e", "d", "a"]
    assert data.ratings["rating"].tolist() == [0, 1, 0, 1, 1, 0]
    assert data.ratings["age"].dtype == np.float64
    assert {part: rows.tolist() for part, rows in data.parts.items()} == {
        "validation": [3],
        "test": [4, 5],
    }
    for how in ("random", "time"):
        split = split_rows(data, how)
        assert split.test.tolist() == [4, 5]
        assert split.train.tolist() == [0, 1, 2, 3]


def test_validation_rows_are_never_test_rows(file):
    rows = pd.DataFrame({"user": range(20), "item": 1, "rating": range(20)})
    data = read_ratings(file("a.csv", rows), validation=file("b.csv", rows))
    for how, seed in (("random", 0), ("random", 1)):
        split = split_rows(data, how, 0.25, seed)
        assert len(split.test) == 5
        assert split.test.max() < 20
        assert set(split.train) | set(split.test) == set(range(40))
        assert not set(split.train) & set(split.test)


@pytest.mark.parametrize(
    ("test", "match"),
    [
        (
            "who,age,income\nd,1,<=50K.\n",
            r"test.csv, line 2: the label in column 'income' must be '<=50K' or "
            r"'>50K', as in train.csv, read '<=50K\.'\. Write the labels alike",
        ),
        ("who,age,income\nd,1,\n", "test.csv, line 2: the label .* is missing"),
        ("who,age\nd,1\n", "test.csv lacks the column 'income' of train.csv"),
        (
            "who,age,income,sex\nd,1,>50K,F\n",
            "test.csv has a column 'sex' that train.csv lacks",
        ),
        ("who,age,income\nd,1,>50K\ne,x,>50K\n", "test.csv, line 3: .*'age'.*'x'"),
        ("who,age,income\nd,1,>50K\ne,2\n", "test.csv, line 3"),
    ],
)
@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_file_that_differs_is_refused(test, match, part, file):
    with pytest.raises(DataError, match=match):
        read_ratings(
            file("train.csv", TRAIN), **{part: file("test.csv", test)}, **LABELS
        )


def test_labels_are_those_of_the_training_file(file):
    train = file("train.csv", "label,x\n-1,a\n1,b\n")
    only = file("test.csv", "label,x\n1.0,a\n1,c\n")
    data = read_ratings(train, test=only, **{**LABELS, "rating": "label"})
    assert data.ratings["rating"].tolist() == [0, 1, 1, 1]
    other = file("other.csv", "label,x\n1,a\n0,c\n")
    with pytest.raises(DataError, match="other.csv, line 3: .* must be -1 or 1, as in"):
        read_ratings(train, test=other, **{**LABELS, "rating": "label"})


def test_positive_labels_may_be_written_in_two_ways(file):
    train = file("train.csv", TRAIN)
    test = file("test.csv", "who,age,income\nd,1, >50K.\ne,2,<=50K.\n")
    labels = {**LABELS, "positive_labels": [">50K", ">50K."]}
    data = read_ratings(train, test=test, **labels)
    assert data.ratings["rating"].tolist() == [0, 1, 0, 1, 0]
    (sentence,) = data.repairs
    assert sentence.endswith("1 for income '>50K', '>50K.', 0 for '<=50K', '<=50K.'.")
    with pytest.raises(DataError, match="must be one of `positive_labels` in some"):
        read_ratings(train, **{**LABELS, "positive_labels": ["yes"]})
    frame = pd.DataFrame({"label": [1, 2, 3], "x": 1})
    options = {**LABELS, "rating": "label", "positive_labels": ["1", "3"]}
    assert read_ratings(frame, **options).ratings["rating"].tolist() == [1, 0, 1]


def test_text_in_the_training_file_is_text_in_all(file):
    train = file("train.csv", "user,item,rating,zip\n1,1,1,N7\n2,2,2,012\n")
    test = file("test.csv", "user,item,rating,zip\n1,1,1,012\n")
    zips = read_ratings(train, test=test).ratings["zip"]
    assert zips.tolist() == ["N7", "012", "012"]


def test_repeated_rows_are_merged_within_a_file(file):
    text = "user,item,rating\na,x,1\na,x,3\nb,x,2\n"
    train, test = file("train.csv", text), file("test.csv", text)
    data = read_ratings(train, test=test, on_duplicate="mean")
    assert data.ratings["rating"].tolist() == [2, 2, 2, 2]
    assert data.parts["test"].tolist() == [2, 3]
    assert [x.split(":")[0] for x in data.repairs] == ["train.csv", "test.csv"]
    once = file("once.csv", "user,item,rating\na,x,1\n")
    with pytest.raises(DataError, match="test.csv, line 3: user a .* at test.csv, lin"):
        read_ratings(once, test=test, on_duplicate="error")


def test_the_same_ids_in_files_of_other_kinds(file):
    train = file("train.csv", "user,item,rating,size\n7,1,1,2\n8,2,2,3\n")
    rows = pd.DataFrame({"user": [7], "item": [2], "rating": [2.0], "size": [4]})
    data = read_ratings(train, test=file("test.parquet", rows))
    assert data.ratings["user"].tolist() == ["7", "8", "7"]
    assert data.ratings["size"].tolist() == [2, 3, 4]


def test_tables_in_memory_are_read_like_files():
    train = pd.DataFrame(
        {"user": [1, 2], "item": ["a", "b"], "rating": [1.0, 2.0], "zip": ["01", "2"]},
        index=[10, 11],
    )
    test = train.assign(user=[2, 3]).set_axis([20, 21])
    data = read_ratings(train, test=test)
    assert data.name == "ratings"
    assert data.ratings["zip"].tolist() == ["01", "2"] * 2
    assert data.parts["test"].tolist() == [2, 3]
    assert list(train.index) == [10, 11]
    bad = test.assign(rating=[1.0, np.nan])
    with pytest.raises(DataError, match="test, row 21: the rating .* empty cell"):
        read_ratings(train, test=bad)
    with pytest.raises(DataError, match="test, row 20: the user .* is missing"):
        read_ratings(train, test=test.assign(user=[None, 1]))
    with pytest.raises(DataError, match="test has a column 'more' that ratings lacks"):
        read_ratings(train, test=test.assign(more=1))
    with pytest.raises(DataError, match="test, row 20: the column 'rating' must conta"):
        read_ratings(train, test=test.assign(rating=["x", "y"]))
    with pytest.raises(DataError, match="ratings has two columns 'user'"):
        read_ratings(pd.concat([train, train["user"]], axis=1))
    with pytest.raises(DataError, match="ratings has no rows"):
        read_ratings(train.head(0))


@pytest.mark.parametrize("name", ["test", "validation", "users", "items"])
def test_other_sources_have_no_files_of_their_own(name):
    with pytest.raises(DataError, match=f"`{name}` must be left out for the source"):
        load("synthetic", **{name: "x.csv"})
