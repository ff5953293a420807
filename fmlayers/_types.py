"""Types and constants that several modules use."""

from typing import Any, Literal

Tensor = Any  # a tensor of the running backend
Combiner = Literal["mean", "sum", "sqrtn"]
OutOfRange = Literal["unknown", "zero", "error"]
Loss = Literal["mse", "bce", "bpr"]
Task = Literal["regression", "binary", "implicit"]
OnDuplicate = Literal["keep", "last", "mean", "sum", "count", "error"]
Method = Literal["gradient", "gibbs"]
OptimizerName = Literal["adagrad", "lazy_adam"]
ScalerMethod = Literal["sigmoid", "clip", "none"]
Transform = Literal["none", "log1p"]

SYNTHETIC_CLICKS = "synthetic-clicks"  # the source of that name
ADAGRAD_RATE = 0.05  # default learning rate of `Adagrad` and of runs on ratings
