import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console

from fmlayers.runs.epoch_progress import new_bar


class SweepProgress:
    """Shows a progress bar for all sweeps, with the latest figures.

    If the output is not a terminal, it prints one line per sweep. It is a context
    manager, and a callback that receives the rows of the history.

    Args:
        sweeps: Total number of sweeps.
    """

    def __init__(self, sweeps: int) -> None:
        self.sweeps = sweeps
        self.console = Console(stderr=True)
        self.bar = new_bar(self.console)
        self.task = self.bar.add_task("sampling", total=sweeps, figures="")
        self.done: int | None = None  # sweeps before this process started
        self.started = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, row: Mapping[str, Any]) -> None:
        sweep = row["sweep"]
        shown = [
            f"{name} {value:.4f}"
            for name, value in row.items()
            if name not in ("sweep", "seconds", "alpha")
        ]
        shown += [f"alpha {row['alpha']:.4g}", f"{self._left(sweep)} left"]
        text = ", ".join(shown)
        self.bar.update(self.task, completed=sweep, figures=text)
        if not self.console.is_terminal:
            self.console.print(f"sampling {sweep}: {text}", highlight=False)

    def _left(self, sweep: int) -> str:
        """Returns the time that the remaining sweeps take, as text."""
        if self.done is None:
            self.done = sweep - 1
        pace = (time.perf_counter() - self.started) / (sweep - self.done)
        return _text(pace * (self.sweeps - sweep))


def _text(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
