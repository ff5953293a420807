import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data import Dataset, Encoder, load

Arrays = dict[str, npt.NDArray[Any]]


def data_folder() -> Path:
    """Returns the folder of the data sets, from the variable `FMLAYERS_DATA`."""
    if "FMLAYERS_DATA" not in os.environ:
        raise SystemExit("Set FMLAYERS_DATA to the folder that contains the data sets.")
    return Path(os.environ["FMLAYERS_DATA"])


def dataset(name: str) -> Dataset:
    """Returns `"ml-100k"` or `"ml-1m"` from the folder of the data sets."""
    return load(data_folder() / name)


def ids(fitting: pd.DataFrame, *others: pd.DataFrame) -> tuple[list[Arrays], list[int]]:
    """Returns the user and item ids of each table, and the sizes of their embeddings.

    Values that are not in `fitting` get the id 0.
    """
    encoder = Encoder({"user": "categorical", "item": "categorical"}).fit(fitting)
    encoded = [encoder.transform(table) for table in (fitting, *others)]
    inputs = [{n: np.maximum(x, 0) for n, x in table.items()} for table in encoded]
    return inputs, [len(encoder.vocabulary(n)) + 1 for n in ("user", "item")]
