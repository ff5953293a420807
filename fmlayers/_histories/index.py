"""The histories of a batch, prepared in NumPy by the thread that forms batches."""

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlayers._histories.stacked_lists import power_of_two, stacked_lists

Integers = npt.NDArray[Any]

# A batch within one group of users and one of items shares its lists with others.
MAX_CACHED = 16
# XLA compiles once for each number of pairs: with padding, there are few of them.
SHARES = 16
# If a batch has at most a quarter as many rows as there are keys, several batches are
# formed together. Each of them contains only the histories of its keys. With few pairs,
# this is faster even if a batch has as many rows as there are keys.
MIN_KEYS_PER_ROW = 4
FEW_PAIRS = 16_384


class BatchHistories(NamedTuple):
    """The histories of the distinct keys of a batch, one after another.

    The entry of a `History` in the input dict, if a batch brings its histories along.

    Attributes:
        index: `(batch,)`, the index of the history of each example. It is the first,
            since Keras takes the batch size from the first tensor.
        own: `(batch,)`, the example's own value if its history contains it, else 0.
        lengths: `(histories,)`, the number of ids in each history.
        rows: `(rows,)`, the distinct ids in the histories, in any order.
        values: `(pairs,)`, the ids in the histories, as positions in `rows`.
        owners: `(pairs,)`, the index of the history of each id, in ascending order.
        sorted_values: `(pairs,)`, `values` in ascending order, or `None`.
        sorted_owners: `(pairs,)`, the owner of each of `sorted_values`, or `None`.
    """

    index: Any
    own: Any
    lengths: Any
    rows: Any
    values: Any
    owners: Any
    sorted_values: Any = None
    sorted_owners: Any = None


class HistoryIndex:
    """Looks up the histories of the keys of a batch.

    Args:
        key: String, the entry of the input dict that has the keys.
        value: String, the entry of the input dict that has the own values.
        vocabulary_size: Integer. The values are 1 ... `vocabulary_size` - 1.
        offsets: Integers `(keys + 1,)`. The values of key k are `offsets[k]` to
            `offsets[k + 1] - 1`; those of the last key are none.
        values: Integers `(pairs,)`, ascending within each key.
        pads: Boolean, whether to pad the histories, so that their number and that of
            their pairs take few distinct values.
    """

    def __init__(
        self,
        key: str,
        value: str,
        vocabulary_size: int,
        offsets: Integers,
        values: Integers,
        *,
        pads: bool,
    ) -> None:
        self.key = key
        self.value = value
        self.vocabulary_size = vocabulary_size
        self.pads = pads
        self.starts = offsets[:-1]
        self.lengths = np.diff(offsets).astype(np.int32)
        self.num_keys = len(self.lengths)
        self.values = values.astype(np.int32)
        self.keys = np.repeat(np.arange(self.num_keys, dtype=np.int32), self.lengths)
        self.codes = self._code(self.keys, self.values)
        order = np.argsort(self.values, kind="stable")
        self.sorted_values, self.sorted_keys = self.values[order], self.keys[order]
        self._cached: OrderedDict[bytes, tuple[Integers, ...]] = OrderedDict()

    def of_batch(
        self, keys: Integers, own: Integers | None, groups: Integers | None = None
    ) -> BatchHistories:
        """Returns the histories of a batch, or of several batches, stacked.

        Args:
            keys: Integers `(batch,)`, or `(batches, batch)` if `has_many_keys`.
            own: Optional integers of the same shape, as returned by `own_values`.
            groups: Optional integers `(keys,)`, the group of each key. The histories
                are then those of all keys in the groups of the batch, which successive
                batches share.
        """
        keys = self._known(keys)
        if own is None:
            own = np.zeros(keys.shape, np.int32)
        if groups is None and self.has_many_keys(keys.shape[-1]):
            index, *stacks = stacked_lists(
                np.atleast_2d(keys),
                self.starts,
                self.lengths,
                self.values,
                self.vocabulary_size,
            )
            if keys.ndim == 1:
                index, *stacks = (x[0] for x in (index, *stacks))
            return BatchHistories(index, own, *stacks)
        if groups is None:
            chosen = np.zeros(self.num_keys, bool)
            chosen[keys] = True
        else:
            present = np.zeros(groups.max(initial=0) + 1, bool)
            present[groups[keys]] = True
            chosen = present[groups]
        chosen[-1] = True
        positions, *lists = self._lists(chosen)
        return BatchHistories(positions[keys], own, *lists)

    def has_many_keys(self, rows: int) -> bool:
        """Returns whether there are many keys compared to the rows of a batch."""
        pairs = rows * len(self.values) / self.num_keys
        least = 1 if pairs <= FEW_PAIRS else MIN_KEYS_PER_ROW
        return self.num_keys >= least * rows

    def own_values(self, keys: Integers, own: Integers) -> Integers:
        """Returns the own value of each example whose history contains it, else 0.

        Args:
            keys: Integers `(rows,)`.
            own: Integers `(rows,)`.
        """
        if not len(self.codes):
            return np.zeros(len(own), np.int32)
        own = np.where((own > 0) & (own < self.vocabulary_size), own, 0)
        codes = self._code(self._known(keys), own)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, own, 0).astype(np.int32)

    def _known(self, keys: Integers) -> Integers:
        last = self.num_keys - 1
        return np.where((keys >= 0) & (keys < last), keys, last)

    def groups_of(self, ids: Integers, groups: Integers) -> Integers:
        """Returns the group of each key, from those of some ids."""
        inside = (ids >= 0) & (ids < self.num_keys - 1)
        of_keys = np.zeros(self.num_keys, np.int64)
        of_keys[ids[inside]] = groups[inside]
        return of_keys

    def _lists(self, chosen: npt.NDArray[np.bool_]) -> tuple[Integers, ...]:
        """Returns the position of each key, and all that depends on the keys alone."""
        name = chosen.tobytes()
        if name in self._cached:
            self._cached.move_to_end(name)
            return self._cached[name]
        if len(self._cached) == MAX_CACHED:
            self._cached.popitem(last=False)
        positions = np.cumsum(chosen, dtype=np.int32) - 1
        lengths = self.lengths[chosen]
        owners = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        first = self.starts[chosen] - (np.cumsum(lengths) - lengths)
        values = self.values[np.arange(len(owners)) + first[owners]]
        pairs = np.flatnonzero(chosen[self.sorted_keys])
        sorted_values = self.sorted_values[pairs]
        sorted_owners = positions[self.sorted_keys[pairs]]
        is_in = np.zeros(self.vocabulary_size, bool)
        is_in[values] = True
        rows = np.flatnonzero(is_in).astype(np.int32)
        place = np.cumsum(is_in, dtype=np.int32) - 1
        values, sorted_values = place[values], place[sorted_values]
        # The last history is empty, and its sum is ignored: padding belongs to it.
        last = len(lengths) - 1
        if self.pads:
            step = max(-(-len(self.values) // SHARES), 1)
            more = -len(values) % step
            last = min(power_of_two(len(lengths)), self.num_keys) - 1
            lengths = _padded(lengths, last + 1, 0)
            values, sorted_values = (
                np.append(x, np.full(more, max(len(rows) - 1, 0), np.int32))
                for x in (values, sorted_values)
            )
            owners, sorted_owners = (
                np.append(x, np.full(more, last, np.int32))
                for x in (owners, sorted_owners)
            )
        size = min(power_of_two(len(rows)), self.vocabulary_size)
        rows = _padded(rows, size, rows[-1] if len(rows) else 0)
        lists = (lengths, rows, values, owners, sorted_values, sorted_owners)
        self._cached[name] = (positions, *lists)
        return self._cached[name]

    def _code(self, keys: Integers, values: Integers) -> npt.NDArray[np.int64]:
        """Returns numbers that are in the order of the pairs."""
        codes: npt.NDArray[np.int64] = keys.astype(np.int64) * self.vocabulary_size
        return codes + values


def _padded(x: Integers, size: int, value: Any) -> Integers:
    return np.append(x, np.full(size - len(x), value, x.dtype))
