from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import as_text


def positions_of(values: "pd.Series[Any]", keys: pd.Index) -> npt.NDArray[np.int64]:
    """Returns the position of each value in `keys`, compared as text.

    Args:
        values: Users or items as in the data.
        keys: Users or items as text, without duplicates.

    Returns:
        Integers `(values,)`, -1 for a value that is missing or not in `keys`.
    """
    codes, distinct = pd.factorize(values)
    positions = keys.get_indexer(pd.Index([as_text(value) for value in distinct]))
    # `factorize` gives missing values the code -1, which indexes the last entry.
    return np.append(positions, -1)[codes].astype(np.int64)
