import statistics
import time
from collections.abc import Callable


def medians(
    runs: dict[str, Callable[[], object]], rounds: int = 15
) -> dict[str, float]:
    """Returns the median seconds of each function; they take turns after a warm-up."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
