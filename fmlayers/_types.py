"""Names of types that several modules speak of."""

from typing import Any, Literal

Tensor = Any  # a tensor of whichever backend runs
Combiner = Literal["mean", "sum", "sqrtn"]
OutOfRange = Literal["unknown", "zero", "error"]
Loss = Literal["mse", "bce", "bpr"]
OptimizerName = Literal["adagrad", "lazy_adam"]
ScalerMethod = Literal["sigmoid", "clip", "none"]

ADAGRAD_RATE = 0.05  # of `Adagrad` and, on ratings, of the command
