from collections.abc import Iterator
from contextlib import contextmanager

from fmlayers import _hosts
from fmlayers._checks import integer
from fmlayers._spread_rows import spreading


@contextmanager
def tables_over_hosts(min_rows: int = 100_000) -> Iterator[None]:
    """Spreads the tables of models that are built in the block over the hosts.

    Of n devices, each has every n-th row, and the same rows of the optimizer's slots:
    memory and time of an update fall with n. A lookup sends the ids of a batch to all
    devices and the rows back; it does not depend on the number of rows. Neither does
    the update of `fmlayers.optimizers`; other optimizers update each device's whole
    part of the tables.

    The tables of a `FeatureEmbedding` count as one, apart from frozen tables and from
    those of a `History`, which every device has. Files do not depend on the number of
    devices.

    The initial values are those of the initializer, drawn by each device for its rows
    with a seed of its own. They differ from those of another number of devices. With
    equal weights, training is the same as with one device, up to rounding.

    Args:
        min_rows: Positive integer. Tables with fewer rows are on every device. Defaults
            to 100,000.

    Raises:
        ValueError: If `min_rows` is not a positive integer.
        RuntimeError: If `fmlayers.distributed.start` was not called.

    Example:

    >>> with fmlayers.distributed.tables_over_hosts():  # doctest: +SKIP
    ...     model = fmlayers.models.FactorizationMachine(features, dim=16)
    """
    min_rows = integer("min_rows", min_rows)
    if not _hosts.is_joined():
        raise RuntimeError(
            "`tables_over_hosts` needs a group of processes: call "
            "`fmlayers.distributed.start` before."
        )
    with spreading(min_rows):
        yield
