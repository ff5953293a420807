"""The histories of the distinct keys of several batches, formed together."""

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[Any]


def stacked_lists(
    keys: Integers,
    starts: Integers,
    lengths: Integers,
    values: Integers,
    vocabulary_size: int,
) -> tuple[Integers, ...]:
    """Returns the fields of the `BatchHistories` of each batch, except for `own`.

    The fields of several batches are padded to a common length, a power of two.

    Args:
        keys: Integers `(batches, batch)`.
        starts: Integers `(keys,)`, the position of the first value of each key.
        lengths: Integers `(keys,)`, the number of values of each key. It is 0 for the
            last key.
        values: Integers `(pairs,)`, the values of all keys.
        vocabulary_size: Integer, greater than all values.

    Returns:
        A tuple of integers of shape `(batches, ...)`.
    """
    count = len(keys)
    # The last history of each batch is empty, and its sum is ignored. It receives the
    # padding.
    keys = np.pad(keys, ((0, 0), (0, 1)), constant_values=len(lengths) - 1)
    of_key = np.repeat(np.arange(count), keys.shape[1])
    of_list, key, index = _distinct(of_key, keys.ravel(), len(lengths), count)
    length = lengths[key]
    before = np.cumsum(length) - length
    place = np.arange(length.sum()) + np.repeat(starts[key] - before, length)
    owner = np.repeat(ranks(of_list, count), length)
    of_pair = np.repeat(of_list, length)
    of_row, row, value = _distinct(of_pair, values[place], vocabulary_size, count)
    by_value = np.lexsort((value, of_pair))
    padded_lengths = packed(of_list, length, count)
    # Pad with the last row of the batch, because other rows must not be updated.
    rows = np.maximum.accumulate(packed(of_row, row, count), axis=1)
    last_owner, last_row = padded_lengths.shape[1] - 1, rows.shape[1] - 1
    return (
        index.reshape(keys.shape)[:, :-1].astype(np.int32),
        padded_lengths,
        rows,
        packed(of_pair, value, count, last_row),
        packed(of_pair, owner, count, last_owner),
        packed(of_pair, value[by_value], count, last_row),
        packed(of_pair, owner[by_value], count, last_owner),
    )


def _distinct(
    of: Integers, x: Integers, size: int, count: int
) -> tuple[Integers, Integers, Integers]:
    """Returns the distinct values of each batch, and the rank of each value in them.

    Args:
        of: Integers in ascending order, the batch of each value.
        x: Integers, the values.
        size: Integer, greater than all values.
        count: Integer, the number of batches.
    """
    codes, inverse = np.unique(of * size + x, return_inverse=True)
    of_distinct, distinct = np.divmod(codes, size)
    return of_distinct, distinct, ranks(of_distinct, count)[inverse]


def ranks(of: Integers, count: int) -> Integers:
    """Returns the position of each value among those of its batch."""
    return np.arange(len(of)) - np.searchsorted(of, np.arange(count))[of]


def packed(of: Integers, x: Integers, count: int, fill: int = 0) -> Integers:
    """Returns the values of each batch as a row, padded with `fill`."""
    sizes = np.bincount(of, minlength=count)
    packed = np.full((count, power_of_two(sizes.max(initial=0))), fill, np.int32)
    packed[np.arange(packed.shape[1]) < sizes[:, None]] = x
    return packed


def power_of_two(size: int) -> int:
    """Returns the smallest power of two that is at least `size`."""
    return 1 << max(int(size) - 1, 0).bit_length()
