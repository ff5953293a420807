from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from fmlayers._backend import saved_shape


def joined_slots(
    store: Mapping[str, Any],
    head: int,
    variables: Sequence[Any],
    slots: Sequence[Sequence[Any]],
) -> dict[str, Any] | None:
    """Returns the state of an optimizer from a file with one variable per table.

    In version 0.1.0, each table and each vector of a number was a variable, and had
    slots. Keras saves slots by position.

    Args:
        store: The arrays of the file, by position.
        head: The number of arrays before those of the slots.
        variables: The model's trainable variables.
        slots: The slots of each of them, in the order in which they are saved.

    Returns:
        The arrays by position, or `None` if the file does not have this form.
    """
    owners = list(_owners(variables))
    kinds = len(slots[0]) if slots else 0
    if len(store) != head + kinds * len(owners):
        return None
    parts: list[list[list[Any]]] = [[[] for _ in each] for each in slots]
    position = head
    for owner in owners:
        for kind in range(kinds):
            parts[owner][kind].append(np.ravel(store[str(position)]))
            position += 1
    joined = [store[str(i)] for i in range(head)]
    for each, arrays in zip(slots, parts, strict=True):
        for slot, flat in zip(each, map(np.concatenate, arrays), strict=True):
            shape = saved_shape(slot)
            if flat.size != np.prod(shape):
                return None
            joined.append(flat.reshape(shape))
    return {str(i): array for i, array in enumerate(joined)}


def _owners(variables: Sequence[Any]) -> Iterator[int]:
    """Yields for each weight of version 0.1.0 the position of its variable."""

    def layer_of(i: int) -> int:
        # Other variables are weights by themselves, and -i is the id of no object.
        return id(variables[i].layer) if hasattr(variables[i], "layer") else -i

    for _, run in groupby(range(len(variables)), layer_of):
        places = [
            (place, i) for i in run for place in getattr(variables[i], "places", [0])
        ]
        yield from (i for _, i in sorted(places))
