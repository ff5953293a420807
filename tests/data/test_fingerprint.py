"""The fingerprint of all columns, side tables and parts of a dataset."""

import numpy as np
import pandas as pd

from fmlayers.data import Dataset
from fmlayers.data.fingerprint import fingerprint_of_tables

RATINGS = pd.DataFrame(
    {
        "user": ["a", "b", "a"],
        "item": [1, 2, 1],
        "rating": [1.0, 2.0, 3.0],
        "tags": [("x", "y"), (), ("x",)],
        "vector": [[0.5, 1.0], None, [2.0, 3.0]],
        "city": ["Oslo", None, np.nan],
    }
)
ITEMS = pd.DataFrame({"item": [1, 2], "year": pd.array([1999, None], dtype="Int64")})


def fingerprint(ratings=RATINGS, items=ITEMS, **options):
    return fingerprint_of_tables(Dataset("a", ratings, items=items, **options))


def test_equal_values_have_one_fingerprint():
    known = fingerprint()
    assert len(known) == 64
    assert fingerprint(RATINGS[RATINGS.columns[::-1]]) == known
    assert fingerprint(RATINGS.assign(city=["Oslo", np.nan, None])) == known
    assert fingerprint(RATINGS.astype({"item": "float64"})) == known
    years = pd.DataFrame({"item": [1, 2], "year": [1999.0, np.nan]})
    assert fingerprint(items=years) == known


def test_any_change_changes_it():
    parts = {"test": np.array([2], dtype=np.int64)}
    prints = {
        fingerprint(),
        fingerprint(RATINGS.assign(tags=[("x",), ("y",), ("x",)])),
        fingerprint(RATINGS.assign(vector=[[0.5, 1.0], None, [2.0, 4.0]])),
        fingerprint(RATINGS.assign(city=["Rome", None, None])),
        fingerprint(RATINGS.assign(city=["Oslo", None, "Oslo"])),
        fingerprint(RATINGS.assign(more=1)),
        fingerprint(RATINGS.rename(columns={"city": "town"})),
        fingerprint(items=ITEMS.assign(year=2000)),
        fingerprint(items=None),
        fingerprint(parts=parts),
    }
    assert len(prints) == 10
