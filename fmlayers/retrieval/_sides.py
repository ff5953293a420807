"""What a model's fields are to retrieval: a query's or an item's."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fmlayers.features import Feature, MultiCategorical, Numeric


def entries_of(feature: Feature) -> tuple[str, ...]:
    """Returns the names of the entries of the input dict that a feature reads."""
    return tuple(getattr(feature, "inputs", (feature.name,)))


def item_features_of(model: Any, entries: Collection[str]) -> list[str]:
    """Returns the features that read nothing but these entries: the items' own."""
    return [f.name for f in model.features if set(entries_of(f)) <= set(entries)]


def is_exact(model: Any) -> bool:
    """Tells whether `model.side` makes up all of `model.score`.

    A model says so by `exact_sides = True`, its class's or its own. A subclass that has
    a `score` of its own and does not say so again is not taken at its parent's word.
    """
    if "exact_sides" in vars(model):
        return bool(model.exact_sides)
    for kind in type(model).__mro__:
        if "exact_sides" in vars(kind):
            return bool(model.exact_sides)
        if "score" in vars(kind):
            return False
    return False


def has_sides(model: Any) -> bool:
    """Tells whether a model, and every member of an ensemble, has a `side`."""
    return hasattr(model, "side") and all(map(has_sides, getattr(model, "members", ())))


def side_size(model: Any, names: Sequence[str]) -> int:
    """Returns the size of a side's vector, by that of an example without values."""
    blank: dict[str, Any] = {}
    for feature in model.features:
        for name in entries_of(feature):
            shape = (1, 1) if isinstance(feature, MultiCategorical) else (1,)
            dtype = "float32" if isinstance(feature, Numeric) else "int32"
            blank[name] = np.zeros(shape, dtype)
    return int(model.side(blank, names)[1].shape[-1])
