"""The files of an export, tied together by the digests in its card."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fmlayers._digests import check_digest, digest_of_arrays, digests_of
from fmlayers._json_files import read_json, write_json
from fmlayers.export.card import Card, text_of

if TYPE_CHECKING:
    from fmlayers.data import Encoder


class ExportError(ValueError):
    """Raised if a file of an export is missing, damaged or part of another export."""


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the model card of an export, after checking the files of the export.

    Args:
        path: Path of the SavedModel's folder, or of the `.tflite` or `.onnx` file.

    Returns:
        The content of the card in JSON. `files` contains the SHA-256 digest of each
        file.

    Raises:
        ExportError: If a file is missing, damaged or part of another export. The
            message names it.

    Example:

    >>> import tempfile
    >>> model = fmlayers.models.FactorizationMachine([fmlayers.Numeric("age")], dim=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = fmlayers.export.export(model, folder + "/fm/1")
    ...     card = fmlayers.export.read_card(path)
    >>> card["parameters"]
    10
    """
    path = Path(path)
    folder, card = path.parent, beside(path, ".json")
    if path.is_dir():
        folder, card = path, path / "card.json"
    content = read_json(card, ExportError)
    files = content.get("files")
    if not isinstance(files, dict):
        raise ExportError(f"{card} has no digests of files. Export the model again.")
    for name, digest in files.items():
        check_digest(folder / name, digest, ExportError)
    return content


def weights_digest(model: keras.Model) -> str:
    """Returns the digest of a model's weights, the same in all exports of the model."""
    return digest_of_arrays(ops.convert_to_numpy(w) for w in model.weights)


def write_into_folder(folder: Path, card: Card, encoder: "Encoder | None") -> None:
    """Writes the card and the vocabularies of a SavedModel into its folder."""
    (folder / "README.md").write_text(text_of(card), "utf-8")
    if encoder is not None:
        encoder.save(folder / "encoder.json")
    files = [file for file in folder.rglob("*") if file.is_file()]
    _write(folder / "card.json", card, files)


def write_beside(path: Path, card: Card, encoder: "Encoder | None") -> None:
    """Writes the card and the vocabularies of a file next to it."""
    beside(path, ".md").write_text(text_of(card), "utf-8")
    files = [path, beside(path, ".md")]
    if encoder is not None:
        encoder.save(beside(path, ".encoder.json"))
        files.append(beside(path, ".encoder.json"))
    _write(beside(path, ".json"), card, files)


def beside(path: Path, suffix: str) -> Path:
    """Returns the path of a file next to the file of an export."""
    return path.with_name(path.name + suffix)


def _write(path: Path, card: Card, files: Iterable[Path]) -> None:
    names = [file.relative_to(path.parent).as_posix() for file in files]
    write_json(path, {**card, "files": digests_of(path.parent, names)})
