from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from fmlayers import _hosts


def new_bar(console: Console) -> Progress:
    """Returns a progress bar whose tasks have a text field `figures`.

    It is drawn only on a terminal.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
    )


class EpochProgress(keras.callbacks.Callback):
    """Shows a progress bar for all epochs, with the latest metric.

    If the output is not a terminal, it prints one line per epoch.

    Args:
        title: The title of the bar.
        epochs: Total number of epochs.
        initial_epoch: Number of epochs that are done. Defaults to 0.
        metric: Name of the metric to show, for training and validation rows. Defaults
            to `"rmse"`.
    """

    def __init__(
        self, title: str, epochs: int, initial_epoch: int = 0, *, metric: str = "rmse"
    ) -> None:
        super().__init__()
        self.metric = metric
        self.title = title
        self.epochs = epochs
        self.console = Console(stderr=True, quiet=not _hosts.is_first())
        self.bar = new_bar(self.console)
        self.task = self.bar.add_task(
            title, total=epochs, completed=initial_epoch, figures=""
        )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.bar.start()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        figures = ", ".join(
            f"{name} {value:.4f}"
            for name, value in (logs or {}).items()
            if name.endswith(self.metric)
        )
        self.bar.update(self.task, completed=epoch + 1, figures=figures)
        if not self.console.is_terminal:
            self.console.print(f"{self.title} {epoch + 1}: {figures}", highlight=False)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.bar.stop()
