"""The main job: training runs and their folders."""

from fmlayers.training.config import TrainingConfig
from fmlayers.training.job import train
from fmlayers.training.run import Run, RunError

__all__ = ["Run", "RunError", "TrainingConfig", "train"]
