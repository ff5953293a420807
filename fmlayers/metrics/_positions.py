"""Validation of users and items that are represented by positions."""

import numpy as np
import numpy.typing as npt


def check_positions(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Validates one-dimensional, non-negative integers; returns them as int64."""
    positions = np.asarray(values)
    if positions.ndim != 1:
        raise ValueError(
            f"`{name}` must be one-dimensional. Received: shape {positions.shape}."
        )
    if not positions.size:
        return np.empty(0, dtype=np.int64)  # NumPy makes an empty list a float array
    if positions.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integer positions. Received: dtype {positions.dtype}."
        )
    if positions.min() < 0:
        row = int(positions.argmin())
        raise ValueError(
            f"`{name}` must be positions from 0. "
            f"Received: {positions[row]} in row {row + 1}."
        )
    return positions.astype(np.int64)


def check_lengths(**columns: npt.NDArray[np.generic]) -> None:
    """Raises `ValueError` unless all columns have the same length."""
    lengths = [len(column) for column in columns.values()]
    if len(set(lengths)) > 1:
        names = " and ".join(f"`{name}`" for name in columns)
        raise ValueError(
            f"{names} must have the same length. "
            f"Received: lengths {', '.join(map(str, lengths))}."
        )
