"""Runs: train a model on a table of ratings, evaluate it and use it."""

from typing import TYPE_CHECKING

from fmlayers import _lazy

__all__ = ["Run", "RunError", "TrainingConfig", "inspect", "train"]

if TYPE_CHECKING:
    from fmlayers.runs.config import TrainingConfig
    from fmlayers.runs.folder import RunError
    from fmlayers.runs.inspection import inspect
    from fmlayers.runs.run import Run
    from fmlayers.runs.training import train
else:
    __getattr__, __dir__ = _lazy.lazy_names(
        __name__,
        {
            "Run": "fmlayers.runs.run",
            "RunError": "fmlayers.runs.folder",
            "TrainingConfig": "fmlayers.runs.config",
            "inspect": "fmlayers.runs.inspection",
            "train": "fmlayers.runs.training",
        },
    )
