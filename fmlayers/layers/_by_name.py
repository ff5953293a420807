"""Arguments of a `FeatureEmbedding` that are dicts from the name of a feature."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fmlayers._checks import boolean
from fmlayers._saved_state import is_serialized
from fmlayers.features import Feature
from fmlayers.layers._pretrained import Pretrained


def key_of(feature: Feature) -> str:
    """Returns the key of a feature's weights; features that share a table share it."""
    if feature.table_name is None:
        return f"feature {feature.name}"
    return f"table {feature.table_name}"


def initializers_of(
    features: Sequence[Feature], dim: int, argument: Any
) -> tuple[Any, dict[str, Any]]:
    """Returns the argument `embeddings_initializer` with objects, and these by key.

    Raises:
        ValueError: If the argument is invalid.
    """
    if not _is_by_name(argument):
        if _is_array(argument):
            raise ValueError(
                "`embeddings_initializer` must be an initializer, or a dict from the "
                "name of a feature to an initializer or an array. Received: "
                f"{_described(argument)}."
            )
        every = _initializer(argument)
        return every, {key_of(feature): every for feature in features}
    names = _names_by_key("embeddings_initializer", features, argument)
    by_name = {
        name: Pretrained(_rows(name, value))
        if _is_array(value)
        else _initializer(value)
        for name, value in argument.items()
    }
    by_key = {key: by_name[name] for key, name in names.items()}
    for feature in features:
        values = getattr(by_key.get(key_of(feature)), "values", None)
        if values is not None and values.shape != (feature.num_rows, dim):
            raise ValueError(
                "`embeddings_initializer` must have an array of shape "
                f"{(feature.num_rows, dim)} for feature {feature.name!r}: one row per "
                f"vector, of `dim` numbers. Received: shape {values.shape}."
            )
    default = _initializer(None)
    return by_name, {key: by_key.get(key, default) for key in map(key_of, features)}


def trainable_of(
    features: Sequence[Feature], argument: bool | Mapping[str, bool]
) -> tuple[bool | dict[str, bool], dict[str, bool]]:
    """Returns the argument `trainable` with Booleans, and these by key.

    Raises:
        ValueError: If the argument is invalid.
    """
    if not isinstance(argument, Mapping):
        return boolean("trainable", argument), {}
    flags = {
        name: boolean("trainable", value, of=f" for {name!r}")
        for name, value in argument.items()
    }
    names = _names_by_key("trainable", features, flags)
    return flags, {key: flags[name] for key, name in names.items()}


def _names_by_key(
    argument: str, features: Sequence[Feature], values: Mapping[str, Any]
) -> dict[str, str]:
    """Returns the first of the names for each key."""
    keys = {f.table_name: key_of(f) for f in features if f.table_name is not None}
    keys |= {feature.name: key_of(feature) for feature in features}
    unknown = sorted(set(values) - set(keys))
    if unknown:
        raise ValueError(
            f"`{argument}` must name features or tables among {sorted(keys)}. "
            f"Received: {unknown}."
        )
    names: dict[str, str] = {}
    for name, value in values.items():
        first = names.setdefault(keys[name], name)
        if not _are_same(values[first], value):
            raise ValueError(
                f"`{argument}` must have one value per table. Received: two values, "
                f"for {first!r} and {name!r}, which share a table."
            )
    return names


def _is_by_name(argument: Any) -> bool:
    return isinstance(argument, Mapping) and not is_serialized(argument)


def _initializer(argument: Any) -> Any:
    if argument is None:
        return keras.initializers.RandomNormal(stddev=0.01)
    return keras.initializers.get(argument)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or isinstance(value, (list, tuple))


def _rows(name: str, value: Any) -> Any:
    try:
        rows = ops.convert_to_numpy(value)
        is_finite = rows.dtype.kind in "fiu" and bool(np.isfinite(rows).all())
    except (TypeError, ValueError):
        rows, is_finite = np.zeros(()), False
    if not is_finite:
        raise ValueError(
            "`embeddings_initializer` must have an array of finite numbers for "
            f"{name!r}. Received: {_described(value)}."
        )
    return rows


def _are_same(first: Any, second: Any) -> bool:
    is_plain = isinstance(first, (bool, str, Mapping))
    return first is second or (is_plain and bool(first == second))


def _described(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"a {type(value).__name__}"
