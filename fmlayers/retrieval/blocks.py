"""The top k of many scores, computed in blocks of items."""

import keras
from keras import ops

from fmlayers._types import Tensor

Best = tuple[Tensor, Tensor]  # scores and positions, each (batch, k), the best first


def nothing(like: Tensor, k: int | Tensor) -> Best:
    """Returns k empty ranks (score -inf, position -1) per row of `like` (batch, 1)."""
    # By broadcasting, so that k stays static in a graph with an unknown batch size.
    scores = ops.zeros_like(like) + ops.full((1, k), float("-inf"), dtype=like.dtype)
    positions = ops.zeros_like(like, dtype="int32") + ops.full((1, k), -1, "int32")
    return scores, positions


def merge(best: Best, scores: Tensor, start: Tensor, exclude: Tensor | None) -> Best:
    """Merges the top k of the previous blocks with the scores of the next block.

    k is the number of ranks of `best`. In a TensorFlow graph it may be dynamic.

    Args:
        best: The top k of all previous blocks.
        scores: Scores of shape `(batch, size + 1)`, -inf for items that must not be
            returned. The last column belongs to no item and is -inf.
        start: Position of the first item of the block.
        exclude: Optional positions `(batch, length)` that must not be returned. They
            may be outside of the block and of the catalog.

    Returns:
        The top k of all blocks so far.
    """
    k, size = ops.shape(best[0])[1], scores.shape[1] - 1
    if exclude is not None:
        inside = ops.logical_and(exclude >= start, exclude < start + size)
        # Positions outside of the block are mapped to the last column.
        columns = ops.where(inside, exclude - start, size)
        rows = ops.expand_dims(ops.arange(ops.shape(exclude)[0], dtype="int32"), 1)
        rows = ops.broadcast_to(rows, ops.shape(columns))
        places = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
        excluded = ops.zeros_like(places[:, 0], dtype=scores.dtype) - float("inf")
        scores = ops.scatter_update(scores, places, excluded)
    count = min(k, size) if isinstance(k, int) else ops.minimum(k, size)
    block_scores, block = top_k(scores, count)
    block = ops.where(block_scores == float("-inf"), -1, block + start)
    # Previous blocks come first: of equal scores, the lower position wins.
    merged = ops.concatenate([best[0], block_scores], axis=1)
    positions = ops.concatenate([best[1], block], axis=1)
    merged, order = top_k(merged, k)
    return merged, ops.take_along_axis(positions, order, axis=1)


def top_k(scores: Tensor, k: int | Tensor) -> Best:
    """Returns the k highest scores per row; of equal ones (except -inf), the first."""
    values, indices = ops.top_k(scores, k)
    if keras.backend.backend() != "torch":
        return values, ops.cast(indices, "int32")
    # PyTorch does not specify which of equal scores it returns, nor their order.
    last = values[:, -1:]
    contenders = ops.sum(ops.cast(scores >= last, "int32"), axis=1, keepdims=True)
    if ops.any(ops.logical_and(contenders > k, last > float("-inf"))):
        above, tied = scores > last, scores == last
        left = k - ops.sum(ops.cast(above, "int32"), axis=1, keepdims=True)
        first = ops.cumsum(ops.cast(tied, "int32"), axis=1) <= left
        chosen = ops.logical_or(above, ops.logical_and(tied, first))  # k a row
        indices = ops.reshape(ops.nonzero(chosen)[1], (-1, k))
    else:
        indices = ops.sort(indices, axis=1)
    values = ops.take_along_axis(scores, indices, axis=1)
    order = ops.argsort(-values, axis=1)  # a stable sort
    values = ops.take_along_axis(values, order, axis=1)
    return values, ops.cast(ops.take_along_axis(indices, order, axis=1), "int32")
