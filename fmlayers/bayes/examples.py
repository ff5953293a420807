"""Passes over the examples: sums over each key, and the residuals.

The examples are read in slices, so that the memory of a pass does not grow with their
number. For the sums over the keys of a block, they are sorted by key and padded to
chunks of the examples of one key, each of which is one small product of matrices.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from fmlayers._backend import compiled, sum_spans
from fmlayers._types import Tensor
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.designs import Floats, Ids
from fmlayers.bayes.priors import Matrix

CHUNK = 64  # examples of one key
SLICE = 2048  # chunks
# A block's constants `(keys, 1)` and vectors `(keys, dim)`.
Part = tuple[Tensor, Tensor]


class Examples:
    """The examples, as all chains read them.

    Args:
        blocks: The blocks.
        weights: Floats `(examples,)`.
    """

    def __init__(self, blocks: Sequence[Block], weights: Matrix) -> None:
        self.blocks, self.weights = blocks, weights
        self.count = len(weights)
        # An additional example with the weight 0 pads the chunks.
        self._roots = _padded(np.sqrt(weights))
        self._lookups = [_lookup(block) for block in blocks]
        self._orders = [
            None if block.keys is None else _Chunks(block.keys, block.num_keys)
            for block in blocks
        ]
        self._starts = range(0, self.count + 1, CHUNK * SLICE)
        self._chunk_sums = compiled(_chunk_sums)
        self._row_sums = compiled(_row_sums)
        self._changes = compiled(_changes)
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
        others = [j for j in range(len(parts)) if j != i]
        padded = [_padded(x) for x in noise]
        sums = [
            self._chunk_sums(
                ops.convert_to_tensor(rows),
                ops.convert_to_tensor(owners),
                ops.convert_to_tensor(local),
                self._roots,
                residuals,
                parts[i],
                [self._lookups[j] for j in others],
                [parts[j] for j in others],
                padded,
            )[:used]
            for rows, owners, local, used in chunks.slices
        ]
        total = sums[0] if len(sums) == 1 else ops.concatenate(sums)
        if len(sums) > 1:
            keys = ops.convert_to_tensor(chunks.keys_of_sums)
            total = sum_spans(total, keys, chunks.num_keys)
        width = int(parts[i][1].shape[1]) + 1
        return (
            total[:, :width, :width],
            total[:, :width, width],
            [total[:, :width, width + 1 + j] for j in range(len(noise))],
        )

    def row_sums(
        self, i: int, parts: Sequence[Part], residuals: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the sums of h h' and h r for a block without keys.

        h is the Kronecker product of the row of the design and q; see `key_sums`.
        """
        others = [j for j in range(len(parts)) if j != i]
        sums = [
            self._row_sums(
                self._roots[rows],
                residuals[rows],
                self._lookups[i][rows],
                parts[i],
                [self._lookups[j][rows] for j in others],
                [parts[j] for j in others],
            )
            for rows in self._slices()
        ]
        total = sums[0]
        for each in sums[1:]:
            total = total + each
        return total[:-1, :-1], total[:-1, -1]

    def changed_residuals(
        self, i: int, parts: Sequence[Part], new: Part, residuals: Tensor
    ) -> Tensor:
        """Returns the residuals after block i changes to the part `new`."""
        others = [j for j in range(len(parts)) if j != i]
        changed = [
            self._changes(
                residuals[rows],
                self._lookups[i][rows],
                parts[i],
                new,
                [self._lookups[j][rows] for j in others],
                [parts[j] for j in others],
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

    def _slices(self) -> list[slice]:
        return [slice(start, start + CHUNK * SLICE) for start in self._starts]


class _Chunks:
    """The examples in the order of their keys, in chunks and slices of chunks."""

    def __init__(self, keys: Ids, num_keys: int) -> None:
        self.num_keys = num_keys
        counts = np.bincount(keys, minlength=num_keys)
        chunks = np.maximum(-(-counts // CHUNK), 1)
        owners = np.repeat(np.arange(num_keys), chunks)
        first = np.cumsum(chunks) - chunks
        order = np.argsort(keys, kind="stable")
        place = np.arange(len(keys)) - (np.cumsum(counts) - counts)[keys[order]]
        rows = np.full((len(owners), CHUNK), len(keys), np.int32)
        rows[first[keys[order]] + place // CHUNK, place % CHUNK] = order
        size = min(SLICE, len(owners))
        self.slices: list[tuple[Any, Any, Any, int]] = []
        found = []
        for start in range(0, len(owners), size):
            owner, row = owners[start : start + size], rows[start : start + size]
            spare = size - len(owner)
            owner = np.pad(owner, (0, spare), mode="edge")
            row = np.pad(row, ((0, spare), (0, 0)), constant_values=len(keys))
            local = owner - owner[0]
            used = int(local[-1]) + 1
            found.append(owner[0] + np.arange(used))
            self.slices.append(
                (row, owner.astype(np.int32), local.astype(np.int32), used)
            )
        self.keys_of_sums = np.concatenate(found).astype(np.int32)


def _lookup(block: Block) -> Tensor:
    """Returns the keys `(examples + 1,)`, or the dense design of a block without."""
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


def _chunk_sums(
    rows: Tensor,
    owners: Tensor,
    local: Tensor,
    roots: Tensor,
    residuals: Tensor,
    part: Part,
    lookups: Sequence[Tensor],
    others: Sequence[Part],
    noise: Sequence[Tensor],
) -> Tensor:
    """Returns the sums of z z' of each key, where z = (1, o, residual, noise)."""
    constants, vectors = (ops.take(x, owners, axis=0) for x in part)
    vectors = ops.expand_dims(vectors, 1)  # (chunks, 1, dim)
    flat = ops.reshape(rows, (-1,))
    near = [ops.take(x, flat, axis=0) for x in lookups]
    dim = part[1].shape[1]
    like = ops.zeros((rows.shape[0] * rows.shape[1], dim), "float32")
    o = ops.reshape(_sum_of(near, others, like), (*rows.shape, dim))
    residual = ops.take(residuals, rows, axis=0) + constants
    residual = residual + ops.sum(vectors * o, axis=2)
    columns = [ops.ones_like(o[..., :1]), o, ops.expand_dims(residual, 2)]
    z = ops.concatenate(columns, axis=2)
    root = ops.expand_dims(ops.take(roots, rows, axis=0), 2)
    z = z * root
    if noise:
        drawn = ops.stack([ops.take(x, rows, axis=0) for x in noise], axis=2)
        z = ops.concatenate([z, drawn], axis=2)
    grams = ops.matmul(ops.transpose(z, (0, 2, 1)), z)
    return ops.segment_sum(grams, local, rows.shape[0])


def _row_sums(
    roots: Tensor,
    residuals: Tensor,
    lookup: Tensor,
    part: Part,
    lookups: Sequence[Tensor],
    others: Sequence[Part],
) -> Tensor:
    constants, vectors = _at(lookup, part)
    o = _sum_of(lookups, others, vectors)
    residual = residuals + constants[:, 0] + ops.sum(vectors * o, axis=1)
    q = ops.concatenate([ops.ones_like(o[:, :1]), o], axis=1)
    h = ops.expand_dims(lookup, 2) * ops.expand_dims(q, 1)
    h = ops.reshape(h, (-1, lookup.shape[1] * q.shape[1]))
    z = ops.concatenate([h, ops.expand_dims(residual, 1)], axis=1)
    z = z * ops.expand_dims(roots, 1)
    return ops.matmul(ops.transpose(z), z)


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
