"""Models and weights in files of Keras, made in memory.

HDF5 ends the process, without an error, if the disk is full while it writes to a file.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from fmlayers import _hosts
from fmlayers._files import whole_file


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a model to a `.keras` file, atomically.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
    """
    _save(model.save, path)


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes the weights and the optimizer to a `.weights.h5` file, atomically.

    Raises:
        OSError: See `save_model`.
    """
    _save(model.save_weights, path)


def content_of(name: str, save: Callable[[Any], None]) -> memoryview:
    """Returns the content of a file that Keras saves.

    Args:
        name: String, the name of the file.
        save: Function that saves a model or its weights to a file.
    """
    file = _File(name)
    save(file)
    return file.getbuffer()


def _save(save: Callable[[Any], None], path: Path) -> None:
    if _hosts.mesh() is not None:
        save(path)  # atomically, in process 0
        return
    with whole_file(path) as written:
        written.write_bytes(content_of(path.name, save))


class _File(io.BytesIO):
    """A file in memory, whose name Keras reads with `str`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __str__(self) -> str:
        return self._name
