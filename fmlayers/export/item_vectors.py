"""Items as vectors, for an index that finds the nearest."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._files import whole_file
from fmlayers._types import Tensor
from fmlayers.retrieval.top_n import TopN


def item_vectors(top: TopN) -> npt.NDArray[np.float32]:
    """Returns the items' vectors, whose largest inner products are the best items.

        score = b + c_Q + c_I + <s_Q, s_I> = <[s_Q, 1], [s_I, c_I]> + (b + c_Q)

    The items' constant is one more coordinate, and what is left is the same for all
    items: the order by inner product is that of the scores.

    Args:
        top: A `TopN`, indexed. Of a model that is not exact the vectors are those of
            its factorization machine.

    Returns:
        `(num_items, dim + 1)`.
    """
    vectors = ops.convert_to_numpy(top.item_vectors)
    constants = ops.convert_to_numpy(top.item_constants)
    return np.concatenate([vectors, constants[:, None]], axis=1).astype(np.float32)


def query_vectors(top: TopN, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns what an index of the `item_vectors` is asked by.

    Args:
        top: As of `item_vectors`.
        inputs: Dict with the entries of the query's features.

    Returns:
        Vectors `(batch, dim + 1)`, and the constants `(batch, 1)` which, added to the
        inner products, make the raw scores.
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
    """Writes the items' vectors with their keys.

    Args:
        top: As of `item_vectors`.
        keys: The items as text, by position.
        path: A `.parquet`, of the columns `key` and `vector`; or a `.npy`, beside which
            the keys are a JSON list with `.keys.json` added to its name.
        overwrite: Whether to replace a file that is there. Defaults to `False`.

    Returns:
        The path.

    Raises:
        ValueError: If `path` is neither, or the keys are not as many as the items.
        FileExistsError: If `path` is there, and may not be replaced.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".parquet"):
        raise ValueError(
            f"`path` must end in '.npy' or '.parquet'. Received: path={str(path)!r}."
        )
    if len(keys) != top.num_items:
        raise ValueError(
            f"`keys` must be as many as the items, {top.num_items}. "
            f"Received: {len(keys)}."
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
    with whole_file(path.with_name(f"{path.name}.keys.json")) as written:
        written.write_text(json.dumps(list(keys), ensure_ascii=False), "utf-8")
    with whole_file(path) as written:
        np.save(written, vectors)
    return path


def _write_parquet(
    keys: Sequence[str], vectors: npt.NDArray[np.float32], path: Path
) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: `pip install fmlayers[parquet]`, or write a "
            "'.npy'."
        ) from error
    flat = pa.array(vectors.ravel(), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table({"key": pa.array(list(keys), pa.string()), "vector": lists})
    with whole_file(path) as written:
        pq.write_table(table, written)
