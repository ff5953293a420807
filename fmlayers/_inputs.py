"""The input dict as a whole: which of its entries are read, and whether they agree."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fmlayers._backend import only_traces_shapes
from fmlayers._entries import Entry, value_of
from fmlayers.features import Feature


class ChecksInputs:
    """Mixin, in front of a Keras layer, that checks what it is called with.

    Keras converts inputs before any layer sees them, and fails there for what is no
    tensor, without the name of an entry.
    """

    features: Sequence[Feature]

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        check(self.features, inputs)
        return super().__call__(inputs, *args, **kwargs)  # type: ignore[misc]


def select_inputs(features: Sequence[Feature], inputs: Any) -> dict[str, Any]:
    """Returns the entries that the features read, and no others.

    The layers and models of the package ignore other entries. A functional model of
    Keras does not: with one entry more than it has inputs it sorts the names, takes the
    first ones, and so reads the wrong columns.

    Args:
        features: Features, as a `FeatureEmbedding` or a model has them.
        inputs: Dict from entry name to tensor or array.

    Raises:
        ValueError: If an entry that a feature cannot do without is missing.

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
    """Raises `ValueError` unless `inputs` has what the features read.

    Args:
        features: The features.
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
            "`inputs` must have as many examples in every entry. Received: "
            f"{sizes[smallest]} of {smallest!r} and {sizes[largest]} of {largest!r}. "
            f"To score many items for one user repeat the user: `{repeated}`."
        )


def shape_of(x: Any) -> Any:
    """Returns the shape of an entry, of a pair the two shapes."""
    if isinstance(x, (tuple, list)):
        return tuple(tuple(part.shape) for part in x)
    return tuple(x.shape)


def input_shapes(features: Sequence[Feature]) -> dict[str, tuple[None, ...]]:
    """Returns the shapes that a layer of the features is built with, for a summary."""
    required = [entry for entry in _entries(features) if entry.required]
    return {entry.name: entry.shape for entry in sorted(required, key=_name)}


def batch_size(features: Sequence[Feature], shapes: Mapping[str, Any]) -> int | None:
    """Returns the examples of a batch, None where no entry's shape knows them."""
    sizes = (
        _rows(value_of(shapes, entry.name))
        for entry in _entries(features)
        if entry.required
    )
    return next((size for size in sizes if size is not None), None)


def _entries(features: Sequence[Feature]) -> Iterator[Entry]:
    return (entry for feature in features for entry in feature.entries)


def _name(entry: Entry) -> str:
    return entry.name


def _rows(shape: Any) -> int | None:
    if isinstance(shape[0], (tuple, list)):  # of a pair, whose splits are one more
        splits: int | None = shape[1][0]
        return None if splits is None else splits - 1
    first: int | None = shape[0]
    return first
