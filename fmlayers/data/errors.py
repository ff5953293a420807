from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """Raised for a file or a table that cannot be used as it is.

    The message names the file and the line, as an editor counts it, or the column, and
    quotes the offending value.
    """


class CellError(DataError):
    """Raised for a cell of a table that cannot be encoded.

    Args:
        column: Name of the column.
        row: Position of the row in the table.
        reason: What must hold, and what came.
    """

    def __init__(self, column: str, row: int, reason: str) -> None:
        super().__init__(f"Column {column!r}, row {row}: {reason}")
        self.column = column
        self.row = row
        self.reason = reason


@contextmanager
def named_places(place: Callable[[str, int], str]) -> Iterator[None]:
    """Names the place of a cell that cannot be encoded within this context.

    Args:
        place: Function from the column and the position of the row to the place, such
            as a file and a line.
    """
    try:
        yield
    except CellError as error:
        raise DataError(
            f"{place(error.column, error.row)}: column {error.column!r} {error.reason}"
        ) from None
