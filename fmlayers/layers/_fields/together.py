from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

from keras import ops

from fmlayers._types import Tensor
from fmlayers.layers._fields.field import Field


def embed(
    fields: Sequence[Field[Any]], inputs: Mapping[str, Tensor], with_norms: bool
) -> tuple[Tensor, list[Any]]:
    """Returns the vectors and squared norms of fields, as `Field.embed_all` does.

    Fields of one class with the same source are embedded together.
    """
    groups: dict[Hashable, list[Field[Any]]] = {}
    for field in fields:
        groups.setdefault(_key(field), []).append(field)
    embedded = {
        key: type(group[0]).embed_all(group, inputs, with_norms)
        for key, group in groups.items()
    }
    pieces: list[Tensor] = []
    norms: list[Any] = []
    starts = dict.fromkeys(groups, 0)
    for key, run in groupby(fields, _key):
        start, stop = starts[key], starts[key] + len(list(run))
        starts[key] = stop
        vectors, means = embedded[key]
        is_whole = stop - start == len(groups[key])
        pieces.append(vectors if is_whole else vectors[:, start:stop])
        norms += means[start:stop]
    vectors = pieces[0] if len(pieces) == 1 else ops.concatenate(pieces, axis=1)
    return vectors, norms


def _key(field: Field[Any]) -> Hashable:
    """Returns an equal key for the fields that are embedded together."""
    return type(field), id(field) if field.source is None else field.source
