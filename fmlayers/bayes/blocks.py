"""Relation blocks: the fields that are functions of one key, such as the user.

All examples of a key share the vectors of the block's fields. The sampler therefore
draws each of these fields from sums over the examples of each key, which it computes in
one pass over the examples.

References:
    Rendle, S. (2013). Scaling Factorization Machines to Relational Data. VLDB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fmlayers.bayes.designs import Design, Field, Ids
from fmlayers.features import Categorical, Feature, Numeric, Vector

# Keys with fewer examples on average save no work.
MIN_EXAMPLES_PER_KEY = 2.0


@dataclass(frozen=True, eq=False)
class Block:
    """The designs of some fields over the distinct keys of the examples.

    Attributes:
        keys: Integers `(examples,)`, the position of the key of each example. `None`
            if the block has no keys, and each example has a separate row.
        designs: Dict from the name of each field to its design over the keys.
        root: String, the name of the field that all others are functions of.
        by_example: Boolean, whether each example is a separate key.
    """

    keys: Ids | None
    designs: Mapping[str, Design]
    root: str
    by_example: bool = False

    @property
    def num_keys(self) -> int:
        return next(iter(self.designs.values())).num_rows

    @property
    def counts(self) -> Ids:
        """The number of examples of each key, or 1 for each row without keys."""
        if self.keys is None:
            return np.ones(self.num_keys, np.int64)
        return np.bincount(self.keys, minlength=self.num_keys)

    @property
    def ids_of_keys(self) -> Ids:
        """The id of each key of a `Categorical`, 0 for a missing one."""
        design = self.designs[self.root]
        ids = np.zeros(self.num_keys, np.int64)
        ids[design.owners] = design.columns
        return ids

    def state(self) -> dict[str, Any]:
        """Returns the fields of the keys, without the examples, for a file.

        The rows of a single field are left out, since nothing reads them.
        """
        designs = self.designs
        if len(designs) == 1:
            none = np.zeros(0, np.int64)
            designs = {name: design.rows(none) for name, design in designs.items()}
        states = {name: design.state() for name, design in designs.items()}
        return {"root": self.root, "designs": states}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns the block of a state, without examples."""
        designs = {name: Design(**x) for name, x in state["designs"].items()}
        return cls(None, designs, state["root"])


def find_blocks(
    features: Sequence[Feature], fields: Mapping[str, Field]
) -> list[Block]:
    """Returns the blocks of fields, detected in the examples.

    A field belongs to the block of a `Categorical` if it is a function of it. If there
    are several, the one with the fewest values is chosen. Each other field is a block
    whose keys are its distinct values, except numbers and vectors that are nearly all
    distinct.

    Args:
        features: List of features.
        fields: Dict from the name of a feature to its field over the examples.

    Returns:
        A list of blocks, in the order of the features of their keys.
    """
    key_of = {feature.name: _key_of(feature, features, fields) for feature in features}
    members: dict[str, list[str]] = {}
    for name in key_of:
        members.setdefault(_root(name, key_of), []).append(name)
    blocks = []
    for root, names in members.items():
        key = fields[root]
        feature = next(feature for feature in features if feature.name == root)
        if isinstance(feature, Numeric | Vector) and not _is_shared(key):
            design = key.design.rows(key.index)
            blocks.append(Block(None, {root: design}, root))
            continue
        designs = {
            name: fields[name].design.rows(fields[name].index[key.first])
            for name in names
        }
        blocks.append(Block(key.index, designs, root))
    return blocks


def _is_shared(field: Field) -> bool:
    return len(field.index) >= MIN_EXAMPLES_PER_KEY * field.design.num_rows


def _key_of(
    feature: Feature, features: Sequence[Feature], fields: Mapping[str, Field]
) -> str | None:
    """Returns the name of the `Categorical` that a field is a function of, if any."""
    field = fields[feature.name]
    keys = [
        (fields[key.name].design.num_rows, order, key.name)
        for order, key in enumerate(features)
        if isinstance(key, Categorical) and _is_shared(fields[key.name])
    ]
    position = [other.name for other in features].index(feature.name)
    for size, order, name in sorted(keys):
        # Of two that determine each other, the first is the key.
        is_later = not isinstance(feature, Categorical) or (
            size > field.design.num_rows or order < position
        )
        if is_later and name != feature.name and field.is_function_of(fields[name]):
            return name
    return None


def _root(name: str, key_of: Mapping[str, str | None]) -> str:
    while (key := key_of[name]) is not None:
        name = key
    return name
