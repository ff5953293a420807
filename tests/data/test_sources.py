import functools

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import DataError, Dataset, sources, synthetic, write_csv
from fmlayers.data.sources import infer_columns, load

RATINGS = pd.DataFrame(
    {
        "user": ["u1", "u2", "u1"],
        "item": ["007", "8", "9"],
        "rating": [1.0, 4.5, 3.0],
        "price": [1.5, np.nan, 3.0],
        "tags": ["new|red", None, "blue"],
        "color": ["red", "blue", None],
        "fresh": [True, False, True],
    }
)


@pytest.fixture
def dataset():
    return Dataset("shop", RATINGS)


@pytest.fixture
def small_synthetic(monkeypatch):
    small = functools.partial(synthetic, num_users=20, num_items=15, num_ratings=90)
    monkeypatch.setattr(sources, "synthetic", small)
    return small()


def test_kinds_of_films(small_synthetic):
    assert infer_columns(load("synthetic")) == {
        "user": "categorical",
        "item": "categorical",
        "age": "numeric",
        "sex": "categorical",
        "occupation": "categorical",
        "year": "numeric",
        "genres": "multi_categorical",
    }


def test_kinds_of_a_table(dataset):
    kinds = infer_columns(dataset)
    assert list(kinds.items()) == [
        ("user", "categorical"),
        ("item", "categorical"),
        ("price", "numeric"),
        ("tags", "multi_categorical"),
        ("color", "categorical"),
        ("fresh", "categorical"),
    ]


def test_kinds_of_a_csv_with_lists(tmp_path):
    table = RATINGS.assign(tags=[("new", "red"), (), ("blue",)], user=[3, 4, 3])
    write_csv(table, tmp_path / "shop.csv")
    assert infer_columns(load(str(tmp_path / "shop.csv"))) == {
        "user": "categorical",
        "item": "categorical",
        "price": "numeric",
        "tags": "multi_categorical",
        "color": "categorical",
        "fresh": "categorical",
    }


def test_named_features_keep_their_order_and_kind(dataset):
    kinds = infer_columns(
        dataset, ["item", "price:categorical", "color:multi_categorical", "user"]
    )
    assert list(kinds.items()) == [
        ("item", "categorical"),
        ("price", "categorical"),
        ("color", "multi_categorical"),
        ("user", "categorical"),
    ]


def test_titles_and_zip_codes_are_features_only_where_named(small_synthetic):
    assert infer_columns(small_synthetic, ["title"]) == {"title": "categorical"}


def test_unknown_kind_error(dataset):
    match = r"`features` must be of the kinds \('categorical'.*Received: 'color:text'\."
    with pytest.raises(ValueError, match=match):
        infer_columns(dataset, ["user", "color:text"])


def test_unknown_column_error(dataset):
    match = r"Feature 'colour' is not among the columns \['user', .*\] of shop\."
    with pytest.raises(DataError, match=match):
        infer_columns(dataset, ["user", "colour:categorical"])


def test_the_rating_is_no_feature(dataset):
    with pytest.raises(ValueError, match="'rating'"):
        infer_columns(dataset, ["user", "item", "rating"])


def test_load_synthetic(small_synthetic):
    loaded = load("synthetic")
    pd.testing.assert_frame_equal(loaded.ratings, small_synthetic.ratings)
    assert loaded.users is not None
    assert loaded.items is not None


@pytest.mark.parametrize("name", ["r.csv", "r.TXT", "r.tsv", "r.csv.gz"])
def test_load_text(name, tmp_path):
    table = pd.DataFrame(
        {"who": ["007", "NA"], "what": [3, 4], "stars": [2, 5], "when": [9, 10]}
    )
    table.to_csv(tmp_path / name, sep="\t", index=False)
    loaded = load(
        str(tmp_path / name),
        user="who",
        item="what",
        rating="stars",
        timestamp="when",
        separator="\t",
    )
    assert loaded.ratings.to_dict("list") == {
        "user": ["007", "NA"],
        "item": ["3", "4"],
        "rating": [2.0, 5.0],
        "timestamp": [9, 10],
    }


@pytest.mark.parametrize("name", ["r.parquet", "r.pq"])
def test_load_parquet(name, tmp_path):
    pytest.importorskip("pyarrow")
    table = RATINGS.assign(tags=[["new", "red"], [], ["blue"]])
    table.to_parquet(tmp_path / name, engine="pyarrow")
    loaded = load(str(tmp_path / name))
    assert loaded.ratings["item"].tolist() == ["007", "8", "9"]
    assert loaded.ratings["tags"].tolist() == [("new", "red"), (), ("blue",)]
    assert infer_columns(loaded)["tags"] == "multi_categorical"


@pytest.mark.parametrize("packed", [False, True])
def test_load_movielens(packed, make_movielens, zipped):
    path = make_movielens("ml-1m")
    loaded = load(str(zipped(path) if packed else path))
    assert loaded.ratings["rating"].tolist() == [5.0, 3.0, 4.0]
    kinds = infer_columns(loaded)
    assert kinds["genres"] == "multi_categorical"
    assert kinds["occupation"] == "categorical"
    assert not {"zip_code", "title", "timestamp", "rating"} & set(kinds)


@pytest.mark.parametrize("name", ["ratings", "ratings.zip", "ml-1M"])
def test_source_that_is_not_there(name):
    with pytest.raises(DataError, match=f"Received: source='{name}', which does"):
        load(name)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        load(str(tmp_path / "none.csv"))
