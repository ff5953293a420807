"""The sum over all pairs of fields, with an error that one large field does not raise.

Rendle's lemma, 1/2 [(sum_i x_i)^2 - sum_i x_i^2], subtracts squares: next to one large
field, the others are lost in rounding. Telescoped over the fields, with
S_j = x_1 + ... + x_j,

    S_j^2 - S_{j-1}^2 - x_j^2 = 2 x_j S_{j-1}

it becomes sum_j x_j S_{j-1}, at the same cost. Each term is a product of pairs, rounded
at most once per field. With the machine epsilon e,

    |error| <= fields / 2 * e * sum_{i<j} |x_i| |x_j|

The gradient of a field is the sum of the others. `S - x_i` cancels only if x_i is
larger than all others together. Two programs avoid that:

- With XLA, the largest field L and the sum R of the rest are kept apart. The gradient
  of L is R, that of any other field (R + L) - x_i.
- Without XLA, where each operation is a pass over memory, fewer operations are faster.
  The gradient is the sum of the fields before x_i plus the sum of those after it.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import keras
from keras import ops

from fmlayers._backend import unstack
from fmlayers._training.mode import uses_xla
from fmlayers._types import Tensor

# Fields in one loop of a compiled program. Loops of the gradient are shorter: XLA fuses
# a longer loop into each of the operations that read it, once per field.
BLOCK = 32
BLOCK_WITH_GRADIENT = 16


class Sums(NamedTuple):
    """Sums over fields, each `(batch, dim)`, or `(batch, blocks, dim)` per block.

    Attributes:
        pairs: The sum of the products of all pairs.
        total: The sum of the fields.
        largest: The field with the largest absolute value.
        rest: The sum of all fields but `largest`.
    """

    pairs: Tensor
    total: Tensor
    largest: Tensor
    rest: Tensor


def sum_of_pairs(vectors: Tensor, training: bool) -> Tensor:
    """Returns the sum of the products of all pairs of fields, `(batch, dim)`.

    Args:
        vectors: Floats `(batch, fields, dim)`.
        training: Whether a gradient follows. It selects the faster program; the
            numbers agree up to rounding.
    """
    fields = vectors.shape[1]
    if fields is None:
        before = ops.cumsum(vectors, axis=1)[:, :-1]
        return ops.sum(before * vectors[:, 1:], axis=1)
    if fields == 0:
        return ops.sum(vectors, axis=1)
    if fields == 1:  # zeros with a gradient
        return ops.where(False, vectors[:, 0], 0.0)
    if not training or keras.backend.backend() == "torch":
        return _in_one_call(_pairs, vectors)
    return _pairs_with_gradient(vectors)


def sum_of_others(vectors: Tensor) -> Tensor:
    """Returns, for each field, the sum of all others, `(batch, fields, dim)`.

    Args:
        vectors: Floats `(batch, fields, dim)`.
    """

    @ops.custom_gradient
    def others_of(x: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        def gradient(*args: Tensor, upstream: Tensor | None = None) -> Tensor:
            # Each field is in the sums of all others: the map is its own transpose.
            return sum_of_others(args[-1] if upstream is None else upstream)

        return _others(x, _sums_with_xla(x)), gradient

    others: Tensor = others_of(vectors)
    return others


def _pairs_with_gradient(vectors: Tensor) -> Tensor:
    @ops.custom_gradient
    def pairs_of(x: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        sums = _sums_with_xla(x)

        def gradient(*args: Tensor, upstream: Tensor | None = None) -> Tensor:
            upstream = args[-1] if upstream is None else upstream
            return ops.expand_dims(upstream, 1) * _others(x, sums)

        return (_in_one_call(_pairs, x) if sums is None else sums.pairs), gradient

    pairs: Tensor = pairs_of(vectors)
    return pairs


def _sums_with_xla(x: Tensor) -> Sums | None:
    return Sums(*_in_one_call(_sums, x)) if _by_xla() else None


def _others(x: Tensor, sums: Sums | None) -> Tensor:
    """Returns the sum of the other fields for each field, without XLA if no sums."""
    if sums is None:
        return _in_one_call(_others_in_turn, x)
    return _others_by_largest(x, sums)


def _others_in_turn(x: Tensor) -> Tensor:
    fields = unstack(x, axis=1)
    if len(fields) == 1:
        return ops.zeros_like(x)
    before = list(accumulate(fields[:-1], operator.add))
    after = list(accumulate(fields[:0:-1], operator.add))[::-1]
    inner = [one + other for one, other in zip(before, after[1:], strict=False)]
    return ops.stack([after[0], *inner, before[-1]], axis=1)


def _others_by_largest(x: Tensor, sums: Sums) -> Tensor:
    rest, largest = ops.expand_dims(sums.rest, 1), ops.expand_dims(sums.largest, 1)
    # Not `==`: a compiled program may compute x again and round it differently.
    is_largest = ops.abs(x - largest) <= 2.0**-22 * ops.abs(largest)
    return ops.where(is_largest, rest, (rest + largest) - x)


def _pairs(x: Tensor) -> Tensor:
    blocks, fields = _in_blocks(x, x.shape[1] // BLOCK if _by_xla() else 0, BLOCK)
    if not blocks:
        return _pairs_and_total(fields)[0]
    pairs, totals = _pairs_and_total(blocks)
    fields = [*unstack(totals, axis=1), *fields]
    return ops.sum(pairs, axis=1) + _pairs_and_total(fields)[0]


def _sums(x: Tensor) -> Sums:
    count = math.ceil(x.shape[1] / BLOCK_WITH_GRADIENT)
    if count == 1:
        return _sums_in_turn(unstack(x, axis=1))
    blocks, left = _in_blocks(x, count, x.shape[1] // count)
    of_blocks = _sums_in_turn(blocks)
    if left:
        of_left = _sums_in_turn(left)
        of_blocks = Sums(
            *(
                ops.concatenate([several, ops.expand_dims(one, 1)], axis=1)
                for several, one in zip(of_blocks, of_left, strict=True)
            )
        )
    return _sums_of_blocks(of_blocks)


def _pairs_and_total(fields: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    pairs, total = ops.zeros_like(fields[0]), fields[0]
    for x in fields[1:]:
        pairs, total = pairs + total * x, total + x
    return pairs, total


def _sums_in_turn(fields: Sequence[Tensor]) -> Sums:
    largest, rest = fields[0], ops.zeros_like(fields[0])
    for x in fields[1:]:
        is_larger = ops.abs(x) > ops.abs(largest)
        rest = rest + ops.where(is_larger, largest, x)
        largest = ops.where(is_larger, x, largest)
    return Sums(*_pairs_and_total(fields), largest, rest)


def _sums_of_blocks(blocks: Sums) -> Sums:
    """Returns the sums over all blocks, by reductions, which XLA computes once."""
    high = ops.max(blocks.largest, axis=1, keepdims=True)
    low = ops.min(blocks.largest, axis=1, keepdims=True)
    largest = ops.where(high >= -low, high, low)
    has_it = blocks.largest == largest
    rest = ops.where(has_it, blocks.rest, blocks.rest + blocks.largest)
    # If several blocks have the largest value, all but one add it to the rest.
    repeats = ops.sum(ops.cast(has_it, largest.dtype), axis=1) - 1.0
    largest = largest[:, 0]
    pairs, total = _pairs_and_total(unstack(blocks.total, axis=1))
    return Sums(
        pairs=ops.sum(blocks.pairs, axis=1) + pairs,
        total=total,
        largest=largest,
        rest=ops.sum(rest, axis=1) + repeats * largest,
    )


def _in_blocks(x: Tensor, count: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Splits the fields into `count` blocks of `size` fields, and the fields left.

    Returns:
        `size` tensors `(batch, count, dim)`, the first, second, ... field of each
        block, and a `(batch, dim)` tensor for each field left.
    """
    fields, whole = unstack(x[:, count * size :], axis=1), x[:, : count * size]
    if not count:
        return [], fields
    # With blocks of adjacent fields, XLA writes the concatenated vectors once. With
    # other blocks, it would compute them again at each use.
    return [whole[:, i::size] for i in range(size)], fields


def _by_xla() -> bool:
    return keras.backend.backend() == "jax" or uses_xla()


def _in_one_call(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """Calls a function of `(batch, fields, dim)`; in eager code, as one program.

    One operation at a time, the calls would cost ten times as much as the arithmetic.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return _compiled(function)(x)
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.executing_eagerly():
            return _graph(function, tuple(x.shape[1:]), x.dtype)(x)
    return function(x)


@cache
def _compiled(function: Callable[[Tensor], Any]) -> Any:
    import jax

    return jax.jit(function)


@cache
def _graph(function: Callable[[Tensor], Any], shape: Any, dtype: Any) -> Any:
    import tensorflow as tf

    spec = tf.TensorSpec((None, *shape), dtype)
    graph = tf.function(function, input_signature=[spec], autograph=False)
    return graph.get_concrete_function()
