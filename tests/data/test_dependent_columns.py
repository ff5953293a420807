"""Columns of the ratings that describe their item or user move to its table."""

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import DataError, Dataset, infer_columns
from fmlayers.data.dependent_columns import with_dependent_columns


def baskets(rows=600, users=40, items=30, seed=0):
    rng = np.random.default_rng(seed)
    item, user = rng.integers(items, size=rows), rng.integers(users, size=rows)
    return pd.DataFrame(
        {
            "user": [f"u{x}" for x in user],
            "item": [f"i{x}" for x in item],
            "rating": 1.0,
            "category": np.array(list("abcd"))[item % 4],
            "price": np.where(item % 5, item * 1.5, np.nan),
            "tags": [("x", "y")[: i % 3] for i in item],
            "city": np.array(["Oslo", "Rome", None])[user % 3],
            "weekday": rng.choice(["mon", "tue", "wed"], rows),
            "shop": "main",
        }
    )


def test_columns_move_to_the_table_of_what_they_describe():
    data = Dataset("shop", baskets())
    moved = with_dependent_columns(data)
    assert list(moved.items) == ["item", "category", "price", "tags"]
    assert list(moved.users) == ["user", "city"]
    assert list(moved.ratings) == ["user", "item", "rating", "weekday", "shop"]
    assert moved.repairs == (
        "shop: category, price, tags have one value per item and describe the item.",
        "shop: city has one value per user and describes the user.",
    )
    before, after = data.table(), moved.table()
    pd.testing.assert_frame_equal(after[list(before)], before, check_dtype=False)
    assert infer_columns(moved).items() == infer_columns(data).items()
    assert moved.fingerprint() == data.fingerprint()
    again = with_dependent_columns(moved)
    assert again is moved


def test_a_coincidence_is_no_evidence():
    rng = np.random.default_rng(1)
    few = baskets(40, items=58, seed=2)  # hardly an item has two rows
    assert with_dependent_columns(Dataset("shop", few)).items is None
    one = baskets(400, items=4)  # four items are too few to tell
    assert with_dependent_columns(Dataset("shop", one)).items is None
    rare = baskets(400).drop(columns=["category", "price", "tags", "city"])
    rare["promo"] = (np.arange(400) == 7).astype(int)
    rare["flag"] = rng.permutation(rare["promo"])
    assert with_dependent_columns(Dataset("shop", rare)).items is None


def test_an_exception_is_named():
    table = baskets(20_000, items=300)
    table["brand"] = "b" + table["item"].str[1:]
    table.loc[17_000, "brand"] = "other"
    moved = with_dependent_columns(Dataset("shop", table))
    assert "brand" in moved.ratings
    item = table["item"][17_000]
    first = table["brand"][table["item"] == item].iloc[0]
    assert moved.repairs[-1] == (
        "shop: brand has one value per item, except for 1 of 300 items with several "
        f"rows, and stays with the rows: item {item} has brand '{first}' and 'other'."
    )
    table.loc[table["item"] < "i2", "brand"] = table["weekday"]
    assert "brand" not in str(with_dependent_columns(Dataset("shop", table)).repairs)


def test_named_columns_override_what_is_recognized():
    data = Dataset("shop", baskets())
    moved = with_dependent_columns(data, item_columns=["price"], user_columns=())
    assert list(moved.items) == ["item", "price"]
    assert moved.users is None
    none = with_dependent_columns(data, item_columns=(), user_columns=())
    assert none is data
    constant = with_dependent_columns(data, user_columns=["shop"])
    assert list(constant.users) == ["user", "shop"]
    assert "category" in constant.items
    few = Dataset("shop", baskets(40, items=58, seed=2))
    assert list(with_dependent_columns(few, item_columns=["price"]).items) == [
        "item",
        "price",
    ]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"item_columns": ["weekday"]},
            r"`item_columns` must have one value per item. Received: item i\d+ has "
            "weekday 'mon' and '",
        ),
        ({"user_columns": ["price"]}, "`user_columns` must have one value per user"),
        ({"item_columns": ["colour"]}, "must be columns of the ratings.*'colour'; the"),
        ({"item_columns": ["rating"]}, "must be columns of the ratings.*'rating'; the"),
        (
            {"item_columns": ["shop"], "user_columns": ["shop"]},
            "must have no column in common. Received: 'shop' in both",
        ),
    ],
)
def test_a_named_column_must_be_a_function(options, match):
    with pytest.raises(DataError, match=match):
        with_dependent_columns(Dataset("shop", baskets()), **options)


def test_a_missing_value_is_a_value():
    table = baskets()
    row = table.index[(table["item"] == table["item"][0]) & (table.index > 0)][0]
    table.loc[row, "category"] = None
    with pytest.raises(DataError, match="has category 'b' and no value|has category"):
        with_dependent_columns(Dataset("shop", table), item_columns=["category"])
    assert "category" in with_dependent_columns(Dataset("shop", table)).ratings


def test_columns_join_a_table_that_is_there():
    items = pd.DataFrame({"item": ["i1", "i0", "unsold"], "size": [1, 2, 3]})
    moved = with_dependent_columns(Dataset("shop", baskets(), items=items))
    assert moved.items["item"].head(3).tolist() == ["i1", "i0", "unsold"]
    assert len(moved.items) == 31
    by_item = moved.items.set_index("item")
    assert by_item.loc["i1", "size"] == 1
    assert by_item.loc["i1", "category"] == "b"
    assert pd.isna(by_item.loc["unsold", "category"])


def test_without_users_and_items_nothing_moves():
    table = baskets().drop(columns="user")
    data = Dataset("labels", table)
    assert with_dependent_columns(data) is data
    with pytest.raises(DataError, match="since labels has no users and items"):
        with_dependent_columns(data, item_columns=["category"])
