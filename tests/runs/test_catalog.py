import numpy as np
import pandas as pd
import pytest
from checks import check_error

from fmlayers.runs.catalog import Catalog

ITEMS = pd.DataFrame(
    {
        "item": [1, 2, 3, 4, 5, 6, 7, 8],
        "title": [
            "Toy Story (1995)",
            "Toy Story 2 (1999)",
            "Matrix, The (1999)",
            "Amber Harbor (1950)",
            "Amber Harbor (1994)",
            "7 (1995)",
            "Quiet Kiln, A",
            None,
        ],
        "year": pd.array([1995, 1999, 1999, 1950, 1994, 1995, None, 1980], "Int64"),
        "genres": ["Comedy|War", "Comedy", "War", "", None, "Comedy", "War", "Drama"],
    }
)
KEYS = ["3", "1", "6", "5", "4", "2", "8", "99"]


@pytest.fixture
def catalog():
    return Catalog(KEYS, ITEMS)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("3", "3"),
        ("99", "99"),
        ("Toy Story (1995)", "1"),
        ("Toy Story", "1"),  # whole, though another begins so
        ("tOY sTORY", "1"),
        ("Toy Story 2", "2"),
        ("toy story (1999)", None),
        ("Matrix, The (1999)", "3"),
        ("The Matrix", "3"),
        ("the matrix (1999)", "3"),
        ("Matrix", "3"),
        ("matr", "3"),  # begins so
        ("Story 2", "2"),  # somewhere in it
        (" the matrix ", "3"),
        ("Amber Harbor (1994)", "5"),
        ("6", "6"),  # an id before a title
        ("7", "6"),  # a title, as 7 is not in the catalog
    ],
)
def test_find(text, key, catalog):
    if key is None:
        check_error("no item", lambda: catalog.find(text))
    else:
        assert catalog.keys[catalog.find(text)] == key


def test_find_says_what_it_may_be(catalog):
    check_error(
        "'amber harbor' matches 2 items: Amber Harbor \\(1994\\) \\(id 5\\), Amber "
        "Harbor \\(1950\\) \\(id 4\\). Use the id of the item.",
        lambda: catalog.find("amber harbor"),
    )
    check_error("'toy' matches 2 items", lambda: catalog.find("toy"))
    check_error(
        "no item 'Toy Storry'. Similar titles: Toy Story",
        lambda: catalog.find("Toy Storry"),
    )
    check_error(
        "no item 'xyzzy' among the ids and titles. Examples of ids: 3, 1, 6.",
        lambda: catalog.find("xyzzy"),
    )
    check_error("There is no item ''", lambda: catalog.find(""))
    for text in ("Quiet Kiln, A", "quiet kiln, a"):
        check_error(
            "too few ratings in the training", lambda text=text: catalog.find(text)
        )


def test_many_are_not_all_listed():
    titles = [f"Amber {number}" for number in range(9)]
    items = pd.DataFrame({"item": range(9), "title": titles})
    catalog = Catalog([str(key) for key in range(9)], items)
    check_error(
        "matches 9 items: .*Amber 4 \\(id 4\\) and 4 more.",
        lambda: catalog.find("amber"),
    )


def test_table_is_by_position(catalog):
    assert catalog.table["item"].tolist() == KEYS
    assert catalog.table["title"][0] == "Matrix, The (1999)"
    assert pd.isna(catalog.table["title"][7])
    assert len(catalog) == 8
    assert catalog.name(1) == "Toy Story (1995)"
    assert catalog.name(6) == "8"
    described = catalog.describe(["7", "1", "nothing"])
    assert described["item"].tolist() == ["7", "1", "nothing"]
    assert described["title"].tolist()[:2] == ["Quiet Kiln, A", "Toy Story (1995)"]


@pytest.mark.parametrize(
    ("genres", "years", "expected"),
    [
        ([], None, KEYS),
        (["Comedy"], None, ["1", "6", "2"]),
        (["war"], None, ["3", "1"]),
        (["Comedy", "WAR"], None, ["1"]),
        ([], (1995, 1995), ["1", "6"]),
        ([], (1990, 1995), ["1", "6", "5"]),
        (["Comedy"], (1999, 2005), ["2"]),
    ],
)
def test_allowed(genres, years, expected, catalog):
    allowed = catalog.allowed(genres, years)
    assert allowed.dtype == bool
    assert catalog.keys[allowed].tolist() == expected


def test_genres_may_be_tuples():
    items = pd.DataFrame({"item": [1, 2], "genres": [("War", "Drama"), ()]})
    allowed = Catalog(["1", "2"], items).allowed(["war"])
    np.testing.assert_array_equal(allowed, [True, False])


def test_allowed_says_what_is_wrong(catalog):
    check_error(
        "no genre 'Rock'. The genres of the items are Comedy, Drama, War.",
        lambda: catalog.allowed(["Rock"]),
    )
    check_error("No item has all", lambda: catalog.allowed(["Comedy", "Drama"]))
    check_error("No item has all", lambda: catalog.allowed([], (1800, 1850)))


def test_without_a_table_of_items():
    catalog = Catalog(["a", "b"])
    assert catalog.find("b") == 1
    assert catalog.name(0) == "a"
    assert catalog.table.columns.tolist() == ["item"]
    check_error("no item 'c'", lambda: catalog.find("c"))
    check_error("no column 'genres'", lambda: catalog.allowed(["War"]))
    check_error("no column 'year'", lambda: catalog.allowed([], (1, 2)))
