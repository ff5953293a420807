"""Saves and loads the weights of a layer by name.

Keras saves them by position. With the features in another order, one table would be
loaded as another.
"""

import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import keras

from fmlayers._backend import assign_all_rows
from fmlayers._spread.stored_rows import is_reference, reference_to, resolved
from fmlayers._types import Tensor

Store = Any  # the mapping of arrays that Keras passes to `save_own_variables`
Weights = Mapping[str, Mapping[str, keras.Variable]]


class LastMessage:
    """The last message about a file, for as long as Keras has the file open."""

    def __init__(self) -> None:
        self._store: Any = None
        self._message = ""

    def set(self, store: Store, message: str = "") -> None:
        self._store = None if isinstance(store, dict) else weakref.ref(store)
        self._message = message

    def of(self, store: Store) -> str | None:
        """Returns the message, or `None` if it is about another file."""
        is_same = self._store is not None and self._store() is store
        return self._message if is_same else None


def key_of(role: str, name: str) -> str:
    """Returns the key of a weight in a file; HDF5 allows no slash in it."""
    return f"{role}.{quote(name, safe='')}"


def label_of(key: str) -> str:
    """Returns the description of a key for an error."""
    role, name = key.split(".", 1)
    return f"{role} {unquote(name)!r}"


def has(store: Store, key: str) -> bool:
    """Returns whether the file has a weight with this key, or a part of it."""
    return any(_without_part(name) == key for name in list(store.keys()))


def save(store: Store, weights: Weights) -> None:
    """Saves weights.

    Args:
        store: The store of the file.
        weights: Dict from a weight's key to its parts, each a variable by name. A
            weight that is a single variable has one part with an empty name.
    """
    for key, parts in weights.items():
        for part, variable in parts.items():
            reference = reference_to(variable)
            value = variable if reference is None else reference
            store[_with(key, part)] = value


def load(store: Store, weights: Weights, by_position: Weights) -> list[str]:
    """Loads every weight that the file has in the same shape.

    Args:
        store: The store of the file.
        weights: Dict of weights, as in `save`.
        by_position: Dict of the weights that a file of version 0.1.0 has by position,
            with the keys "0", "1", ...

    Returns:
        A list of messages about the weights that could not be loaded.
    """
    keys = list(store.keys())
    if keys and all(key.isdigit() for key in keys):
        return _load_by_position(store, len(keys), by_position)
    faults: list[str] = []
    known: set[str] = set()
    for key, parts in weights.items():
        wanted = {_with(key, part): variable for part, variable in parts.items()}
        known |= wanted.keys()
        if wanted.keys() <= set(keys):
            values = {name: resolved(store[name]) for name in wanted}
            faults += _assign(label_of(key), values, wanted)
        else:
            faults.append(f"{label_of(key)} is not in the file")
    left = dict.fromkeys(
        label_of(_without_part(key)) for key in keys if key not in known
    )
    return faults + [f"{label} is not in the layer" for label in left]


def _load_by_position(store: Store, count: int, weights: Weights) -> list[str]:
    if count != len(weights):
        names = ", ".join(map(label_of, weights)) or "none"
        return [
            f"the file has {count} weights by position, without names, and the layer "
            f"has {len(weights)}: {names}"
        ]
    faults = []
    for position, (key, parts) in enumerate(weights.items()):
        faults += _assign(label_of(key), {"": store[str(position)]}, parts)
    return faults


def _assign(
    label: str, values: Mapping[str, Tensor], variables: Mapping[str, keras.Variable]
) -> list[str]:
    """Assigns all values, or none if a shape differs."""
    for name, variable in variables.items():
        if is_reference(values[name]):
            return [
                f"{label} is in a separate file: load the folder with "
                "`fmlayers.distributed.load_sharded`"
            ]
        saved, expected = tuple(values[name].shape), tuple(variable.shape)
        if saved != expected:
            return [
                f"{label} has shape {saved} in the file and {expected} in the layer"
            ]
    for name, variable in variables.items():
        if isinstance(variable, keras.Variable):
            assign_all_rows(variable, values[name])
        else:  # a view of rows
            variable.assign(values[name])
    return []


def _with(key: str, part: str) -> str:
    return f"{key}#{part}" if part else key


def _without_part(key: str) -> str:
    return key.split("#")[0]
