from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from fmlayers._backend import compiled
from fmlayers._types import Tensor
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.conditionals import (
    MAX_DENSE,
    Sums,
    Terms,
    draw_by_gradients,
    draw_dense,
    draw_rows,
    draw_system,
    sums_of_columns,
)
from fmlayers.bayes.designs import Design, Floats
from fmlayers.bayes.examples import Part
from fmlayers.bayes.priors import Gaussian, Natural
from fmlayers.bayes.products import Products
from fmlayers.bayes.without_own import DesignWithoutOwn, ProductsWithoutOwn


class Draws:
    """Compiled draws of the tables of all fields, each by the fastest method.

    All chains share them.

    Args:
        blocks: The blocks.
        dim: Integer, the embedding dimension.
    """

    def __init__(self, blocks: Sequence[Block], dim: int) -> None:
        self.dim = dim
        self.blocks = blocks
        self.designs = {
            name: design for block in blocks for name, design in block.designs.items()
        }
        self.products = {
            name: _products_of(design) for name, design in self.designs.items()
        }
        self.by_gradients = {
            name
            for name, design in self.designs.items()
            if isinstance(design, DesignWithoutOwn)
            or not (design.is_one_hot or design.num_columns * (dim + 1) <= MAX_DENSE)
        }
        self._dense = {
            name: ops.convert_to_tensor(design.dense())
            for name, design in self.designs.items()
            if not design.is_one_hot and name not in self.by_gradients
        }
        # A function for each shape, since TensorFlow warns about many in one.
        self._draws = {
            name: compiled(_after_given(self._draw_of(name))) for name in self.designs
        }
        self._systems = {name: compiled(draw_system) for name in self.designs}
        self._fields = compiled(self._all_fields)
        self._parts = {tuple(block.designs): compiled(part_of) for block in blocks}

    def fields(self, tables: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the first-order weights and vectors of all keys, for each field."""
        fields: dict[str, Tensor] = self._fields(tables, self.products)
        return fields

    def _all_fields(
        self, tables: dict[str, Tensor], products: dict[str, Products]
    ) -> dict[str, Tensor]:
        return {
            name: products[name].forth(tables[name], design.num_rows)
            for name, design in self.designs.items()
        }

    def key_parts(self, tables: dict[str, Tensor]) -> dict[str, tuple[Floats, Floats]]:
        """Returns the part of each block of several fields, by the block's root."""
        fields = self.fields(tables)
        parts = {
            block.root: self.part_of({name: fields[name] for name in block.designs})
            for block in self.blocks
            if len(block.designs) > 1
        }
        return {
            root: (ops.convert_to_numpy(constants), ops.convert_to_numpy(vectors))
            for root, (constants, vectors) in parts.items()
        }

    def draw(
        self,
        name: str,
        table: Tensor,
        sums: Sums | Terms,
        rest: Sequence[Tensor],
        alpha: float,
        prior: Gaussian,
        noise: Floats,
    ) -> tuple[Tensor, Tensor]:
        """Draws the table of a field, given all other tables.

        Args:
            name: The name of the field.
            table: The table to start from.
            sums: The sums over the examples of each key of the block, or their terms
                if each example is a key.
            rest: The other fields of the block, `(keys, dim + 1)` each.
            alpha: Float, the precision of the errors.
            prior: The prior of the rows.
            noise: Standard normal noise of the shape of the table.

        Returns:
            The drawn table, and the field of the keys.
        """
        arguments = [sums, list(rest), *_arguments(alpha, prior, noise)]
        if name in self.by_gradients:
            arguments.append(table)
        elif name in self._dense:
            arguments.append(self._dense[name])
        drawn: tuple[Tensor, Tensor] = self._draws[name](
            self.products[name], *arguments
        )
        return drawn

    def _draw_of(self, name: str) -> Callable[..., Tensor]:
        if name in self.by_gradients:
            return _large
        return _small if name in self._dense else _rows

    def part_of(self, fields: Mapping[str, Tensor]) -> Part:
        """Returns the part of a block, given all its fields, `(keys, dim + 1)` each."""
        part: Part = self._parts[tuple(fields)](list(fields.values()))
        return part

    def draw_system(
        self,
        name: str,
        squares: Tensor,
        products: Tensor,
        alpha: float,
        prior: Gaussian,
        noise: Floats,
    ) -> Tensor:
        """Draws a small table from one system; see `conditionals.draw_system`."""
        table, _ = self._systems[name](
            squares, products, *_arguments(alpha, prior, noise)
        )
        return table


def part_of(fields: Sequence[Tensor]) -> Part:
    """Returns the part of some fields of a block together.

    Args:
        fields: List of tensors `(keys, dim + 1)`.
    """
    total = fields[0]
    for field in fields[1:]:
        total = total + field
    constants, vectors = total[:, :1], total[:, 1:]
    if len(fields) > 1:
        squares = sum(ops.sum(x[:, 1:] ** 2, axis=1, keepdims=True) for x in fields)
        pairs = ops.sum(vectors**2, axis=1, keepdims=True) - squares
        constants = constants + 0.5 * pairs
    return constants, vectors


def _products_of(design: Design | DesignWithoutOwn) -> Products | ProductsWithoutOwn:
    if isinstance(design, DesignWithoutOwn):
        return ProductsWithoutOwn.of(design)
    return Products.of(design)


def _after_given(draw: Callable[..., Tensor]) -> Callable[..., Any]:
    """Returns a draw that reads the block's other fields, and returns the field."""

    def function(
        z: Products, sums: Sums, rest: Sequence[Tensor], *arguments: Any
    ) -> tuple[Tensor, Tensor]:
        keys = sums.products.shape[0]
        table = draw(z, sums.given(*part_of(rest)) if rest else sums, *arguments)
        return table, z.forth(table, keys)

    return function


def _rows(
    z: Products, sums: Sums, alpha: Tensor, prior: Natural, noise: Tensor
) -> Tensor:
    sums = sums_of_columns(sums, z, noise.shape[0])
    return draw_rows(sums, alpha, prior, noise)[0]


def _small(
    z: Products,
    sums: Sums,
    alpha: Tensor,
    prior: Natural,
    noise: Tensor,
    dense: Tensor,
) -> Tensor:
    return draw_dense(sums, dense, alpha, prior, noise)[0]


def _large(
    z: Products,
    sums: Sums,
    alpha: Tensor,
    prior: Natural,
    noise: Tensor,
    start: Tensor,
) -> Tensor:
    return draw_by_gradients(start, sums, z, alpha, prior, noise)[0]


def _arguments(
    alpha: float, prior: Gaussian, noise: Floats
) -> tuple[Tensor, Natural, Tensor]:
    natural = Natural(*map(ops.convert_to_tensor, prior.natural))
    tensors = (ops.convert_to_tensor(np.float32(x)) for x in (alpha, noise))
    return next(tensors), natural, next(tensors)
