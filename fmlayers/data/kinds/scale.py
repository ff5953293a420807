import math
from typing import Any


def checked_scale(column: str, scale: Any) -> tuple[float, float]:
    """Returns the mean and the standard deviation of a record.

    Raises:
        ValueError: If the record is not a finite and a positive number.
    """
    numbers = list(scale) if isinstance(scale, list | tuple) else []
    if (
        len(numbers) == 2
        and all(isinstance(x, float | int) and math.isfinite(x) for x in numbers)
        and numbers[1] > 0
    ):
        return float(numbers[0]), float(numbers[1])
    raise ValueError(
        f"The scale of {column!r} must be a finite mean and a positive, finite "
        f"standard deviation. Received: {scale!r:.60}."
    )
