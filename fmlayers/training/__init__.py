"""The main job: training runs and their folders."""

from typing import TYPE_CHECKING

from fmlayers import _lazy

__all__ = ["Run", "RunError", "TrainingConfig", "train"]

if TYPE_CHECKING:
    from fmlayers.training.config import TrainingConfig
    from fmlayers.training.job import train
    from fmlayers.training.run import Run, RunError
else:
    __getattr__, __dir__ = _lazy.lazy_names(
        __name__,
        {
            "Run": "fmlayers.training.run",
            "RunError": "fmlayers.training.run",
            "TrainingConfig": "fmlayers.training.config",
            "train": "fmlayers.training.job",
        },
    )
