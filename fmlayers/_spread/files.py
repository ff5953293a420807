"""Files of Keras whose spread tables are written in pieces of rows.

Keras makes the file in memory, with references in place of the rows. The references
become datasets whose place in the file is reserved. The rows are then written without
HDF5, because HDF5 ends the process without an error if the disk is full.
"""

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers import _hosts
from fmlayers._files import naming, remove_leftovers, temporary_path, whole_file
from fmlayers._keras_files import content_of
from fmlayers._spread.rows import PIECE
from fmlayers._spread.stored_rows import is_reference, rows_apart

WEIGHTS = "model.weights.h5"  # in a `.keras` file
MARGIN = 2**20  # bytes for the description of the datasets
Write = Callable[[int, int, npt.NDArray[Any]], None]


def save_in_pieces(
    save: Callable[..., None], path: Path, variables: Sequence[Any]
) -> None:
    """Saves a model in process 0, atomically. All processes must call it.

    No process holds more rows of other hosts than a piece.

    Args:
        save: The method `save` or `save_weights` of the model.
        path: Path of the `.keras` or `.weights.h5` file.
        variables: The spread variables of the model and its optimizer.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
        RuntimeError: In the other processes, if that happens in process 0.
    """
    writes, what = _hosts.process() == 0, f"`{save.__name__}`"
    weights = temporary_path(path)
    try:
        write: Write | None = None
        with _hosts.on_process_0(what):
            if writes:
                with naming(path), rows_apart(variables):
                    remove_leftovers(path.parent)
                    content = content_of(path.name, save)
                    without_rows = _weights_in(content, path)
                    write = _with_room(without_rows, weights, variables)
        failure = _collect(variables, write)
        with _hosts.on_process_0(what):
            if writes:
                with naming(path):
                    if failure is not None:
                        raise failure
                    _put_together(content, weights, path)
    finally:
        if writes:
            weights.unlink(missing_ok=True)


def _collect(variables: Sequence[Any], write: Write | None) -> Exception | None:
    """Reads all rows in pieces, with all processes, and writes them in process 0.

    An error is returned, because the other processes wait for all pieces.
    """
    failure: Exception | None = None
    for index, variable in enumerate(variables):
        rows = variable.spread.num_rows
        for start in range(0, rows, PIECE):
            piece = variable.spread.read(variable, start, min(start + PIECE, rows))
            if write is None or failure is not None:
                continue
            try:
                write(index, start, piece)
            except Exception as error:
                failure = error
    return failure


@dataclass(frozen=True)
class _Room:
    """The place of consecutive rows of a variable in a file.

    Attributes:
        variable: Integer, the index of the variable.
        start: Integer, the first row.
        stop: Integer, one past the last row.
        offset: Integer, the position of the first byte in the file.
    """

    variable: int
    start: int
    stop: int
    offset: int


def _with_room(
    content: bytes | memoryview, path: Path, variables: Sequence[Any]
) -> Write:
    """Writes an HDF5 file with room for the rows to which it refers.

    Returns:
        A function that writes rows of a variable: its index, the first row and the
        rows.
    """
    import h5py

    path.write_bytes(content)
    _extend(path, sum(_size(variable) for variable in variables))
    with h5py.File(path, "r+") as file:
        rooms = [
            _reserve(file, name, reference, variables)
            for name, reference in _references(file)
        ]

    def write(index: int, start: int, rows: npt.NDArray[Any]) -> None:
        with path.open("r+b") as file:
            for room in rooms:
                first = max(start, room.start)
                inside = rows[first - start : max(room.stop - start, 0)]
                if room.variable == index and len(inside):
                    file.seek(room.offset + (first - room.start) * inside[0].nbytes)
                    file.write(inside.tobytes())

    return write


def _size(variable: Any) -> int:
    """Returns the number of bytes of the rows of a variable."""
    return int(math.prod(variable.spread.shape) * variable.value.dtype.itemsize)


def _extend(path: Path, size: int) -> None:
    """Extends a file, so that HDF5 needs no more disk space for the datasets."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END) + size + MARGIN
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, end)
        else:
            file.truncate(end)


def _references(file: Any) -> list[tuple[str, list[int]]]:
    """Returns the names and the integers of the references in an HDF5 file."""
    import h5py

    found = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and is_reference(item):
            found.append((name, item[()].tolist()))

    file.visititems(visit)
    return found


def _reserve(
    file: Any, name: str, reference: Sequence[int], variables: Sequence[Any]
) -> _Room:
    """Replaces a reference by a dataset whose values are not written yet."""
    import h5py

    _, index, start, stop = reference
    variable = variables[index]
    dtype = np.dtype(variable.value.dtype)
    del file[name]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    identifier = h5py.h5d.create(
        file.id,
        name.encode(),
        h5py.h5t.py_create(dtype, logical=True),
        h5py.h5s.create_simple((stop - start, *variable.shape[1:])),
        properties,
    )
    if dtype.name == "bfloat16":  # as Keras marks it
        h5py.Dataset(identifier).attrs["dtype"] = dtype.name
    return _Room(index, start, stop, identifier.get_offset())


@contextmanager
def _archive(content: memoryview) -> Iterator[zipfile.ZipFile]:
    with io.BytesIO(content) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _weights_in(content: memoryview, path: Path) -> bytes | memoryview:
    """Returns the HDF5 file in the content of a `.keras` or `.weights.h5` file."""
    if path.suffix != ".keras":
        return content
    with _archive(content) as archive:
        return archive.read(WEIGHTS)


def _put_together(content: memoryview, weights: Path, path: Path) -> None:
    """Writes `content` to `path`, with the file `weights` in place of its weights."""
    if path.suffix != ".keras":
        with whole_file(path) as written:
            weights.replace(written)
        return
    with (
        whole_file(path) as written,
        zipfile.ZipFile(written, "w") as target,
        _archive(content) as archive,
    ):
        for name in archive.namelist():
            if name == WEIGHTS:
                target.write(weights, name)
            else:
                target.writestr(name, archive.read(name))
