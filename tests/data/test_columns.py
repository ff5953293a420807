import numpy as np
import pandas as pd
import pytest

from fmlayers._text_tables import width
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
    kinds = infer_columns(data, kinds=["price:quantiles=2"])
    assert describe_columns(data, kinds, chosen={"color"}) == [
        "column  kind               values  missing  example",
        "user    categorical             3      0 %  1",
        "item    categorical             2      0 %  a",
        "tags    multi_categorical       3   25.0 %  x|y",
        "price   quantiles=2             3   25.0 %  1.5",
        "color   categorical             1   25.0 %  red",
        "words   multi_categorical       3   25.0 %  p",
    ]


def test_wide_cells_are_cut_at_100_columns():
    data = dataset(
        **{"海の灯台" * 9: ["é" * 200, "七人の侍" * 90, "a\nb\x1b[1m", None]}
    )
    table = lines(data)[:4]
    assert [width(line) for line in table[1:3]] == [width(table[1]), width(table[2])]
    assert all(width(line) <= 100 for line in table)
    places = {width(line[: line.index("%")]) for line in table[1:]}
    assert len(places) == 1
    assert table[3].startswith("海の灯台海の灯台海の灯台海...")
    assert table[3].endswith("é...")


def test_control_characters_are_escaped():
    assert r"a\nb\x1b[1m" in lines(dataset(x=["a\nb\x1b[1m"] * 4))[3]


def test_very_many_columns_are_not_all_listed():
    data = dataset(**{f"f{i}": [1.0, 2.0, 3.0, i] for i in range(300)})
    assert sum(line.startswith("f") for line in lines(data)) == 98
    assert "... and 202 more columns" in lines(data)


def test_cells_of_any_type_are_described():
    cells = [{"a": 1}, [1, 2], np.array([3.0]), None]
    data = dataset(x=cells, y=[[1.0, 2.0], None, [0.5, 0.25], np.ones(2)])
    kinds = {"x": "categorical", "y": "vector", "user": "categorical"}
    table = describe_columns(data, kinds)
    assert table[1].split()[:3] == ["x", "categorical", "3"]
    assert table[2].split("  ")[-1] == "1|2"
    assert "vector (2 numbers)" in table[2]


def test_columns_left_out_are_named():
    data = dataset(timestamp=[0, 1, 2, 90_000], title=["A", "B", "A", "A"])
    assert lines(data)[3:] == [
        "left out: timestamp, title, day (no feature uses them; --features names the "
        "columns to use)"
    ]
    assert lines(dataset(price=[1.0] * 4), ["user", "item"])[3:] == [
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
