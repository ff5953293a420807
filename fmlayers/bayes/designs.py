"""The rows of a table that each example reads, with their weights.

The vector of a field is linear in its table: the field of example n is the row n of
Z @ T, where T is the table and Z its design, a sparse matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._types import Tensor
from fmlayers.features import (
    Categorical,
    Feature,
    History,
    MultiCategorical,
    Numeric,
    Vector,
)

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Pairs = tuple[Ids, Ids]  # the keys and the values of histories


@dataclass(frozen=True, eq=False)
class Design:
    """A sparse matrix `(rows, columns)` as its nonzero entries, sorted by row.

    Attributes:
        owners: Integers `(entries,)`, the row of each entry, ascending.
        columns: Integers `(entries,)`, the column of each entry.
        values: Floats `(entries,)`.
        num_rows: Integer.
        num_columns: Integer.
    """

    owners: Ids
    columns: Ids
    values: Floats
    num_rows: int
    num_columns: int

    @cached_property
    def is_one_hot(self) -> bool:
        """Whether each row has at most one entry."""
        return bool((np.diff(self.owners) > 0).all())

    @cached_property
    def unread(self) -> npt.NDArray[np.bool_]:
        """Whether a column has no entry, `(columns,)`."""
        counts = np.bincount(self.columns, minlength=self.num_columns)
        return np.equal(counts, 0)

    def rows(self, chosen: Ids) -> "Design":
        """Returns the design of some rows, in their order."""
        starts = np.searchsorted(self.owners, chosen)
        lengths = np.searchsorted(self.owners, chosen, "right") - starts
        owners = np.repeat(np.arange(len(chosen)), lengths)
        first = np.cumsum(lengths) - lengths
        entries = np.arange(len(owners)) + np.repeat(starts - first, lengths)
        return Design(
            owners,
            self.columns[entries],
            self.values[entries],
            len(chosen),
            self.num_columns,
        )

    def state(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "owners": self.owners,
            "columns": self.columns,
            "values": self.values,
            "num_rows": self.num_rows,
            "num_columns": self.num_columns,
        }

    def dense(self) -> Floats:
        """Returns the matrix as an array."""
        matrix = np.zeros((self.num_rows, self.num_columns), np.float32)
        np.add.at(matrix, (self.owners, self.columns), self.values)
        return matrix


@dataclass(frozen=True, eq=False)
class Field:
    """The distinct rows of a field's design over some examples.

    Attributes:
        index: Integers `(examples,)`, the row of each example.
        design: The distinct rows.
    """

    index: Ids
    design: Design

    def rows(self, chosen: Ids) -> "Field":
        """Returns the field of some examples."""
        return replace(self, index=self.index[chosen])

    @property
    def first(self) -> Ids:
        """The first example of each row."""
        return np.unique(self.index, return_index=True)[1]

    def is_function_of(self, key: "Field") -> bool:
        """Returns whether examples with the same row of `key` share theirs here."""
        return np.array_equal(self.index, self.index[key.first[key.index]])


def histories_of(
    features: Sequence[Feature], inputs: Mapping[str, Any]
) -> dict[str, Pairs]:
    """Returns the distinct keys and values of each `History` among the examples."""
    return {
        feature.name: _pairs_of(feature, inputs)
        for feature in features
        if isinstance(feature, History)
    }


def own_values_of(
    features: Sequence[Feature], inputs: Mapping[str, Any]
) -> dict[str, Ids]:
    """Returns the value of each example, for each `History`."""
    return {
        feature.name: _read(feature.entries[1].read(inputs)).astype(np.int64)
        for feature in features
        if isinstance(feature, History)
    }


def fields_of(
    features: Sequence[Feature],
    inputs: Mapping[str, Any],
    histories: Mapping[str, Pairs],
    count: int | None = None,
    argument: str = "inputs` and `targets",
) -> dict[str, Field]:
    """Returns the field of each feature; see `field_of`.

    Args:
        features: List of features.
        inputs: Dict, as for a model.
        histories: Dict from the name of a `History` to its distinct keys and values.
        count: Optional integer, the number of targets.
        argument: String, the name of the argument that contains the targets.

    Raises:
        ValueError: If the inputs do not fit the features or differ in their lengths.
    """
    fields = {f.name: field_of(f, inputs, histories) for f in features}
    lengths = {name: len(field.index) for name, field in fields.items()}
    if count is not None:
        lengths["targets"] = count
    if len(set(lengths.values())) > 1:
        subject = "inputs" if count is None else argument
        raise ValueError(
            f"`{subject}` must have the same number of examples in all arrays. "
            f"Received: {lengths}."
        )
    return fields


def field_of(
    feature: Feature, inputs: Mapping[str, Any], histories: Mapping[str, Pairs]
) -> Field:
    """Returns the field of a feature over the examples of a batch.

    The columns are the rows of the feature's table in `FeatureEmbedding`, of which the
    last one is that of unknown ids, or those of its vector and its bias.

    Args:
        feature: A `Feature`.
        inputs: Dict, as for a model.
        histories: Dict from the name of a `History` to its distinct keys and values.

    Raises:
        ValueError: If the inputs do not fit the feature.
    """
    for entry in feature.entries:
        if entry.is_in(inputs):
            entry.check(inputs)
    field: Field = _FIELDS[type(feature)](feature, inputs, histories)
    return field


def _categorical(feature: Categorical, inputs: Any, _: Any) -> Field:
    ids = _read(feature.entries[0].read(inputs))
    columns = _known(ids, feature.vocabulary_size)
    missing = feature.vocabulary_size + 1
    if feature.mask_zero:
        columns[ids == 0] = missing
    distinct, index = np.unique(columns, return_inverse=True)
    owners = np.flatnonzero(distinct != missing)
    ones = np.ones(len(owners), np.float32)
    return Field(index, Design(owners, distinct[owners], ones, len(distinct), missing))


def _multi_categorical(feature: MultiCategorical, inputs: Any, _: Any) -> Field:
    entry, *others = feature.entries
    ids, row_splits = (_read(x) for x in entry.read(inputs))
    weights = _read(others[0].read(inputs)) if others else np.ones(ids.shape)
    if row_splits is None:
        count = len(ids)
        owners = np.repeat(np.arange(count), ids.shape[1])
    else:
        count = len(row_splits) - 1
        owners = np.repeat(np.arange(count), np.diff(row_splits))
    ids, weights = ids.ravel()[: len(owners)], weights.ravel()[: len(owners)]
    present = (ids != 0) & (weights != 0)
    owners, ids, weights = owners[present], ids[present], weights[present]
    values = weights / _divisor(feature.combiner, owners, weights, count)
    design = Design(
        owners,
        _known(ids, feature.vocabulary_size),
        values.astype(np.float32),
        count,
        feature.vocabulary_size + 1,
    )
    rows: dict[bytes, int] = {}
    bounds = np.searchsorted(owners, np.arange(count + 1))
    contents = np.stack([design.columns, design.values.view(np.int32)], axis=1)
    index = np.array(
        [
            rows.setdefault(contents[a:b].tobytes(), len(rows))
            for a, b in pairwise(bounds)
        ],
        np.int64,
    )
    return Field(index, design.rows(np.unique(index, return_index=True)[1]))


def _numeric(feature: Numeric, inputs: Any, _: Any) -> Field:
    x = _read(feature.entries[0].read(inputs)).astype(np.float32)
    distinct, index = np.unique(x, return_inverse=True)
    return Field(index, _of_vectors(distinct[:, np.newaxis], feature.use_bias))


def _vector(feature: Vector, inputs: Any, _: Any) -> Field:
    x = np.ascontiguousarray(_read(feature.entries[0].read(inputs)), np.float32)
    rows = x.view(np.dtype((np.void, x.dtype.itemsize * x.shape[1])))[:, 0]
    _, first, index = np.unique(rows, return_index=True, return_inverse=True)
    return Field(index, _of_vectors(x[first], feature.use_bias))


def _history(feature: History, inputs: Any, histories: Mapping[str, Pairs]) -> Field:
    """The whole history of the key, with the example's own value, as in libFM."""
    keys, values = (np.asarray(x, np.int64) for x in histories[feature.name])
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    ones = np.ones(len(keys))
    weights = ones / _divisor(feature.combiner, keys, ones, feature.num_keys)
    lists = Design(
        keys,
        values,
        weights.astype(np.float32),
        feature.num_keys,
        feature.vocabulary_size + 1,
    )
    ids = _read(feature.entries[0].read(inputs)).astype(np.int64)
    distinct, index = np.unique(ids, return_inverse=True)
    return Field(index, lists.rows(distinct))


def _pairs_of(feature: History, inputs: Mapping[str, Any]) -> Pairs:
    """Returns the distinct pairs of a key and a value among the examples."""
    for entry in feature.entries:
        entry.check(inputs)
    keys, values = (np.asarray(entry.read(inputs)) for entry in feature.entries)
    known = (keys >= 0) & (keys < feature.num_keys)
    known &= (values > 0) & (values < feature.vocabulary_size)
    keys, values = np.unique(np.stack([keys[known], values[known]]), axis=1)
    if len(keys) != feature.num_pairs:
        raise ValueError(
            f"`num_pairs` of feature {feature.name!r} must be the number of distinct "
            f"pairs of a key and a value among the examples. Received: "
            f"num_pairs={feature.num_pairs}, with {len(keys)} pairs."
        )
    return keys, values


def _of_vectors(x: npt.NDArray[Any], use_bias: bool) -> Design:
    if use_bias:
        x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
    present = ~np.isnan(x).any(axis=1)
    owners = np.repeat(np.flatnonzero(present), x.shape[1])
    columns = np.tile(np.arange(x.shape[1]), int(present.sum()))
    return Design(owners, columns, x[present].ravel(), len(x), x.shape[1])


_FIELDS: dict[type[Feature], Any] = {
    Categorical: _categorical,
    MultiCategorical: _multi_categorical,
    Numeric: _numeric,
    Vector: _vector,
    History: _history,
}


def _divisor(
    combiner: str, owners: Ids, weights: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.float64]:
    """Returns the denominator of the combiner for each value."""
    if combiner == "sum":
        return np.ones(len(owners))
    powers = weights if combiner == "mean" else weights**2
    sums = np.bincount(owners, powers, count)[owners]
    if combiner == "sqrtn":
        return np.sqrt(sums)
    return np.where(sums == 0.0, np.inf, sums)  # weights that cancel give zeros


def _known(ids: Ids, size: int) -> Ids:
    """Returns ids with the last row for those outside the vocabulary."""
    return np.where((ids >= 0) & (ids < size), ids, size).astype(np.int64)


def _read(x: Tensor | None) -> Any:
    return None if x is None else np.asarray(ops.convert_to_numpy(x))
