"""SHA-256 digests that tie the files of a run or an export together."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def digest_of(path: Path) -> str:
    """Returns the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_arrays(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """Returns the SHA-256 digest of the shapes, dtypes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns a dict from the names of files in a folder to their digests."""
    return {name: digest_of(folder / name) for name in sorted(names)}


def check_digest(
    path: Path, expected: str, error: type[ValueError] = ValueError
) -> None:
    """Checks that a file is the one whose digest was recorded.

    Args:
        path: The file.
        expected: The recorded digest.
        error: Type of the error to raise.

    Raises:
        ValueError: An `error` that names the file, if it is missing, cannot be read or
            has another digest.
    """
    try:
        digest = digest_of(path)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}.") from reason
    if digest != expected:
        raise error(
            f"{path} is damaged or was replaced: its SHA-256 digest {digest[:12]}... "
            f"differs from the recorded {str(expected)[:12]}..."
        )
