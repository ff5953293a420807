"""myFM with histories, day and side features, as relation blocks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from fmlayers.data import Encoder
from fmlayers.data.kind_names import Kind

Floats = npt.NDArray[Any]
OF_RATINGS: dict[str, Kind] = {"day": "categorical"}
OF_USERS: dict[str, Kind] = {
    "user": "categorical",
    "age": "categorical",
    "sex": "categorical",
    "occupation": "categorical",
}
OF_ITEMS: dict[str, Kind] = {
    "item": "categorical",
    "year": "categorical",
    "genres": "multi_categorical",
}
# Of each row of a table, the fields side by side, and how many columns each has.
Design = tuple[sparse.csr_matrix, list[int]]


def predict(
    train: pd.DataFrame, test: pd.DataFrame, seed: int, *, rank: int, samples: int
) -> Floats:
    """Returns predicted ratings of `test` from the columns above and both histories.

    The user's fields form one relation block, and the item's fields another. Each
    field is a group with a separate prior, and has norm 1 in each row.
    """
    from myfm import MyFMRegressor, RelationBlock

    rows = pd.concat([train, test], ignore_index=True)
    of_ratings, groups = _design(train, rows, OF_RATINGS)
    blocks = []
    for key, columns, other in (("user", OF_USERS, "item"), ("item", OF_ITEMS, "user")):
        index, keys = pd.factorize(rows[key])
        design, widths = _design(train, rows.drop_duplicates(key), columns)
        history = _history(index[: len(train)], train[other], len(keys))
        blocks.append((index, sparse.hstack([design, history], format="csr")))
        groups += [*widths, history.shape[1]]

    def inputs(part: slice) -> dict[str, Any]:
        relations = [RelationBlock(index[part], design) for index, design in blocks]
        return {"X": of_ratings[part], "X_rel": relations}

    model = MyFMRegressor(rank, random_seed=seed)
    model.fit(
        y=train["rating"].to_numpy(),
        n_iter=samples,
        n_kept_samples=samples,
        group_shapes=groups,
        **inputs(slice(len(train))),
    )
    return np.clip(model.predict(**inputs(slice(len(train), None))), 1, 5)


def _design(
    train: pd.DataFrame, table: pd.DataFrame, columns: dict[str, Kind]
) -> Design:
    """Encodes columns; values that are not in `train` have no column."""
    known = {name: kind for name, kind in columns.items() if name in table}
    if not known:
        return sparse.csr_matrix((len(table), 0)), []
    encoder = Encoder(known).fit(train)
    fields = []
    for name, ids in encoder.transform(table).items():
        ids = ids.reshape(len(table), -1)
        row, place = np.nonzero(ids > 0)
        shape = (len(table), len(encoder.vocabulary(name)))
        fields.append(_normalized(row, ids[row, place] - 1, shape))
    return sparse.hstack(fields, format="csr"), [field.shape[1] for field in fields]


def _history(owner: Floats, values: pd.Series, owners: int) -> sparse.csr_matrix:
    ids, known = pd.factorize(values)
    return _normalized(owner, ids, (owners, len(known)))


def _normalized(
    row: Floats, column: Floats, shape: tuple[int, int]
) -> sparse.csr_matrix:
    lengths = np.bincount(row, minlength=shape[0])
    return sparse.csr_matrix((lengths[row] ** -0.5, (row, column)), shape=shape)
