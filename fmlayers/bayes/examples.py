"""Passes over the examples: sums over each key, and the residuals.

The examples are read in slices, so that the memory of a pass does not grow with their
number. For the sums over the keys of a block, they are sorted by key and padded to
chunks of the examples of one key, each of which is one small product of matrices.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import compiled, sum_spans
from fmlayers._types import Tensor
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.conditionals import Terms
from fmlayers.bayes.designs import Floats
from fmlayers.bayes.priors import Matrix

CHUNK = 32  # examples of one key
SLICE = 4096  # chunks, at most
# A block's constants `(keys, 1)` and vectors `(keys, dim)`.
Part = tuple[Tensor, Tensor]


class Examples:
    """The examples, shared by all chains.

    Args:
        blocks: The blocks.
        weights: Floats `(examples,)`.
    """

    def __init__(self, blocks: Sequence[Block], weights: Matrix) -> None:
        self.blocks, self.weights = blocks, weights
        self.count = len(weights)
        self._roots = _padded(np.sqrt(weights))
        self._lookups = [_lookup(block) for block in blocks]
        self._orders = [
            None
            if block.keys is None or block.by_example
            else _Chunks(block, blocks, weights)
            for block in blocks
        ]
        self._starts = range(0, self.count + 1, CHUNK * SLICE)
        # A function for each block, since TensorFlow warns about many shapes in one.
        self._chunk_sums = [compiled(_chunk_sums) for _ in blocks]
        self._row_sums = [compiled(_row_sums) for _ in blocks]
        self._terms = [compiled(_q_and_residuals) for _ in blocks]
        self._changes = [compiled(_changes) for _ in blocks]
        self._scores = compiled(_scores)

    def key_sums(
        self, i: int, parts: Sequence[Part], residuals: Tensor, noise: Sequence[Floats]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns sums over the examples of each key of block i.

        With q = (1, o), where o is the sum of the vectors of the other blocks at an
        example, and r its residual without block i, they are the sums of q q', of q r,
        and of q times each noise.

        Args:
            i: Integer.
            parts: The part of each block.
            residuals: Tensor `(examples + 1,)`.
            noise: Arrays `(examples,)`, standard normal.
        """
        chunks = self._orders[i]
        assert chunks is not None
        nothing: Part = tuple(ops.zeros_like(x[:1]) for x in parts[i])
        others = [part for j, part in enumerate(parts) if j != i] or [nothing]
        columns = ops.stack([residuals, *map(_padded, noise)], axis=1)
        sums = [
            self._chunk_sums[i](piece, columns, others)[:used]
            for piece, used in chunks.slices
        ]
        total = sums[0] if len(sums) == 1 else ops.concatenate(sums)
        if len(sums) > 1:
            keys = ops.convert_to_tensor(chunks.keys_of_sums)
            total = sum_spans(total, keys, chunks.num_keys)
        part = ops.concatenate(parts[i], axis=1)
        width = part.shape[1]
        squares = total[:, :, :width]
        # The residuals without block i are those with it plus <part, q>.
        explained = ops.squeeze(ops.matmul(squares, ops.expand_dims(part, 2)), 2)
        products = total[:, :, width] + explained
        return (
            squares,
            products,
            [total[:, :, j] for j in range(width + 1, total.shape[2])],
        )

    def row_sums(
        self, i: int, parts: Sequence[Part], residuals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the sums of h h' and h r for a block without keys.

        h is the Kronecker product of the row of the design and q; see `key_sums`.
        """
        sums = [
            self._row_sums[i](
                self._roots[rows],
                residuals[rows],
                self._lookups[i][rows],
                parts[i],
                *self._others(i, parts, rows),
            )
            for rows in self._slices()
        ]
        total = sums[0]
        for each in sums[1:]:
            total = total + each
        return total[:-1, :-1], total[:-1, -1]

    def terms(
        self, i: int, parts: Sequence[Part], residuals: Tensor, noise: Floats
    ) -> Terms:
        """Returns the terms of the sums for a block in which each example is a key.

        Args:
            i: Integer, the position of the block.
            parts: The part of each block.
            residuals: Tensor `(examples + 1,)`.
            noise: Array `(examples,)`, standard normal.
        """
        pieces = [
            self._terms[i](
                residuals[rows],
                self._lookups[i][rows],
                parts[i],
                *self._others(i, parts, rows),
            )
            for rows in self._slices()
        ]
        q, residual = (
            ops.concatenate(x)[: self.count] for x in zip(*pieces, strict=True)
        )
        columns = (self.weights, noise)
        weights, errors = (
            ops.convert_to_tensor(x[:, np.newaxis], "float32") for x in columns
        )
        return Terms(q, weights, ops.expand_dims(residual, 1), errors)

    def changed_residuals(
        self, i: int, parts: Sequence[Part], new: Part, residuals: Tensor
    ) -> Tensor:
        """Returns the residuals after block i changes to the part `new`."""
        changed = [
            self._changes[i](
                residuals[rows],
                self._lookups[i][rows],
                parts[i],
                new,
                *self._others(i, parts, rows),
            )
            for rows in self._slices()
        ]
        return changed[0] if len(changed) == 1 else ops.concatenate(changed)

    def scores(self, parts: Sequence[Part]) -> Tensor:
        """Returns the scores without the bias, `(examples + 1,)`."""
        scores = [
            self._scores([x[rows] for x in self._lookups], list(parts))
            for rows in self._slices()
        ]
        return scores[0] if len(scores) == 1 else ops.concatenate(scores)

    def _others(
        self, i: int, parts: Sequence[Part], rows: slice
    ) -> tuple[list[Tensor], list[Part]]:
        """Returns the lookups of some examples and the parts, without block i."""
        others = [j for j in range(len(parts)) if j != i]
        return [self._lookups[j][rows] for j in others], [parts[j] for j in others]

    def _slices(self) -> list[slice]:
        return [slice(start, start + CHUNK * SLICE) for start in self._starts]


class _Slice(NamedTuple):
    """Chunks of examples.

    Attributes:
        rows: Tensor `(chunks, CHUNK)`, the examples. Those that pad a chunk are the
            number of examples.
        owners: Tensor `(chunks,)`, the keys, less the first one.
        near: The lookups of the other blocks at the rows.
        weights: Optional tensor `(chunks, CHUNK, 1)`, if not all are 1.
    """

    rows: Tensor
    owners: Tensor
    near: Sequence[Tensor]
    weights: Tensor | None


class _Chunks:
    """The examples in the order of their keys, in chunks and slices of chunks."""

    def __init__(self, block: Block, blocks: Sequence[Block], weights: Matrix) -> None:
        keys, self.num_keys = block.keys, block.num_keys
        assert keys is not None
        counts = np.bincount(keys, minlength=self.num_keys)
        chunks = np.maximum(-(-counts // CHUNK), 1)
        owners = np.repeat(np.arange(self.num_keys), chunks)
        first = np.cumsum(chunks) - chunks
        order = np.argsort(keys, kind="stable")
        place = np.arange(len(keys)) - (np.cumsum(counts) - counts)[keys[order]]
        rows = np.full((len(owners), CHUNK), len(keys), np.int32)
        rows[first[keys[order]] + place // CHUNK, place % CHUNK] = order
        size = -(-len(owners) // -(-len(owners) // SLICE))
        others = [_near(each) for each in blocks if each is not block]
        others = others or [np.append(np.zeros(len(keys), np.int32), 1)]
        weighs = (weights != 1.0).any()
        weights = np.append(weights, 0.0)
        self.slices: list[tuple[_Slice, int]] = []
        keys_of_sums = []
        for start in range(0, len(owners), size):
            owner, row = owners[start : start + size], rows[start : start + size]
            spare = size - len(owner)
            owner = np.pad(owner, (0, spare), mode="edge")
            row = np.pad(row, ((0, spare), (0, 0)), constant_values=len(keys))
            local = owner - owner[0]
            used = int(local[-1]) + 1
            keys_of_sums.append(owner[0] + np.arange(used))
            piece = _Slice(
                ops.convert_to_tensor(row, "int32"),
                ops.convert_to_tensor(local, "int32"),
                [ops.convert_to_tensor(x[row.ravel()]) for x in others],
                ops.convert_to_tensor(weights[row][..., np.newaxis], "float32")
                if weighs
                else None,
            )
            self.slices.append((piece, used))
        self.keys_of_sums = np.concatenate(keys_of_sums).astype(np.int32)


def _near(block: Block) -> npt.NDArray[Any]:
    """Returns the keys, or the dense design with 1, of the examples and of a padding.

    A padding reads an additional row of zeros; see `_with_one`.
    """
    if block.keys is not None:
        return np.append(block.keys, block.num_keys).astype(np.int32)
    (design,) = block.designs.values()
    near = np.pad(design.dense(), ((0, 1), (0, 1)))
    near[:-1, -1] = 1.0
    return near


def _lookup(block: Block) -> Tensor:
    """Returns the keys `(examples + 1,)`, or else the dense design of the block."""
    if block.keys is not None:
        return ops.convert_to_tensor(np.append(block.keys, 0), "int32")
    (design,) = block.designs.values()
    return _padded(design.dense())


def _padded(x: Any) -> Tensor:
    spare = [(0, 1)] + [(0, 0)] * (x.ndim - 1)
    return ops.convert_to_tensor(np.pad(x, spare), "float32")


def _at(lookup: Tensor, part: Part) -> Part:
    """Returns the constants and vectors of examples."""
    if lookup.dtype != part[0].dtype:
        return ops.take(part[0], lookup, axis=0), ops.take(part[1], lookup, axis=0)
    return ops.matmul(lookup, part[0]), ops.matmul(lookup, part[1])


def _sum_of(lookups: Sequence[Tensor], parts: Sequence[Part], like: Tensor) -> Tensor:
    total = ops.zeros_like(like)
    for lookup, part in zip(lookups, parts, strict=True):
        total = total + _at(lookup, part)[1]
    return total


def _chunk_sums(piece: _Slice, columns: Tensor, others: Sequence[Part]) -> Tensor:
    """Returns the sums of q q' and of q times each column, of each key."""
    q = _with_one(piece.near[0], others[0], 1.0)
    for near, part in zip(piece.near[1:], others[1:], strict=True):
        q = q + _with_one(near, part, 0.0)
    q = ops.reshape(q, (*piece.rows.shape, q.shape[1]))
    turned, column = ops.transpose(q, (0, 2, 1)), ops.take(columns, piece.rows, axis=0)
    if piece.weights is not None:
        q = q * piece.weights
        roots = ops.sqrt(piece.weights)
        column = ops.concatenate(
            [column[..., :1] * piece.weights, column[..., 1:] * roots], axis=2
        )
    sums = ops.concatenate([ops.matmul(turned, q), ops.matmul(turned, column)], axis=2)
    return sum_spans(sums, piece.owners, piece.owners.shape[0])


def _with_one(near: Tensor, part: Part, one: float) -> Tensor:
    """Returns `one` and the vectors of a block at the rows of `near`."""
    vectors = part[1]
    if near.dtype == vectors.dtype:
        table = ops.pad(vectors, [(0, 1), (1, 0)])
        last = ops.one_hot(0, table.shape[1], dtype="float32") * one
        table = ops.concatenate([table[:-1], ops.expand_dims(last, 0)])
        return ops.matmul(near, table)
    ones = ops.full((vectors.shape[0], 1), one, "float32")
    table = ops.concatenate([ones, vectors], axis=1)
    return ops.take(ops.pad(table, [(0, 1), (0, 0)]), near, axis=0)


def _row_sums(
    roots: Tensor,
    residuals: Tensor,
    lookup: Tensor,
    part: Part,
    lookups: Sequence[Tensor],
    others: Sequence[Part],
) -> Tensor:
    q, residual = _q_and_residuals(residuals, lookup, part, lookups, others)
    h = ops.expand_dims(lookup, 2) * ops.expand_dims(q, 1)
    h = ops.reshape(h, (-1, lookup.shape[1] * q.shape[1]))
    z = ops.concatenate([h, ops.expand_dims(residual, 1)], axis=1)
    z = z * ops.expand_dims(roots, 1)
    return ops.matmul(ops.transpose(z), z)


def _q_and_residuals(
    residuals: Tensor,
    lookup: Tensor,
    part: Part,
    lookups: Sequence[Tensor],
    others: Sequence[Part],
) -> tuple[Tensor, Tensor]:
    """Returns q and the residual without a block, for each example."""
    constants, vectors = _at(lookup, part)
    o = _sum_of(lookups, others, vectors)
    residual = residuals + constants[:, 0] + ops.sum(vectors * o, axis=1)
    return ops.concatenate([ops.ones_like(o[:, :1]), o], axis=1), residual


def _changes(
    residuals: Tensor,
    lookup: Tensor,
    old: Part,
    new: Part,
    lookups: Sequence[Tensor],
    others: Sequence[Part],
) -> Tensor:
    change = (old[0] - new[0], old[1] - new[1])
    constants, vectors = _at(lookup, change)
    o = _sum_of(lookups, others, vectors)
    return residuals + constants[:, 0] + ops.sum(vectors * o, axis=1)


def _scores(lookups: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    scores, total, squares = 0.0, 0.0, 0.0
    for lookup, part in zip(lookups, parts, strict=True):
        constants, vectors = _at(lookup, part)
        scores = scores + constants[:, 0]
        total = total + vectors
        squares = squares + ops.sum(vectors**2, axis=1)
    return scores + 0.5 * (ops.sum(total**2, axis=1) - squares)
