"""Lists of values that are written as text, such as "Drama|War"."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from fmlayers.data.encoder import Encoder
from fmlayers.data.weighted import SEPARATOR


def split_lists(
    table: pd.DataFrame, encoder: Encoder, list_separator: str
) -> pd.DataFrame:
    """Returns a table whose lists do not depend on the separator of an encoder.

    Args:
        table: The table.
        encoder: The encoder.
        list_separator: Text between the values of a list in the table.
    """
    if list_separator == encoder.separator:
        return table
    values = partial(_parts, separator=list_separator)
    pairs = partial(_pairs, separator=list_separator)
    splits: Mapping[str, Callable[[str], Any]] = {
        "multi_categorical": values,
        "multi_hash": values,
        "weighted": pairs,
        "weighted_hash": pairs,
        "vector": lambda text: text.split(list_separator),
    }
    apart = {*encoder.weights, *encoder.weights.values()}
    kinds = {name: encoder.columns[name].split("=")[0] for name in encoder.columns}
    kinds |= dict.fromkeys(apart, "vector")
    lists = {
        name: table[name]
        .astype(object)
        .map(
            lambda cell, split=splits[kind]: (
                tuple(split(cell)) if isinstance(cell, str) else cell
            )
        )
        for name, kind in kinds.items()
        if kind in splits and name in table
    }
    return table.assign(**lists)


def _parts(text: str, separator: str) -> Any:
    return (x for x in text.split(separator) if x)


def _pairs(text: str, separator: str) -> Any:
    return (x.rpartition(SEPARATOR)[::2] for x in text.split(separator) if x)
