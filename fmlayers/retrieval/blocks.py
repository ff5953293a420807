"""The best of many scores, a block of items at a time."""

import keras
from keras import ops

from fmlayers._types import Tensor

Best = tuple[Tensor, Tensor]  # scores and positions, each (batch, k), best first


def nothing(like: Tensor, k: int | Tensor) -> Best:
    """Returns k empty places for each row of `like`, `(batch, 1)`."""
    # By broadcasting, which leaves k known to a graph whose batch is not.
    scores = ops.zeros_like(like) + ops.full((1, k), float("-inf"), dtype=like.dtype)
    positions = ops.zeros_like(like, dtype="int32") + ops.full((1, k), -1, "int32")
    return scores, positions


def merge(best: Best, scores: Tensor, start: Tensor, exclude: Tensor | None) -> Best:
    """Returns the best of `best` and of the scores of the next block of items.

    How many are wanted is how many places `best` has, which an export of TensorFlow
    learns when it is called.

    Args:
        best: The best of all blocks before this one.
        scores: `(batch, size + 1)`; -inf for what is not to be returned. The last
            column is of no item and holds -inf.
        start: The position of the block's first item.
        exclude: Optional positions `(batch, length)` not to be returned, from anywhere
            in the catalogue or outside.
    """
    k, size = ops.shape(best[0])[1], scores.shape[1] - 1
    if exclude is not None:
        inside = ops.logical_and(exclude >= start, exclude < start + size)
        # Those of other blocks fall on the last column.
        columns = ops.where(inside, exclude - start, size)
        rows = ops.expand_dims(ops.arange(ops.shape(exclude)[0], dtype="int32"), 1)
        rows = ops.broadcast_to(rows, ops.shape(columns))
        places = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
        gone = ops.zeros_like(places[:, 0], dtype=scores.dtype) - float("inf")
        scores = ops.scatter_update(scores, places, gone)
    most = min(k, size) if isinstance(k, int) else ops.minimum(k, size)
    found_scores, found = top_k(scores, most)
    found = ops.where(found_scores == float("-inf"), -1, found + start)
    # What was found before comes first, being of lower positions.
    merged = ops.concatenate([best[0], found_scores], axis=1)
    positions = ops.concatenate([best[1], found], axis=1)
    merged, order = top_k(merged, k)
    return merged, ops.take_along_axis(positions, order, axis=1)


def top_k(scores: Tensor, k: int | Tensor) -> Best:
    """Returns the k highest of each row; of equal ones (but for -inf), the first."""
    values, indices = ops.top_k(scores, k)
    if keras.backend.backend() != "torch":
        return values, ops.cast(indices, "int32")
    # PyTorch leaves open which of equal scores it takes, and in what order.
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
