"""Rows of weights in separate files, to which the file of a model refers.

In place of the rows, the file of the model contains a reference, an array of four
integers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._spread.rows import hosts_and_places

Array = npt.NDArray[Any]

_MARK = int.from_bytes(b"fmlayers", "little")  # the first integer of a reference
_APART: ContextVar[Mapping[int, int]] = ContextVar(
    "apart", default=MappingProxyType({})
)
_STORED: ContextVar[Sequence["StoredVariable"]] = ContextVar("stored", default=())


@dataclass(frozen=True)
class StoredVariable:
    """A variable that was spread over hosts, with one `.npy` file per host.

    Attributes:
        paths: The files in the order of the hosts.
        shape: `(rows, dim)` without the spare rows.
        dtype: String, the dtype of the variable.
    """

    paths: tuple[Path, ...]
    shape: tuple[int, int]
    dtype: str

    @cached_property
    def rows_by_host(self) -> list[Array]:
        """The rows of each host, mapped into memory.

        Raises:
            ValueError: If a file cannot be read or has another shape. The error names
                the file.
        """
        return [self._of_host(path) for path in self.paths]

    def take(self, rows: npt.NDArray[np.int64]) -> Array:
        """Returns rows without reading others."""
        values = np.empty((len(rows), self.shape[1]), self.dtype)
        hosts, places = hosts_and_places(rows, len(self.paths))
        for host, stored in enumerate(self.rows_by_host):
            here = hosts == host
            values[here] = stored[places[here]]
        return values

    def _of_host(self, path: Path) -> Array:
        places = -(-self.shape[0] // len(self.paths))
        try:
            rows: Array = np.load(path, mmap_mode="r", allow_pickle=False)
            rows = rows.view(self.dtype)  # NumPy saves bfloat16 as plain bytes
        except OSError as reason:
            raise ValueError(f"{path} cannot be read: {reason.strerror}.") from reason
        except (EOFError, TypeError, ValueError) as reason:
            raise ValueError(f"{path} is damaged: {reason}.") from reason
        if rows.shape != (places, self.shape[1]):
            raise ValueError(
                f"{path} must have the shape {(places, self.shape[1])}. Received: "
                f"shape {rows.shape}."
            )
        return rows


class StoredRows:
    """Consecutive rows of a `StoredVariable`, which are read when they are indexed.

    Args:
        variable: The `StoredVariable`.
        start: Integer, the first row.
        stop: Integer, one past the last row.
    """

    def __init__(self, variable: StoredVariable, start: int, stop: int) -> None:
        self.variable = variable
        self.start = start
        self.shape = (stop - start, variable.shape[1])
        self.dtype = variable.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Array:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        return self.variable.take(rows + self.start)


@contextmanager
def rows_apart(variables: Sequence[Any]) -> Iterator[None]:
    """Writes references to the rows of variables into the files that the block saves.

    Args:
        variables: The variables. A reference contains the index of one of them.
    """
    token = _APART.set({id(variable): i for i, variable in enumerate(variables)})
    try:
        yield
    finally:
        _APART.reset(token)


@contextmanager
def stored_rows(variables: Sequence[StoredVariable]) -> Iterator[None]:
    """Resolves the references in the files that the block loads."""
    token = _STORED.set(variables)
    try:
        yield
    finally:
        _STORED.reset(token)


def reference_to(weight: Any) -> Array | None:
    """Returns the reference to save in place of a weight, or `None` if there is none.

    Args:
        weight: A variable, or a view of the rows of a variable.
    """
    index = _APART.get().get(id(getattr(weight, "variable", weight)))
    if index is None:
        return None
    start = getattr(weight, "start", 0)
    stop = start + getattr(weight, "spread", weight).shape[0]
    return np.array([_MARK, index, start, stop])


def is_reference(value: Any) -> bool:
    """Returns whether a value of a file is a reference."""
    is_like_one = value.shape == (4,) and value.dtype == np.int64
    return bool(is_like_one and value[0] == _MARK)


def resolved(value: Any) -> Any:
    """Returns the `StoredRows` of a reference, and any other value unchanged.

    Outside of `stored_rows`, it returns the reference.
    """
    variables = _STORED.get()
    if not variables or not is_reference(value):
        return value
    _, index, start, stop = (int(x) for x in value)
    return StoredRows(variables[index], start, stop)
