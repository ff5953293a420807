"""The entries of the input dict, checked and brought into the form of features."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from fmlayers._backend import (
    is_ragged,
    is_sparse,
    only_traces_shapes,
    rows_of_sparse,
)
from fmlayers._types import Tensor
from fmlayers.features import Categorical, Feature, History, MultiCategorical, Numeric


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
        name: entry(inputs, name)
        for feature in features
        for name in _names(feature, inputs)
    }


def check(features: Sequence[Feature], inputs: Any) -> None:
    """Raises `ValueError` unless `inputs` has what the features read.

    Args:
        features: The features.
        inputs: Dict from entry name to tensor, array or `keras.KerasTensor`.
    """
    sizes: dict[str, int] = {}
    for feature in features:
        for name in _names(feature, inputs):
            x = entry(inputs, name)
            where = f"feature {name!r}"
            if isinstance(feature, History):
                where = f"entry {name!r}, which feature {feature.name!r} reads,"
            _check_shape(feature, where, x)
            if isinstance(feature, Numeric):
                _check_numbers(where, x)
            else:
                _check_ids(where, x)
            size = _rows(shape_of(x))
            if size is not None:
                sizes[name] = size
    if len(set(sizes.values())) > 1 and not only_traces_shapes():
        smallest, largest = (pick(sizes, key=sizes.__getitem__) for pick in (min, max))
        repeated = f"np.repeat({smallest}, {sizes[largest]}, axis=0)"
        raise ValueError(
            "`inputs` must have as many examples in every entry. Received: "
            f"{sizes[smallest]} of {smallest!r} and {sizes[largest]} of {largest!r}. "
            f"To score many items for one user repeat the user: `{repeated}`."
        )


def entry(inputs: Mapping[str, Any], name: str) -> Any:
    if not isinstance(inputs, Mapping):
        raise ValueError(
            "`inputs` must be a dict from feature name to tensor. "
            f"Received: {type(inputs).__name__}."
        )
    if name not in inputs:
        raise ValueError(
            f"`inputs` must have an entry {name!r}. Received: entries {sorted(inputs)}."
        )
    return inputs[name]


def flat(x: Tensor) -> Tensor:
    """Returns `(batch,)` for `(batch,)` or `(batch, 1)`."""
    return ops.squeeze(x, axis=1) if len(x.shape) == 2 else x


def rows_of(x: Any) -> tuple[Tensor, Tensor | None]:
    """Returns padded ids and None, or the ids of all rows and their row splits."""
    if is_ragged(x):
        return x.values, x.row_splits
    if is_sparse(x):
        return rows_of_sparse(x)
    if isinstance(x, (tuple, list)):
        return x[0], x[1]
    return x, None


def shape_of(x: Any) -> Any:
    """Returns the shape of an entry, of a pair the two shapes."""
    if isinstance(x, (tuple, list)):
        return tuple(tuple(part.shape) for part in x)
    return tuple(x.shape)


def input_shapes(features: Sequence[Feature]) -> dict[str, tuple[None, ...]]:
    """Returns the shapes that a layer of the features is built with, for a summary."""
    several = {f.name for f in features if isinstance(f, MultiCategorical)}
    names = {name for feature in features for name in feature.inputs}
    return {
        name: (None, None) if name in several else (None,) for name in sorted(names)
    }


def batch_size(features: Sequence[Feature], shapes: Mapping[str, Any]) -> int | None:
    """Returns the examples of a batch, None where no entry's shape knows them."""
    sizes = (
        _rows(entry(shapes, name)) for feature in features for name in feature.inputs
    )
    return next((size for size in sizes if size is not None), None)


def integer_ids(x: Tensor) -> Tensor:
    """Returns integer ids in 32 or 64 bits."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype in ("int32", "int64"):
        return x
    if dtype in ("uint32", "uint64") and keras.backend.backend() == "jax":
        # Without 64 bits a large id would wrap round to a valid one.
        x = ops.minimum(x, 2**31 - 1)
    elif dtype in ("uint32", "uint64"):
        return ops.cast(x, "int64")
    # Narrow integers could not be compared with a large vocabulary size.
    return ops.cast(x, "int32")


_REMEDIES = {
    Categorical: "For several ids an example describe it as `MultiCategorical`; to "
    "score many items for one user give each pair a row, the user repeated.",
    Numeric: "For a vector an example describe each of its numbers as a `Numeric`, or "
    "project it with `keras.layers.Dense(dim)` and concatenate the result, as one "
    "more field, with the vectors of `FeatureEmbedding`.",
    History: "It holds the ids that the lists go with, one an example.",
    MultiCategorical: "For one id an example describe it as `Categorical`.",
}


def _rows(shape: Any) -> int | None:
    if isinstance(shape[0], (tuple, list)):  # of a pair, whose splits are one more
        splits: int | None = shape[1][0]
        return None if splits is None else splits - 1
    first: int | None = shape[0]
    return first


def _names(feature: Feature, inputs: Any) -> Iterator[str]:
    yield from feature.inputs
    if isinstance(feature, History) and feature.values in inputs:
        yield feature.values


def _check_shape(feature: Feature, where: str, x: Any) -> None:
    kind = type(feature)
    several = kind is MultiCategorical
    received = ""
    if isinstance(x, (tuple, list)):
        if x and all(hasattr(part, "shape") for part in x):
            shapes = [tuple(part.shape) for part in x]
            if several and [len(shape) for shape in shapes] == [1, 1]:
                return
            received = f"shapes {shapes}"
        else:
            received = f"a {type(x).__name__}; make it an array, `np.array(...)`"
    elif not hasattr(x, "shape") or not hasattr(x, "dtype"):
        received = f"{x!r}, of type {type(x).__name__}"
    elif is_sparse(x):
        if several and len(x.shape) == 2 and keras.backend.backend() == "tensorflow":
            return
        received = (
            "a sparse tensor; only `MultiCategorical` takes one, on TensorFlow. Parse "
            "the entry with `tf.io.FixedLenFeature`, or make it dense"
        )
    elif is_ragged(x):
        if several and len(x.shape) == 2:
            return
        received = f"a ragged tensor of shape {tuple(x.shape)}"
    else:
        shape = tuple(x.shape)
        if several:
            if len(shape) == 2:
                return
        elif len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None)):
            return
        received = f"shape {shape}"
    wanted = "(batch,) or (batch, 1)"
    if several:
        wanted = (
            "(batch, length), ragged, or a pair of ids (values,) and row splits "
            "(batch + 1,)"
        )
    raise ValueError(
        f"{kind.__name__} {where} must be of shape {wanted}. Received: {received}. "
        f"{_REMEDIES[kind]}"
    )


def _check_ids(where: str, x: Any) -> None:
    if isinstance(x, (tuple, list)):
        for part in x:
            _check_ids(where, part)
        return
    dtype = _dtype(x)
    if dtype.startswith(("int", "uint")) or only_traces_shapes():
        return
    if "float" in dtype:
        reason = (
            "a float32 holds integers only up to 2^24, so that above it an id is "
            "silently another id"
        )
    elif dtype == "bool":
        reason = (
            "make ids 1 ... n of n multi-hot columns with "
            "`np.where(x, np.arange(1, n + 1), 0)`"
        )
    else:
        reason = "encode raw values with `fmlayers.data.Encoder` first"
    raise ValueError(
        f"Ids of {where} must be integers: {reason}. Received: {dtype=!s}."
    )


def _check_numbers(where: str, x: Any) -> None:
    dtype = _dtype(x)
    if dtype.startswith(("int", "uint", "float", "bfloat", "bool")):
        return
    raise ValueError(
        f"Values of {where} must be numbers: encode raw values with "
        f"`fmlayers.data.Encoder` first. Received: {dtype=!s}."
    )


def _dtype(x: Any) -> str:
    try:
        return str(keras.backend.standardize_dtype(x.dtype))
    except ValueError:  # NumPy's texts and objects
        return str(x.dtype)
