"""The encoded columns of a table, as an Arrow table."""

from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.encoder import Encoder
from fmlayers.data.errors import CellError
from fmlayers.data.numbers import as_numbers


def arrow_table(table: pd.DataFrame, encoder: Encoder, target: str) -> Any:
    """Returns the encoded columns and the target of a table.

    Lists are not padded. Vectors are stored as lists of a fixed size.

    Args:
        table: The table.
        encoder: The encoder.
        target: Name of the target column.

    Raises:
        CellError: If a cell cannot be encoded, or a target is missing.
    """
    import pyarrow as pa

    targets = as_numbers(target, table[target]).astype(np.float32)
    missing = np.isnan(targets)
    if missing.any():
        raise CellError(target, int(missing.argmax()), "is missing.")
    columns: dict[str, Any] = {}
    for column, x in encoder.without_padding(encoder.transform(table)).items():
        if isinstance(x, tuple):
            values, splits = x
            columns[column] = pa.ListArray.from_arrays(
                pa.array(splits, pa.int32()), pa.array(values)
            )
        elif x.ndim == 2:
            vectors = pa.array(np.ravel(x))
            columns[column] = pa.FixedSizeListArray.from_arrays(vectors, x.shape[1])
        else:
            columns[column] = pa.array(x)
    return pa.table({**columns, target: pa.array(targets)})


def types_of(schema: Any) -> dict[str, str]:
    """Returns a dict from the columns of a schema to their types."""
    return {field.name: str(field.type) for field in schema}
