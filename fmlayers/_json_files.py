"""Records in JSON files, each sealed with a digest of its content."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmlayers._files import whole_file

SEAL = "sha256"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a record atomically, with a digest of its content under `SEAL`.

    Numbers that JSON does not have, NaN and infinities, become `null`.
    """
    plain = json.loads(json.dumps(without_nan(content)))
    text = json.dumps({**plain, SEAL: _digest(plain)}, indent=2, allow_nan=False)
    with whole_file(path) as written:
        written.write_text(text + "\n", "utf-8")


def read_json(path: Path, error: type[ValueError] = ValueError) -> dict[str, Any]:
    """Reads a record without its digest. Older records have none.

    Args:
        path: The file.
        error: Type of the error to raise.

    Raises:
        ValueError: An `error` that names the file, if it cannot be read, is no JSON
            object or differs from its digest.
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}.") from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is not a JSON file: {reason}") from reason
    if not isinstance(content, dict):
        raise error(f"{path} must contain a JSON object. Received: {content!r:.60}.")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _digest(content):
        raise error(f"{path} is damaged or was edited: its content has another digest.")
    return content


def without_nan(value: Any) -> Any:
    """Returns JSON content with `None` in place of NaN and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return value


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
