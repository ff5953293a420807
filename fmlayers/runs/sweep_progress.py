import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console

from fmlayers.runs.epoch_progress import new_bar


class SweepProgress:
    """Shows a progress bar for all sweeps, with the latest figures.

    If the output is not a terminal, it prints one line per sweep. It is a callback of
    `GibbsSampler.fit`, and a context.

    Args:
        sweeps: Total number of sweeps.
        metric: Name under which the RMSE is shown. Defaults to `"rmse"`.
        size: Float, the unit of the RMSE, in that of the data. Defaults to 1.
    """

    def __init__(self, sweeps: int, *, metric: str = "rmse", size: float = 1.0) -> None:
        self.sweeps = sweeps
        self.metric = metric
        self.size = size
        self.console = Console(stderr=True)
        self.bar = new_bar(self.console)
        self.task = self.bar.add_task("sampling", total=sweeps, figures="")
        self.first = 0
        self.started = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, sweep: int, figures: Mapping[str, float]) -> None:
        figures = dict(figures)
        alpha = figures.pop("alpha") / self.size**2
        shown = [
            f"{name.replace('rmse', self.metric)} {value * self.size:.4f}"
            for name, value in figures.items()
        ]
        text = ", ".join([*shown, f"alpha {alpha:.4g}", self._left(sweep)])
        self.bar.update(self.task, completed=sweep, figures=text)
        if not self.console.is_terminal:
            self.console.print(f"sampling {sweep}: {text}", highlight=False)

    def _left(self, sweep: int) -> str:
        """Returns the time that the remaining sweeps take, as text."""
        if not self.first:  # resumed, it does not start at the first sweep
            self.first = sweep - 1
        pace = (time.perf_counter() - self.started) / (sweep - self.first)
        return f"{_text(pace * (self.sweeps - sweep))} left"


def _text(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
