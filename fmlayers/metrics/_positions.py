"""Checks of users and items that are given as positions."""

import numpy as np
import numpy.typing as npt


def check_positions(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return one-dimensional positions (integers from 0) as int64."""
    positions = np.asarray(values)
    if positions.ndim != 1:
        raise ValueError(
            f"`{name}` must be one-dimensional. Received: shape {positions.shape}."
        )
    if not positions.size:
        return np.empty(0, dtype=np.int64)  # NumPy takes an empty list for floats
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
    """Raise if the columns of a table aren't equally long."""
    lengths = [len(column) for column in columns.values()]
    if len(set(lengths)) > 1:
        names = " and ".join(f"`{name}`" for name in columns)
        raise ValueError(
            f"{names} must be equally long. "
            f"Received: lengths {', '.join(map(str, lengths))}."
        )
