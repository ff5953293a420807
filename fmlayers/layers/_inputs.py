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


def integer_ids(feature: Feature, x: Tensor) -> Tensor:
    """Returns integer ids, padded where they were ragged, in 32 or 64 bits."""
    check_ids(feature, x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    if isinstance(feature, MultiCategorical):
        if is_ragged(x):
            x = x.to_tensor()  # pads with the id 0
        if len(x.shape) != 2:
            raise ValueError(
                f"MultiCategorical feature {feature.name!r} must be of shape "
                f"(batch, length) or ragged. Received: shape {tuple(x.shape)}."
            )
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
