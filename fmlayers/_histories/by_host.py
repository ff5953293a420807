"""The histories of a batch, divided among hosts by the rows that they store."""

from typing import Any, NamedTuple

import numpy as np

from fmlayers._histories.index import BatchHistories
from fmlayers._histories.stacked_lists import packed, ranks
from fmlayers._spread.rows import hosts_and_places


class HistoriesByHost(NamedTuple):
    """The histories of a batch. Each host has the ids whose table rows it stores.

    Like `BatchHistories`, it is the entry of a `History` in the input dict. All tensors
    consist of equal parts, one per host, so that they can be split like other inputs.

    Attributes:
        index, own, lengths: As in `BatchHistories`.
        rows: `(rows,)`, the distinct ids in the histories. Each part is padded with the
            last id, which may belong to another host.
        values: `(pairs,)`, the ids in the histories, as positions in `rows`. Those of a
            part are in the same part of `rows`.
        owners: `(pairs,)`, the index of the history of each id. An empty history
            receives the padding.
    """

    index: Any
    own: Any
    lengths: Any
    rows: Any
    values: Any
    owners: Any


def histories_by_host(batch: BatchHistories, hosts: int) -> HistoriesByHost:
    """Divides the histories of a batch among hosts.

    Args:
        batch: The histories, as arrays. The last one is empty.
        hosts: Positive integer, the number of hosts.
    """
    rows, values = np.unique(batch.rows, return_inverse=True)
    host, _ = hosts_and_places(rows, hosts)
    order = np.argsort(host, kind="stable")
    of_rows = host[order]
    parts = packed(of_rows, rows[order], hosts, int(rows[-1]))
    size = parts.shape[1]
    positions = np.empty_like(order)
    positions[order] = of_rows * size + ranks(of_rows, hosts)

    is_real = batch.lengths[batch.owners] > 0
    pairs = positions[values[batch.values[is_real]]]
    order = np.argsort(pairs // size, kind="stable")
    of_pairs = pairs[order] // size
    last = len(batch.lengths) - 1
    return HistoriesByHost(
        batch.index,
        batch.own,
        np.pad(batch.lengths, (0, -len(batch.lengths) % hosts)),
        parts.ravel(),
        packed(of_pairs, pairs[order], hosts).ravel(),
        packed(of_pairs, batch.owners[is_real][order], hosts, last).ravel(),
    )
