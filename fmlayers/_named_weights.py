"""The weights of a layer in a file, each under its own name.

Keras files a layer's weights by their place: with another order of the features one
table would be read as another.
"""

import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import keras

from fmlayers._types import Tensor

Store = Any  # what Keras gives `save_own_variables`: a mapping of arrays
Weights = Mapping[str, Mapping[str, keras.Variable]]


class LastMessage:
    """What was last said of a file, for as long as Keras has that file open."""

    def __init__(self) -> None:
        self._store: Any = None
        self._message = ""

    def set(self, store: Store, message: str = "") -> None:
        self._store = None if isinstance(store, dict) else weakref.ref(store)
        self._message = message

    def of(self, store: Store) -> str | None:
        """Returns what was said of this file, None where it was another's."""
        is_same = self._store is not None and self._store() is store
        return self._message if is_same else None


def key_of(role: str, name: str) -> str:
    """Returns what a weight of any name is filed under, for HDF5, too."""
    return f"{role}.{quote(name, safe='')}"


def label_of(key: str) -> str:
    """Returns how an error names what is filed under a key."""
    role, name = key.split(".", 1)
    return f"{role} {unquote(name)!r}"


def has(store: Store, key: str) -> bool:
    """Tells whether a weight of that key, or a part of it, is in the file."""
    return any(_without_part(name) == key for name in list(store.keys()))


def save(store: Store, weights: Weights) -> None:
    """Files weights.

    Args:
        store: Where to.
        weights: The parts of each weight by the weight's key; a single part's name is
            empty.
    """
    for key, parts in weights.items():
        for part, variable in parts.items():
            store[_with(key, part)] = variable


def load(store: Store, weights: Weights, by_place: Weights) -> list[str]:
    """Assigns every weight that the file has in the same shape; tells of the others.

    Args:
        store: Where from.
        weights: As of `save`.
        by_place: Those that a file of version 0.1.0 has by their place: "0", "1", ...
    """
    keys = list(store.keys())
    if keys and all(key.isdigit() for key in keys):
        return _load_by_place(store, len(keys), by_place)
    faults: list[str] = []
    known: set[str] = set()
    for key, parts in weights.items():
        wanted = {_with(key, part): variable for part, variable in parts.items()}
        known |= wanted.keys()
        if wanted.keys() <= set(keys):
            values = {name: store[name] for name in wanted}
            faults += _assign(label_of(key), values, wanted)
        else:
            faults.append(f"{label_of(key)} is not in the file")
    left = dict.fromkeys(
        label_of(_without_part(key)) for key in keys if key not in known
    )
    return faults + [f"{label} is not in the layer" for label in left]


def _load_by_place(store: Store, count: int, weights: Weights) -> list[str]:
    if count != len(weights):
        names = ", ".join(map(label_of, weights)) or "none"
        return [
            f"the file has {count} weights by place, without names, and the layer has "
            f"{len(weights)}: {names}"
        ]
    faults = []
    for place, (key, parts) in enumerate(weights.items()):
        faults += _assign(label_of(key), {"": store[str(place)]}, parts)
    return faults


def _assign(
    label: str, values: Mapping[str, Tensor], variables: Mapping[str, keras.Variable]
) -> list[str]:
    """Assigns all of the values or, where a shape differs, none."""
    for name, variable in variables.items():
        found, expected = tuple(values[name].shape), tuple(variable.shape)
        if found != expected:
            return [
                f"{label} has shape {found} in the file and {expected} in the layer"
            ]
    for name, variable in variables.items():
        variable.assign(values[name])
    return []


def _with(key: str, part: str) -> str:
    return f"{key}#{part}" if part else key


def _without_part(key: str) -> str:
    return key.split("#")[0]
