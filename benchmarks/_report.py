from collections.abc import Sequence

import numpy as np


def print_rmse(name: str, rmse: Sequence[float], seconds: Sequence[float]) -> None:
    """Prints the mean RMSE over splits, each split's, and the mean time of a run."""
    each = " ".join(f"{value:.4f}" for value in rmse)
    print(
        f"{name}: RMSE {np.mean(rmse):.4f} ({each}), {np.mean(seconds):.0f} s a run",
        flush=True,
    )
