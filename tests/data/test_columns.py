import pandas as pd
import pytest

from fmlayers.data import Dataset, infer_columns
from fmlayers.data.columns import describe_columns


def dataset(**columns):
    ratings = {"user": [1, 1, 2, 3], "item": ["a", "b", "a", "a"], "rating": [5.0] * 4}
    return Dataset("shop", pd.DataFrame({**ratings, **columns}))


def lines(data, features=None):
    return describe_columns(data, infer_columns(data, features))


def test_used_columns_have_kinds_and_counts():
    data = dataset(
        tags=["x|y", None, "y|z", "x"],
        price=[1.5, None, 2.0, 3.0],
        color=["red", "red", "red", None],
        words=[("p",), (), ("p", "q"), ("r",)],
    )
    assert lines(data) == [
        "columns: user categorical (3 values), item categorical (2 values), tags "
        "multi_categorical (3 values), price numeric, color categorical (1 value), "
        "words multi_categorical (3 values)"
    ]


def test_columns_left_out_are_named():
    data = dataset(timestamp=[0, 1, 2, 90_000], title=["A", "B", "A", "A"])
    assert lines(data)[1:] == [
        "left out: timestamp, title, day (no feature uses them; --features names the "
        "columns to use)"
    ]
    assert lines(dataset(price=[1.0] * 4), ["user", "item"])[1:] == [
        "left out: price (no feature uses it; --features names the columns to use)"
    ]


@pytest.mark.parametrize(
    "times",
    [
        [874965758, 876893171, 878542960, 876893119],
        ["2024-01-31 10:00", "2024-02-01", None, "2023-12-24T18:00:00Z"],
        pd.to_datetime(["2024-01-31", "2024-02-01", "2024-02-02", None]),
    ],
)
def test_a_column_of_times_that_was_not_named_is_pointed_out(times):
    data = dataset(price=[1.0] * 4, when=times)
    assert lines(data, ["user", "item"])[-1] == (
        "no timestamps: the column when looks like them; use it with --timestamp when"
    )
    named = dataset(when=times, timestamp=[0, 1, 2, 3])
    assert "no timestamps" not in "".join(lines(named, ["user", "item"]))


@pytest.mark.parametrize(
    "values",
    [
        [1990, 1991, 1992, 1993],
        ["1990", "1991", "1992", "1993"],
        ["a-b", "2024-01-01", "c", "d"],
        [None] * 4,
        [True, False, True, True],
    ],
)
def test_other_columns_are_not(values):
    assert "no timestamps" not in "".join(lines(dataset(x=values), ["user", "item"]))
