import numpy as np
import pandas as pd
import pytest
from checks import check_error

from fmlayers.runs.catalogue import Catalogue

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
def catalogue():
    return Catalogue(KEYS, ITEMS)


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
        ("7", "6"),  # a title, as 7 is not in the catalogue
    ],
)
def test_find(text, key, catalogue):
    if key is None:
        check_error("no item", lambda: catalogue.find(text))
    else:
        assert catalogue.keys[catalogue.find(text)] == key


def test_find_says_what_it_may_be(catalogue):
    check_error(
        "'amber harbor' may be 2 items: Amber Harbor \\(1994\\) \\(id 5\\), Amber "
        "Harbor \\(1950\\) \\(id 4\\). Give the item's id.",
        lambda: catalogue.find("amber harbor"),
    )
    check_error("'toy' may be 2 items", lambda: catalogue.find("toy"))
    check_error(
        "no item 'Toy Storry'. Near it: Toy Story", lambda: catalogue.find("Toy Storry")
    )
    check_error(
        "There is no item 'xyzzy' by id or by title. Ids are such as 3, 1, 6.",
        lambda: catalogue.find("xyzzy"),
    )
    check_error("There is no item ''", lambda: catalogue.find(""))
    for text in ("Quiet Kiln, A", "quiet kiln, a"):
        check_error(
            "too few ratings in the training", lambda text=text: catalogue.find(text)
        )


def test_many_are_not_all_listed():
    titles = [f"Amber {number}" for number in range(9)]
    items = pd.DataFrame({"item": range(9), "title": titles})
    catalogue = Catalogue([str(key) for key in range(9)], items)
    check_error(
        "may be 9 items: .*Amber 4 \\(id 4\\) and 4 more.",
        lambda: catalogue.find("amber"),
    )


def test_table_is_by_position(catalogue):
    assert catalogue.table["item"].tolist() == KEYS
    assert catalogue.table["title"][0] == "Matrix, The (1999)"
    assert pd.isna(catalogue.table["title"][7])
    assert len(catalogue) == 8
    assert catalogue.name(1) == "Toy Story (1995)"
    assert catalogue.name(6) == "8"
    described = catalogue.describe(["7", "1", "nothing"])
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
def test_allowed(genres, years, expected, catalogue):
    allowed = catalogue.allowed(genres, years)
    assert allowed.dtype == bool
    assert catalogue.keys[allowed].tolist() == expected


def test_genres_may_be_tuples():
    items = pd.DataFrame({"item": [1, 2], "genres": [("War", "Drama"), ()]})
    allowed = Catalogue(["1", "2"], items).allowed(["war"])
    np.testing.assert_array_equal(allowed, [True, False])


def test_allowed_says_what_is_wrong(catalogue):
    check_error(
        "no genre 'Rock' among the items. There are Comedy, Drama, War.",
        lambda: catalogue.allowed(["Rock"]),
    )
    check_error("No item is left", lambda: catalogue.allowed(["Comedy", "Drama"]))
    check_error("No item is left", lambda: catalogue.allowed([], (1800, 1850)))


def test_without_a_table_of_items():
    catalogue = Catalogue(["a", "b"])
    assert catalogue.find("b") == 1
    assert catalogue.name(0) == "a"
    assert catalogue.table.columns.tolist() == ["item"]
    check_error("no item 'c'", lambda: catalogue.find("c"))
    check_error("no column 'genres'", lambda: catalogue.allowed(["War"]))
    check_error("no column 'year'", lambda: catalogue.allowed([], (1, 2)))
