"""Models and weights in files of Keras, made in memory.

HDF5 ends the process, without an error, if the disk is full while it writes to a file.
"""

import io
from contextlib import nullcontext
from pathlib import Path

import keras

from fmlayers import _hosts
from fmlayers._files import whole_file


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a model to a `.keras` file, atomically.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
    """
    file = _File(path.name)
    model.save(file)
    _write(file, path)


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes the weights and the optimizer to a `.weights.h5` file, atomically.

    Raises:
        OSError: See `save_model`.
    """
    file = _File(path.name)
    model.save_weights(file)
    _write(file, path)


def content_of(model: keras.Model, name: str) -> memoryview:
    """Returns the content of the `.keras` file of a model.

    In a group, process 0 may call it alone. The rows of tables that are spread over
    hosts must be gathered or apart.

    Args:
        model: The model.
        name: String, the name of the file.
    """
    file = _File(name)
    keras.saving.save_model(model, file)
    return file.getbuffer()


class _File(io.BytesIO):
    """A file in memory, whose name Keras reads with `str`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __str__(self) -> str:
        return self._name


def _write(file: _File, path: Path) -> None:
    """Writes the file, in process 0 of a group."""
    in_group = _hosts.mesh() is not None
    with _hosts.on_process_0(f"Writing {path}") if in_group else nullcontext():
        if _hosts.is_first():
            with whole_file(path) as written:
                written.write_bytes(file.getbuffer())
