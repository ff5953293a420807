"""The manifest of a set of shards, without which the set does not exist."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmlayers._digests import digest_of
from fmlayers._json_files import read_json, write_json
from fmlayers.data.errors import DataError

MANIFEST = "manifest.json"
# The suffix of the record of a file, in an incomplete set written by several processes.
RECORD_SUFFIX = ".shard.json"
# The key of the identifier of its set in the metadata of each Parquet file.
SET_KEY = b"fmlayers.set"
_FORMAT = "fmlayers.shards"
_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """A file of a set.

    Attributes:
        rows: Integer, the number of rows.
        sha256: String, the digest of the file.
        footer: String, the digest of the metadata at its end.
    """

    rows: int
    sha256: str
    footer: str

    @classmethod
    def of(cls, path: Path, rows: int) -> "Shard":
        """Returns the `Shard` of a file with this number of rows."""
        return cls(rows, digest_of(path), footer_digest(path))


@dataclass(frozen=True)
class Manifest:
    """A set of shards.

    Attributes:
        set: String, the identifier of the set.
        complete: Boolean, whether the set is complete. The manifest of an incomplete
            set marks the files that a killed process has left behind.
        shards: Dict from file name to `Shard`.
        schema: Dict from column name to its Arrow type.
        encoder: String, the digest of the encoder's configuration.
    """

    set: str
    complete: bool
    shards: Mapping[str, Shard]
    schema: Mapping[str, str]
    encoder: str

    @classmethod
    def start(cls, encoder: str) -> "Manifest":
        """Returns the manifest of a new set without files."""
        return cls(secrets.token_hex(16), False, {}, {}, encoder)

    @property
    def rows(self) -> int:
        """The number of rows of the set."""
        return sum(shard.rows for shard in self.shards.values())

    def write(self, path: Path) -> None:
        """Writes the manifest to a file, atomically."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "set": self.set,
            "complete": self.complete,
            "rows": self.rows,
            "files": {name: vars(shard) for name, shard in self.shards.items()},
            "schema": self.schema,
            "encoder": self.encoder,
        }
        write_json(path, content)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Reads the manifest of a folder, or returns `None` if there is none.

        Raises:
            DataError: If the file is not a manifest, or of a later version.
        """
        path = folder / MANIFEST
        if not path.exists():
            return None
        content = read_json(path, DataError)
        if content.get("format") != _FORMAT:
            raise DataError(f"{path} is not the manifest of a set of shards.")
        if content.get("version") != _VERSION:
            raise DataError(
                f"{path} must be of version {_VERSION}. Received: "
                f"version={content.get('version')!r}. Install a later fmlayers."
            )
        try:
            return cls(
                set=str(content["set"]),
                complete=bool(content["complete"]),
                shards={n: Shard(**shard) for n, shard in content["files"].items()},
                schema=dict(content["schema"]),
                encoder=str(content["encoder"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is not a complete manifest: {error!r}.") from error


def prepare_folder(folder: Path) -> None:
    """Makes a folder for a new set and removes the files of an incomplete one.

    Raises:
        DataError: If the folder contains other Parquet files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.read(folder)
    if manifest is not None and not manifest.complete:
        remove_incomplete(folder, manifest)
    if (folder / MANIFEST).exists() or any(folder.glob("*.parquet")):
        raise DataError(
            f"{folder} already contains Parquet files: choose another folder."
        )


def remove_incomplete(folder: Path, manifest: Manifest) -> None:
    """Removes the files of an incomplete set and, last, its manifest."""
    for path in folder.glob("*.parquet"):
        if set_of(path) == manifest.set:
            path.unlink()
    for path in folder.glob(f"*{RECORD_SUFFIX}"):
        path.unlink()
    with suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()


def set_of(path: Path) -> str | None:
    """Returns the identifier of the set to which a Parquet file belongs, if any."""
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (OSError, ValueError):
        return None
    return metadata.get(SET_KEY, b"").decode() or None


def footer_digest(path: Path) -> str:
    """Returns the SHA-256 digest of the metadata at the end of a Parquet file.

    The checksums of the pages do not cover it.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return hashlib.sha256(file.read()).hexdigest()


def digest_of_config(config: Mapping[str, Any]) -> str:
    """Returns the SHA-256 digest of a configuration."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
