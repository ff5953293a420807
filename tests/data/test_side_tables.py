"""Tables of users and items from files of their own."""

import pandas as pd
import pytest

from fmlayers.data import DataError, infer_columns, read_ratings

RATINGS = "user,item,rating\n007,1,1\n8,2,2\n8,1,3\n9,3,1\n"
ITEMS = "item,color,price\n1,red,2.5\n2,blue,\n4,red,1\n"


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_items_and_users_join_the_ratings(file):
    data = read_ratings(
        file("r.csv", RATINGS),
        items=file("i.csv", ITEMS),
        users=file("u.csv", "user,age\n007,20\n8,30\n9,40\n"),
    )
    table = data.table()
    assert table["color"].astype(object).where(
        table["color"].notna(), None
    ).tolist() == [
        "red",
        "blue",
        "red",
        None,
    ]
    assert table["age"].tolist() == [20, 30, 30, 40]
    assert data.repairs == (
        "i.csv: 1 of 3 items have no row, such as 3; their columns count as missing.",
    )
    assert infer_columns(data) == {
        "user": "categorical",
        "item": "categorical",
        "age": "numeric",
        "color": "categorical",
        "price": "numeric",
    }


def test_the_key_has_the_name_of_the_ratings_or_one_of_its_own(file):
    ratings = file("r.csv", RATINGS.replace("item", "sku"))
    for header, options in (
        ("sku", {}),
        ("item", {}),
        ("id", {"item_key": "id"}),
    ):
        items = file("i.csv", ITEMS.replace("item", header))
        data = read_ratings(ratings, item="sku", items=items, **options)
        assert list(data.items) == ["item", "color", "price"]
    items = file("i.csv", ITEMS.replace("item", "id"))
    with pytest.raises(
        DataError, match=r"i.csv has no column 'sku' for `item_key`. It"
    ):
        read_ratings(ratings, item="sku", items=items)
    items = file("i.csv", "id,item\n1,2\n")
    with pytest.raises(
        DataError, match="i.csv has a column 'item' that is not its key"
    ):
        read_ratings(ratings, item="sku", items=items, item_key="id")


@pytest.mark.parametrize(
    ("items", "match"),
    [
        ("item,c\n1,r\n,b\n", r"i.csv, line 3: the item in column 'item' is missing"),
        (
            "item,c\n1,r\n2,b\n1,r\n",
            r"i.csv, line 4: item 1 has a row already, at i.csv, line 2",
        ),
        ("item,c\nx,r\n", "`items` must have rows of the items in `ratings`"),
        ("item,rating\n1,2\n", "`items` must have no column 'rating'"),
        ("item,timestamp\n1,2\n", "`items` must have no column 'timestamp'"),
        ("item,c\n1\n", "i.csv, line 2"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(items, match, file):
    with pytest.raises(DataError, match=match):
        read_ratings(file("r.csv", RATINGS), items=file("i.csv", items))


def test_a_column_of_two_tables_is_refused(file):
    ratings = "user,item,rating,c\n1,1,1,r\n"
    with pytest.raises(DataError, match="Column 'c' of `items` is in another table"):
        read_ratings(file("r.csv", ratings), items=file("i.csv", "item,c\n1,r\n"))


def test_ids_of_another_type_are_the_same(file):
    ratings = file("r.csv", RATINGS)
    items = pd.DataFrame({"item": [1, 2, 3], "color": list("rgb")})
    data = read_ratings(ratings, items=items)
    assert data.table()["color"].tolist() == ["r", "g", "r", "b"]
    numbers = pd.DataFrame({"user": [7, 8], "item": [1, 2], "rating": [1.0, 2.0]})
    users = file("u.csv", "user,age\n7,1\n8,2\n007,3\n")
    data = read_ratings(numbers, users=users, items=items.set_index("item"))
    assert data.table()["age"].tolist() == [1, 2]
    assert data.table()["color"].tolist() == ["r", "g"]


def test_a_table_of_users_needs_users(file):
    labels = file("l.csv", "label,x\n0,1\n1,2\n")
    users = file("u.csv", "user,age\n7,1\n")
    with pytest.raises(
        DataError, match="`users` must be left out, since l has no user"
    ):
        read_ratings(labels, rating="label", needs_pairs=False, users=users)
