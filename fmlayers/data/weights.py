"""The weights of the rows of a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fmlayers.data.errors import DataError
from fmlayers.data.records import shown


def check_weights(table: pd.DataFrame, name: str) -> None:
    """Checks a column of weights: finite numbers of at least 0, not all of them 0.

    Raises:
        DataError: If the column is missing, or a weight is invalid.
    """
    if name not in table:
        listed = ", ".join(repr(str(column)) for column in table)
        raise DataError(
            f"The data have no column {name!r} for `weight`. Their columns: {listed}."
        )
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(
        np.float64, na_value=np.nan
    )
    wrong = ~(np.isfinite(numbers) & (numbers >= 0.0))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"Row {row + 1}: the weight in column {name!r} must be a finite number of "
            f"at least 0, read {shown(str(table[name].iloc[row]))}"
        )
    if not numbers.any():
        raise DataError(
            f"The weights in column {name!r} must not all be 0: no row would count."
        )
