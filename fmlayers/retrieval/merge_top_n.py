from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._checks import integer

Answer = tuple[npt.ArrayLike, npt.ArrayLike]


def merge_top_n(
    answers: Sequence[Answer], starts: Sequence[int], k: int | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Merges the top-N of parts of a catalog, as if one `TopN` had all items.

    If a catalog does not fit in the memory of one machine, each process can have a
    `TopN` of a part of the items. All processes answer the same queries. To exclude
    items, each process subtracts the start of its part from their positions. Positions
    in other parts have no effect. If the tables of the model do not fit in the memory
    either, load it with `fmlayers.distributed.load_sharded` with `on_disk=True`.

    The merge is exact. The scores of a part are equal to those of the whole catalog up
    to rounding, which can depend on the number of items.

    Args:
        answers: List of tuples `(scores, positions)`, the results of the `TopN` of each
            part in the order of the parts. Both have the shape `(batch, n)`.
        starts: List of integers, the position in the catalog of the first item of each
            part, in ascending order.
        k: Optional positive integer, the number of items per query. Defaults to `None`
            (the n of the answers).

    Returns:
        A tuple of scores (float32) and positions in the catalog (int64), both of shape
        `(batch, k)`, in the format of `TopN`. If scores are equal, the lower position
        comes first.

    Raises:
        ValueError: If the answers differ in shape, if `k` is greater than their n, or
            if there is not exactly one start per answer.

    Example:

    >>> first = np.array([[3.0, 1.0]]), np.array([[4, 0]])
    >>> second = np.array([[3.0, 2.0]]), np.array([[1, 0]])
    >>> fmlayers.retrieval.merge_top_n([first, second], starts=[0, 10])
    (array([[3., 3.]], dtype=float32), array([[ 4, 11]]))
    """
    scores = [np.asarray(x, np.float32) for x, _ in answers]
    positions = [np.asarray(x, np.int64) for _, x in answers]
    arrays: list[npt.NDArray[Any]] = [*scores, *positions]
    shapes = {x.shape for x in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 2:
        raise ValueError(
            "`answers` must have scores and positions of one shape (batch, n). "
            f"Received: shapes {sorted(shapes)}."
        )
    if len(starts) != len(answers) or list(starts) != sorted(set(starts)):
        raise ValueError(
            "`starts` must be one integer per answer, in ascending order. Received: "
            f"{list(starts)} for {len(answers)} answers."
        )
    width = scores[0].shape[1]
    rule = f"an integer from 1 to {width}, the number of items of each answer"
    k = integer("k", width if k is None else k, rule, most=width)
    shifted = [
        np.where(x < 0, -1, x + start)
        for x, start in zip(positions, starts, strict=True)
    ]
    together = np.concatenate(scores, axis=1)
    # Lower positions come first, and the sort is stable.
    order = np.argsort(-together, axis=1, kind="stable")[:, :k]
    return (
        np.take_along_axis(together, order, axis=1),
        np.take_along_axis(np.concatenate(shifted, axis=1), order, axis=1),
    )
