"""Checks of row splits, which divide the values of a ragged batch into rows."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._backend import concrete, dtype_of
from fmlayers._types import Tensor


def check_row_splits(of: str, splits: Tensor, count: int | None) -> None:
    """Raises `ValueError` unless a tensor has valid row splits.

    In compiled code, the values cannot be checked. See `row_of_each` for the rows that
    invalid ones give.

    Args:
        of: String, whose row splits they are, for the error.
        splits: Tensor or array.
        count: Integer, the number of values, or `None` if it is unknown.
    """
    fault = _fault_of_form(splits)
    array = None if fault else concrete(splits)
    if array is not None:
        fault = _fault_of_values(array, count)
    if fault:
        values = "the number of values" + ("" if count is None else f", {count:,}")
        raise ValueError(
            f"Row splits of {of} must be integers (batch + 1,) that ascend from 0 to "
            f"{values}. Received: {fault}. Rows of these `lengths` have the row splits "
            "`np.concatenate([[0], np.cumsum(lengths)])`."
        )


def _fault_of_form(splits: Tensor) -> str:
    shape, dtype = tuple(splits.shape), dtype_of(splits)
    if len(shape) != 1 or shape[0] == 0:
        return f"shape {shape}"
    return "" if dtype.startswith(("int", "uint")) else f"{dtype=!s}"


def _fault_of_values(splits: npt.NDArray[Any], count: int | None) -> str:
    if splits[0] != 0:
        return f"{splits[0]} as the first"
    falls = np.flatnonzero(splits[1:] < splits[:-1])
    if len(falls):
        return f"{splits[falls[0] + 1]} after {splits[falls[0]]}"
    if count is not None and splits[-1] != count:
        return f"{splits[-1]} as the last"
    return ""
