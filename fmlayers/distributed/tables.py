from collections.abc import Iterator
from contextlib import contextmanager

from fmlayers import _hosts
from fmlayers._checks import integer
from fmlayers._spread.rows import spreading


@contextmanager
def tables_over_hosts(min_rows: int = 100_000) -> Iterator[None]:
    """Spreads the tables of models that are built in the block over the hosts.

    Each of n devices stores every n-th row, and the same rows of the optimizer's slots,
    so the memory and the time of an update decrease with n. A lookup sends the ids of a
    batch to all devices and sends the rows back. Its cost does not depend on the number
    of rows of the table, and neither does the cost of an update with
    `fmlayers.optimizers`. Other optimizers update all rows of each device.

    The tables of a `FeatureEmbedding` count as one table, except that its frozen tables
    count as another, and each table of a `History` by itself. Histories are pooled on
    the devices that have their rows, and only the sums are sent. Files do not depend on
    the number of devices.

    Each device draws the initial values of its rows from the initializer, with a
    different seed. The values therefore depend on the number of devices. With equal
    weights, training is the same as with one device, up to rounding.

    Args:
        min_rows: Positive integer. Tables with fewer rows are stored on every device.
            Defaults to 100,000.

    Raises:
        ValueError: If `min_rows` is not a positive integer.
        RuntimeError: If `fmlayers.distributed.start` was not called.

    For an example, see `docs/distributed.md`.
    """
    min_rows = integer("min_rows", min_rows)
    if not _hosts.is_joined():
        raise RuntimeError(
            "`tables_over_hosts` requires a group of processes: first call "
            "`fmlayers.distributed.start`."
        )
    with spreading(min_rows):
        yield
