"""Files of nested dicts and lists with arrays, numbers and strings, without pickle.

A file is a ZIP archive of `state.json` and of one `.npy` file for each array. In the
JSON, `{"__array__": 3}` stands for the array in `3.npy`. The NPY format does not record
the name of a dtype such as bfloat16, so the JSON does:
`{"__array__": 3, "dtype": "bfloat16"}`.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmlayers._files import whole_file

VERSION = 1  # of the files; older versions stay readable
RECORD, ARRAY, DTYPE = "state.json", "__array__", "dtype"


def write_state(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Writes a file atomically.

    Args:
        path: Path of the file.
        kind: String that names the content. `read_state` expects the same.
        content: Dict of arrays, numbers, strings, and dicts and lists of these.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
    """
    arrays: list[Any] = []
    plain = _without_arrays(content, arrays)
    record = json.dumps({"format": kind, "version": VERSION, "content": plain})
    with whole_file(path) as written, zipfile.ZipFile(written, "w") as file:
        file.writestr(RECORD, record)
        for i, array in enumerate(arrays):
            with file.open(f"{i}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_state(path: Path, kind: str) -> dict[str, Any]:
    """Returns the content of a file.

    Raises:
        ValueError: If the file cannot be read, is damaged, has another kind or was
            written by a newer version. The error names `path`.
    """
    try:
        with zipfile.ZipFile(path) as file:
            record = json.loads(file.read(RECORD))
            written, version = record["format"], record["version"]
            if (written, version) == (kind, VERSION):
                content: dict[str, Any] = _with_arrays(record["content"], file)
                return content
    except OSError as reason:
        raise ValueError(f"{path} cannot be read: {reason.strerror}.") from reason
    except Exception as reason:  # errors of zipfile, json and NumPy
        raise ValueError(
            f"{path} is damaged or is not a file of {kind}: {reason}"
        ) from reason
    if written != kind:
        raise ValueError(f"{path} must be a file of {kind}. Received: {written!r}.")
    raise ValueError(
        f"{path} was written by a newer version of fmlayers. Update fmlayers. "
        f"Received: version {version!r}, and this one reads up to {VERSION}."
    )


def _without_arrays(value: Any, arrays: list[Any]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        is_narrow = value.dtype.kind == "V" and value.dtype.names is None
        name = {DTYPE: value.dtype.name} if is_narrow else {}
        return {ARRAY: len(arrays) - 1, **name}
    if isinstance(value, Mapping):
        return {key: _without_arrays(x, arrays) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(x, arrays) for x in value]
    return value


def _with_arrays(value: Any, file: zipfile.ZipFile) -> Any:
    if isinstance(value, list):
        return [_with_arrays(x, file) for x in value]
    if not isinstance(value, dict):
        return value
    if list(value) in ([ARRAY], [ARRAY, DTYPE]) and isinstance(value[ARRAY], int):
        with file.open(f"{value[ARRAY]}.npy") as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # reads to the end, which checks the CRC
                raise ValueError(f"{member.name} is longer than its array.")
            return array.view(value[DTYPE]) if DTYPE in value else array
    return {key: _with_arrays(x, file) for key, x in value.items()}
