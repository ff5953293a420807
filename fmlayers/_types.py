"""Names of types that several modules speak of."""

from typing import Any, Literal

Tensor = Any  # a tensor of whichever backend runs
Combiner = Literal["mean", "sum", "sqrtn"]
OutOfRange = Literal["unknown", "zero", "error"]
Loss = Literal["mse", "bce", "bpr"]
OptimizerName = Literal["adagrad", "lazy_adam"]
ScalerMethod = Literal["sigmoid", "clip", "none"]

MODELS = ("fm", "mf", "deepfm", "libfm", "neumf")  # as TrainingConfig names them
WITH_TOWER = ("deepfm", "neumf")  # those of them with hidden layers
