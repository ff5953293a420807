"""Item and query vectors, for approximate nearest neighbor indexes."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._digests import check_digest, digest_of
from fmlayers._files import whole_file, whole_files
from fmlayers._json_files import read_json, write_json
from fmlayers._types import Tensor
from fmlayers.export.files import ExportError, beside, weights_digest
from fmlayers.retrieval.top_n import TopN


def item_vectors(top: TopN) -> npt.NDArray[np.float32]:
    """Returns the item vectors for an index of maximum inner products.

        score = b + c_Q + c_I + <s_Q, s_I> = <[s_Q, 1], [s_I, c_I]> + (b + c_Q)

    The constant of the item becomes one more coordinate. The remaining terms are the
    same for all items, so ranking by inner product is the same as ranking by score.

    Args:
        top: A `TopN` with indexed items. If the decomposition of its model is
            `"partial"`, the vectors are those of the factorization machine.

    Returns:
        A float32 array of shape `(num_items, dim + 1)`.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> top = fmlayers.retrieval.TopN(model, ["item"], num_items=90)
    >>> items = fmlayers.export.item_vectors(top.index({"item": np.arange(90)}))
    >>> items.shape
    (90, 17)
    >>> users = {"user": np.array([3, 7])}
    >>> queries, constants = fmlayers.export.query_vectors(top, users)
    >>> scores = np.asarray(queries) @ items.T + np.asarray(constants)
    >>> scores.shape
    (2, 90)
    """
    vectors = ops.convert_to_numpy(top.item_vectors)
    constants = ops.convert_to_numpy(top.item_constants)
    return np.concatenate([vectors, constants[:, None]], axis=1).astype(np.float32)


def query_vectors(top: TopN, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns the vectors to query an index of `item_vectors`.

    Args:
        top: Same as in `item_vectors`.
        inputs: Dict with the entries of the query features.

    Returns:
        A tuple of the vectors `(batch, dim + 1)` and of constants `(batch, 1)`. The
        sum of a constant and an inner product is the raw score.
    """
    constants, vectors = top.decompose(inputs, top.query_features)
    ones = ops.ones_like(constants)
    if top.model.bias is not None:
        constants = constants + ops.convert_to_tensor(top.model.bias)
    return ops.concatenate([vectors, ones], axis=1), constants


def write_item_vectors(
    top: TopN,
    keys: Sequence[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Writes the item vectors and the keys of the items to a file.

    Args:
        top: Same as in `item_vectors`.
        keys: The keys of the items as text, in the order of their positions.
        path: Path of a `.parquet` file, with the columns `key` and `vector`; or of a
            `.npy` file, next to which the keys are written in JSON, with `.keys.json`
            appended to the name. Read them with `read_item_vectors`.
        overwrite: Whether to replace an existing file. Defaults to `False`.

    Returns:
        The path.

    Raises:
        ValueError: If `path` has another suffix, or the number of keys differs from
            that of the items.
        FileExistsError: If `path` exists and `overwrite` is `False`.
        ImportError: If `path` is a `.parquet` file and pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".parquet"):
        raise ValueError(
            f"`path` must end in '.npy' or '.parquet'. Received: path={str(path)!r}."
        )
    if len(keys) != top.num_items:
        raise ValueError(
            f"`keys` must have one entry per item, {top.num_items} in all. "
            f"Received: {len(keys)} keys."
        )
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists: choose another path, or replace it with `overwrite=True` "
            "(`--overwrite`)."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    vectors = item_vectors(top)
    if path.suffix == ".parquet":
        _write_parquet(keys, vectors, path)
        return path
    with whole_files(path) as written:
        np.save(written, vectors)
        record = {
            "weights_digest": weights_digest(top.model),
            "vectors": digest_of(written),
            "keys": list(keys),
        }
        write_json(beside(written, ".keys.json"), record)
    return path


def read_item_vectors(
    path: str | os.PathLike[str],
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Reads what `write_item_vectors` wrote, and checks that the keys belong to it.

    Args:
        path: Path of the `.npy` or `.parquet` file.

    Returns:
        A tuple of the vectors, `(num_items, dim + 1)`, and the keys in the same order.

    Raises:
        ExportError: If a file is missing, damaged or part of another export. The
            message names it.
        ImportError: If `path` is a `.parquet` file and pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    file = beside(path, ".keys.json")
    try:
        keys = json.loads(file.read_text("utf-8"))  # a list in files of 0.1.0
    except (OSError, ValueError):
        keys = None
    if not isinstance(keys, list):
        record = read_json(file, ExportError)
        if not {"keys", "vectors"} <= record.keys():
            raise ExportError(f"{file} has no keys of item vectors.")
        check_digest(path, record["vectors"], ExportError)
        keys = record["keys"]
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ExportError(f"{path} is not a NumPy file: {error}") from error
    return _matching(path, vectors, keys)


def _matching(
    path: Path, vectors: npt.NDArray[Any], keys: list[Any]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    if (
        vectors.ndim != 2
        or len(vectors) != len(keys)
        or not all(isinstance(key, str) for key in keys)
    ):
        raise ExportError(
            f"{path} must contain one vector per key. Received: the shape "
            f"{vectors.shape} and {len(keys)} keys."
        )
    return vectors.astype(np.float32, copy=False), keys


def _read_parquet(path: Path) -> tuple[npt.NDArray[np.float32], list[str]]:
    pa, parquet = _pyarrow()
    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        rows = table["vector"].combine_chunks()
        vectors = rows.flatten().to_numpy(zero_copy_only=False)
        width = rows.type.list_size
        keys = table["key"].to_pylist()
    except (OSError, KeyError, AttributeError, pa.ArrowException) as error:
        raise ExportError(f"{path} is not a file of item vectors: {error}") from error
    return _matching(path, vectors.reshape(-1, width), keys)


def _write_parquet(
    keys: Sequence[str], vectors: npt.NDArray[np.float32], path: Path
) -> None:
    pa, parquet = _pyarrow()
    flat = pa.array(vectors.ravel(), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table({"key": pa.array(list(keys), pa.string()), "vector": lists})
    with whole_file(path) as written:
        parquet.write_table(table, written, write_page_checksum=True)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow: install it with `pip install fmlayers[parquet]`, "
            "or use a '.npy' file."
        ) from error
    return pa, parquet
