"""Histories that exclude the value of each example, with a design row per example.

The row of an example is the row of its key without the entry of the example's value.
Neither this design nor the sums over its rows fit in memory. The products with the
design are computed from those of the keys, and the sums from the examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._types import Tensor
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.designs import Design, Floats, Ids
from fmlayers.bayes.products import Products
from fmlayers.features import Feature, History

# The divisor of each combiner is this power of the number of values.
POWERS = {"sum": 0.0, "sqrtn": 0.5, "mean": 1.0}


@dataclass(frozen=True, eq=False)
class DesignWithoutOwn:
    """A design F (K L - O), whose rows are examples.

    Attributes:
        keys: K, with a 1 at the key of each example.
        lists: L, with a 1 at each value of a key.
        own: O, with a 1 at the value of the example if the list of its key contains it.
        factors: Floats `(examples,)`, the diagonal of F: the factors of the combiner.
    """

    keys: Design
    lists: Design
    own: Design
    factors: Floats

    is_one_hot = False

    @classmethod
    def of(cls, feature: History, design: Design, index: Ids, own: Ids) -> Self:
        """Returns the design of a history.

        Args:
            feature: The `History`.
            design: The design over the keys.
            index: Integers `(examples,)`, the position of the key of each example.
            own: Integers `(examples,)`, the value of each example.
        """
        count = len(index)
        lists = replace(design, values=np.ones_like(design.values))
        cells = design.owners * design.num_columns + design.columns
        owners = np.flatnonzero(np.isin(index * design.num_columns + own, cells))
        lengths = np.bincount(design.owners, minlength=design.num_rows)[index]
        lengths[owners] -= 1
        factors = np.zeros(count, np.float32)
        rest = np.flatnonzero(lengths)
        factors[rest] = lengths[rest] ** -POWERS[feature.combiner]
        return cls(
            _one_hot(np.arange(count), index, count, design.num_rows),
            lists,
            _one_hot(owners, own[owners], count, design.num_columns),
            factors,
        )

    @property
    def num_rows(self) -> int:
        return len(self.factors)

    @property
    def num_columns(self) -> int:
        return self.lists.num_columns

    @property
    def unread(self) -> npt.NDArray[np.bool_]:
        """Booleans `(columns,)`, whether a column has no entries."""
        return self.lists.unread


def _one_hot(owners: Ids, columns: Ids, rows: int, num_columns: int) -> Design:
    return Design(owners, columns, np.ones(len(owners), np.float32), rows, num_columns)


class ProductsWithoutOwn(NamedTuple):
    """The products of a `DesignWithoutOwn` with matrices; see `Products`.

    Attributes:
        factors: Tensor `(examples, 1)`.
        keys: The products of K.
        lists: The products of L.
        own: The products of O.
        key_shape: Tensor `(keys, 0)`. An integer would not be static in a graph.
    """

    factors: Tensor
    keys: Products
    lists: Products
    own: Products
    key_shape: Tensor

    @classmethod
    def of(cls, design: DesignWithoutOwn) -> Self:
        """Returns the products of a design."""
        return cls(
            ops.convert_to_tensor(design.factors[:, np.newaxis]),
            Products.of(design.keys),
            Products.of(design.lists),
            Products.of(design.own),
            ops.zeros((design.lists.num_rows, 0)),
        )

    def forth(self, x: Tensor, rows: int) -> Tensor:
        """Returns the product with a tensor `(columns, n)`, as `(examples, n)`."""
        lists = self.lists.forth(x, self.key_shape.shape[0])
        return self.factors * (self.keys.forth(lists, rows) - self.own.forth(x, rows))

    def back(self, x: Tensor, columns: int) -> Tensor:
        """Returns the transposed product with a tensor `(examples, n)`."""
        return self._back(self.factors * x, columns)

    def back_squared(self, x: Tensor, columns: int) -> Tensor:
        """Same as `back`, with the squared entries of the design."""
        return self._back(self.factors**2 * x, columns)

    def _back(self, x: Tensor, columns: int) -> Tensor:
        sums = self.keys.back(x, self.key_shape.shape[0])
        return self.lists.back(sums, columns) - self.own.back(x, columns)


def split_blocks(
    blocks: Sequence[Block],
    features: Sequence[Feature],
    own_values: Mapping[str, Ids],
) -> list[Block]:
    """Returns the blocks, with each history in a separate block by example.

    Args:
        blocks: The blocks, in which histories belong to keys.
        features: List of features.
        own_values: Dict from the name of a `History` to the value of each example.
    """
    histories = {f.name: f for f in features if isinstance(f, History)}
    kept, split = [], []
    for block in blocks:
        rest = {n: x for n, x in block.designs.items() if n not in histories}
        if rest:
            kept.append(replace(block, designs=rest))
        for name in block.designs.keys() - rest.keys():
            assert block.keys is not None, "a history has a key"
            # A chain uses only the attributes that it shares with a `Design`.
            design: Any = DesignWithoutOwn.of(
                histories[name], block.designs[name], block.keys, own_values[name]
            )
            keys = np.arange(design.num_rows)
            split.append(Block(keys, {name: design}, name, by_example=True))
    return [*kept, *split]
