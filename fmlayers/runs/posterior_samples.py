"""The samples of a run with the method `"gibbs"`, for standard deviations."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._files import whole_file
from fmlayers._types import Tensor
from fmlayers.bayes import GibbsSampler
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.folder import RunError
from fmlayers.runs.prediction import predict
from fmlayers.runs.saved_run import SavedRun
from fmlayers.runs.unit import Unit, transformed

SAMPLES = "samples.npz"
Floats = npt.NDArray[np.float64]


def write_samples(path: Path, sampler: GibbsSampler, unit: Unit) -> None:
    """Writes samples to a file, in the unit of the data.

    Args:
        path: The file.
        sampler: The `GibbsSampler`.
        unit: The unit of its targets.
    """
    drawn: list[list[Any]] = []
    precisions = []
    for model, alpha in sampler.draws():
        model.rescale(unit.size, unit.mean)
        drawn.append(
            [ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
        )
        precisions.append(alpha / unit.size**2)
    arrays: dict[str, Any] = {
        f"weights/{i}": np.stack(each)
        for i, each in enumerate(zip(*drawn, strict=True))
    }
    file = io.BytesIO()
    arrays |= {"dim": sampler.dim, "alpha": np.array(precisions)}
    np.savez(file, **arrays)
    with whole_file(path) as written:
        written.write_bytes(file.getbuffer())


class PosteriorSamples:
    """Up to 32 samples of the weights of a run.

    Args:
        run: The run.

    Raises:
        ValueError: If the run has no samples.
        RunError: If the file is damaged.
    """

    def __init__(self, run: SavedRun) -> None:
        path = run.files.find(SAMPLES)
        if path is None:
            raise ValueError(
                "Standard deviations and exploration need the samples of a run: train "
                "with `--method gibbs`. Received: a run with the method "
                f"{run.config.method!r}."
            )
        self.run = run
        try:
            with np.load(path, allow_pickle=False) as file:
                dim, self.alpha = int(file["dim"]), np.asarray(file["alpha"])
                self.weights = [
                    file[f"weights/{i}"] for i in range(len(file.files) - 2)
                ]
        except Exception as error:  # errors of zipfile, NumPy and the file system
            raise RunError(f"{path} does not contain samples: {error}") from error
        config = run.model.get_config()
        changes = {"dim": dim, "scaler": None, "encoder": None}
        self.model = type(run.model).from_config({**config, **changes})
        for old, new in zip(  # the histories
            run.model.non_trainable_variables,
            self.model.non_trainable_variables,
            strict=True,
        ):
            new.assign(old)

    def __len__(self) -> int:
        return len(self.alpha)

    def models(self) -> Iterator[Any]:
        """Yields the model of each sample, always the same object.

        It has no scaler: its output is the transformed target. For labels, the
        probability is Phi of its output.
        """
        for i in range(len(self)):
            for variable, values in zip(
                self.model.trainable_variables, self.weights, strict=True
            ):
                variable.assign(values[i])
            yield self.model

    def transformed(self, inputs: dict[str, npt.NDArray[Any]]) -> tuple[Floats, Floats]:
        """Returns the mean and the standard deviation of the transformed targets."""
        scores = self._scores(inputs)
        variance = np.var(scores, axis=0) + self.noise
        return np.mean(scores, axis=0), np.sqrt(variance)

    def _scores(self, inputs: dict[str, npt.NDArray[Any]]) -> Floats:
        """Returns the scores of each sample, `(samples, rows)`."""
        return np.array([predict(model, inputs) for model in self.models()], np.float64)

    def stddev(self, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Returns the standard deviation of the target of each row, `(rows,)`.

        It includes the error of a single target. For labels, it is the standard
        deviation of the probability of the label 1.
        """
        stddev = stddev_of(self.run.config, self._scores(inputs), self.noise)
        return np.asarray(ops.convert_to_numpy(stddev), np.float32)

    @property
    def noise(self) -> float:
        """The variance of the error of a transformed target, given its score."""
        return float(np.mean(1.0 / self.alpha))


def stddev_of(config: TrainingConfig, scores: Any, noise: float) -> Tensor:
    """Returns the standard deviations of targets, `(rows,)`.

    Args:
        config: The configuration of the run.
        scores: Floats `(samples, rows)`.
        noise: Float, the variance of the error of a transformed target.
    """
    if config.task == "binary":
        return ops.std(0.5 + 0.5 * ops.erf(scores / 2**0.5), axis=0)
    variance = ops.var(scores, axis=0) + noise
    if config.target_transform == "log1p":
        # Of a variable whose logarithm is normally distributed.
        size = ops.exp(ops.mean(scores, axis=0) + variance / 2)
        return size * ops.sqrt(ops.expm1(variance))
    return ops.sqrt(variance)


def interval_coverage(
    config: TrainingConfig,
    mean: Floats,
    stddev: Floats,
    targets: npt.ArrayLike,
    shares: Sequence[float],
) -> Floats:
    """Returns the shares of the targets that lie within central intervals.

    Args:
        config: The configuration of the run.
        mean: The means of the transformed targets, `(rows,)`.
        stddev: Their standard deviations, `(rows,)`.
        targets: The targets, `(rows,)`.
        shares: The shares that the intervals are meant to contain.
    """
    errors = np.abs(transformed(config, targets) - mean) / stddev
    bounds = [NormalDist().inv_cdf((1.0 + share) / 2.0) for share in shares]
    return np.array([np.mean(errors <= bound) for bound in bounds])
