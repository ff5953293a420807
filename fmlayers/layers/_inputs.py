"""One entry of the input dict, checked and brought into the form of its feature."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from fmlayers._backend import is_ragged, only_traces_shapes
from fmlayers._types import Tensor
from fmlayers.features import Feature, MultiCategorical


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


def flat(feature: Feature, x: Tensor) -> Tensor:
    """Returns `(batch,)` for `(batch,)` or `(batch, 1)`."""
    shape = tuple(x.shape)
    if len(shape) == 2 and shape[1] in (1, None):
        return ops.squeeze(x, axis=1)
    if len(shape) != 1:
        kind = type(feature).__name__
        raise ValueError(
            f"{kind} feature {feature.name!r} must be of shape (batch,) or "
            f"(batch, 1). Received: shape {shape}. For several ids an example "
            "describe it as `MultiCategorical`."
        )
    return x


def rows_of(feature: Feature, x: Any) -> tuple[Tensor, Tensor | None]:
    """Returns padded ids and None, or the ids of all rows and their row splits."""
    if is_ragged(x):
        return x.values, x.row_splits
    if isinstance(x, (tuple, list)):
        if len(x) == 2 and [len(part.shape) for part in x] == [1, 1]:
            return x[0], x[1]
        received = f"shapes {[tuple(part.shape) for part in x]}"
    elif len(x.shape) == 2:
        return x, None
    else:
        received = f"shape {tuple(x.shape)}"
    raise ValueError(
        f"{type(feature).__name__} feature {feature.name!r} must be of shape "
        "(batch, length), ragged, or a pair of ids (values,) and row splits "
        f"(batch + 1,). Received: {received}."
    )


def batch_size(feature: Feature, shape: Any) -> int | None:
    """Returns the examples of a batch whose entry of the feature has that shape."""
    if isinstance(feature, MultiCategorical) and isinstance(shape[0], (tuple, list)):
        count: int | None = shape[1][0]
        return None if count is None else count - 1
    first: int | None = shape[0]
    return first


def integer_ids(feature: Feature, x: Tensor) -> Tensor:
    """Returns integer ids in 32 or 64 bits."""
    check_ids(feature, x)
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


def check_ids(feature: Feature, x: Tensor) -> None:
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype.startswith(("int", "uint")) or only_traces_shapes():
        return
    reason = (
        "a float32 holds integers only up to 2^24, so that above it an id is "
        "silently another id"
        if "float" in dtype
        else "encode raw values with `fmlayers.data.Encoder` first"
    )
    raise ValueError(
        f"Ids of feature {feature.name!r} must be integers: {reason}. "
        f"Received: dtype={dtype}."
    )
