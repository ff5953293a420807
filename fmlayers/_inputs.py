"""The input dict as a whole: the entries that features read, and their batch size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from fmlayers._backend import only_traces_shapes
from fmlayers._entries import Entry, value_of
from fmlayers.features import Feature


class ChecksInputs:
    """Mixin for a Keras layer that checks the inputs of each call.

    Put it before the Keras class: Keras converts the inputs before `call`, and its
    errors do not name the entry.
    """

    features: Sequence[Feature]

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = _with_ranks(self.features, inputs)
        check(self.features, inputs)
        return super().__call__(inputs, *args, **kwargs)  # type: ignore[misc]


def select_inputs(features: Sequence[Feature], inputs: Any) -> dict[str, Any]:
    """Returns the entries of the input dict that the features read.

    The layers and models of this package ignore other entries. A functional Keras model
    does not: if the dict has more entries than the model has inputs, Keras sorts the
    names, takes the first ones, and reads the wrong columns.

    Args:
        features: List of features, as in `FeatureEmbedding`.
        inputs: Dict from entry name to tensor or array.

    Returns:
        A dict of the entries, in the order of the features.

    Raises:
        ValueError: If a required entry is missing.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> row = {"user": np.array([3]), "day": np.array([5]), "item": np.array([7])}
    >>> fmlayers.select_inputs(features, row)
    {'user': array([3]), 'item': array([7])}

    In a pipeline: `data.map(lambda x, y: (fmlayers.select_inputs(features, x), y))`.
    """
    return {
        entry.name: value_of(inputs, entry.name)
        for entry in _entries(features)
        if entry.is_in(inputs)
    }


def check(features: Sequence[Feature], inputs: Any) -> None:
    """Raises `ValueError` unless `inputs` has the entries that the features read.

    Args:
        features: List of features.
        inputs: Dict from entry name to tensor, array or `keras.KerasTensor`.
    """
    sizes: dict[str, int] = {}
    for entry in _entries(features):
        if entry.is_in(inputs):
            entry.check(inputs)
            size = _rows(shape_of(inputs[entry.name]))
            if size is not None:
                sizes[entry.name] = size
    if len(set(sizes.values())) > 1 and not only_traces_shapes():
        smallest, largest = (pick(sizes, key=sizes.__getitem__) for pick in (min, max))
        repeated = f"np.repeat({smallest}, {sizes[largest]}, axis=0)"
        raise ValueError(
            "`inputs` must have the same number of examples in every entry. Received: "
            f"{sizes[smallest]} of {smallest!r} and {sizes[largest]} of {largest!r}. "
            f"To score many items for one user, repeat the user: `{repeated}`."
        )


def shape_of(x: Any) -> Any:
    """Returns the shape of an entry; for a pair, both shapes."""
    if isinstance(x, (tuple, list)):
        return tuple(tuple(part.shape) for part in x)
    return tuple(x.shape)


def input_shapes(features: Sequence[Feature]) -> dict[str, tuple[int | None, ...]]:
    """Returns the shapes of the required entries, to build a layer with."""
    required = [entry for entry in _entries(features) if entry.required]
    return {entry.name: entry.shape for entry in sorted(required, key=_name)}


def batch_size(features: Sequence[Feature], shapes: Mapping[str, Any]) -> int | None:
    """Returns the batch size, or `None` if no entry's shape has it."""
    sizes = (
        _rows(value_of(shapes, entry.name))
        for entry in _entries(features)
        if entry.required
    )
    return next((size for size in sizes if size is not None), None)


def _with_ranks(features: Sequence[Feature], inputs: Any) -> Any:
    if keras.backend.backend() != "tensorflow" or not isinstance(inputs, Mapping):
        return inputs
    changed = {}
    for entry in _entries(features):
        x = inputs.get(entry.name)
        ranked = entry.with_rank(x)
        if ranked is not x:
            changed[entry.name] = ranked
    return {**inputs, **changed} if changed else inputs


def _entries(features: Sequence[Feature]) -> Iterator[Entry]:
    return (entry for feature in features for entry in feature.entries)


def _name(entry: Entry) -> str:
    return entry.name


def _rows(shape: Any) -> int | None:
    if isinstance(shape[0], (tuple, list)):  # a pair: one row split more than rows
        splits: int | None = shape[1][0]
        return None if splits is None else splits - 1
    first: int | None = shape[0]
    return first
