"""The chains of a fit, each with the sums over its samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fmlayers._digests import digest_of
from fmlayers._state_files import read_state, write_state
from fmlayers.bayes.blocks import Block
from fmlayers.bayes.chain import Chain, Sample
from fmlayers.bayes.designs import Field, Floats
from fmlayers.bayes.draws import Draws
from fmlayers.bayes.examples import Examples
from fmlayers.bayes.likelihoods import LikelihoodName
from fmlayers.bayes.posterior import PosteriorMean
from fmlayers.bayes.priors import Hyperprior, Matrix
from fmlayers.bayes.scores import Scores
from fmlayers.bayes.thinned import Thinned

WARM_UP = 10  # first sweeps, in which the prior scale is at least 1
MAX_SAMPLES = 32  # of all chains together, but at least 2 of each
KIND = "the state of a chain"
Array = TypeVar("Array", Floats, Matrix)


@dataclass(frozen=True, eq=False)
class Problem:
    """The data and the settings that all chains of a fit share.

    Attributes:
        blocks: The blocks.
        targets: Floats `(examples,)`.
        weights: Floats `(examples,)`.
        held_out: Optional dict from the name of a field to the field over the
            validation rows.
        held_out_targets: Optional floats, the targets of the validation rows.
        dim: Integer, the embedding dimension of a sample.
        max_dim: Integer; see `PosteriorMean`.
        chains: Integer, the number of chains.
        burn_in: Integer, the number of first sweeps that are not used.
        prior: The `Hyperprior`.
        likelihood: The distribution of the targets.
        seed: Integer.
        sampled_blocks: The blocks of the chains. They differ from `blocks` if the
            histories exclude the values of the examples.
    """

    blocks: Sequence[Block]
    targets: Matrix
    weights: Matrix
    held_out: Mapping[str, Field] | None
    held_out_targets: Matrix | None
    dim: int
    max_dim: int
    chains: int
    burn_in: int
    prior: Hyperprior
    likelihood: LikelihoodName
    seed: int
    sampled_blocks: Sequence[Block]

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest target."""
        return float(self.targets.min()), float(self.targets.max())


class Report(NamedTuple):
    """The figures of a chain after a sweep.

    Attributes:
        alpha: Float.
        draws: Integer, the number of samples so far. During the burn-in, it is 1, for
            the current weights.
        fitted: Floats `(examples,)`, the expected targets of the training rows, summed
            over these draws.
        held_out: Optional floats: the same for the validation rows, after the burn-in.
    """

    alpha: float
    draws: int
    fitted: Floats
    held_out: Matrix | None


class Result(NamedTuple):
    """The mean of the samples of a chain, and some of the samples."""

    mean: PosteriorMean
    samples: list[Sample]


class ChainRun:
    """A chain with the sums over its samples.

    Args:
        chain: The `Chain`.
        problem: The `Problem`.
        draws: The `Draws` of its blocks.
        scores: Optional `Scores` of the validation rows.
    """

    def __init__(
        self, chain: Chain, problem: Problem, draws: Draws, scores: Scores | None
    ) -> None:
        self.chain = chain
        self._draws = draws
        self.mean = PosteriorMean(problem.blocks, problem.max_dim)
        self.samples = Thinned(max(MAX_SAMPLES // problem.chains, 2))
        self._burn_in = problem.burn_in
        self._scores = scores
        self._fitted: Floats | None = None
        self._held_out: Matrix | None = None

    def sweep(self) -> Report:
        """Draws all weights once, and adds the sample after the burn-in."""
        chain, likelihood = self.chain, self.chain.likelihood
        chain.sweep()
        fitted = likelihood.expected(chain.scores())
        if chain.sweeps <= self._burn_in:
            return Report(chain.alpha, 1, fitted, None)
        sample = chain.sample()
        self.mean.add(sample, self._draws.key_parts(chain.tables))
        self.samples.add(sample)
        self._fitted = _sum(self._fitted, fitted)
        if self._scores is not None:
            expected = likelihood.expected(self._scores(sample))
            self._held_out = _sum(self._held_out, expected.astype(np.float64))
        return Report(chain.alpha, self.mean.samples, self._fitted, self._held_out)

    def state(self) -> dict[str, Any]:
        """Returns everything that further sweeps and the result depend on."""
        return {
            "chain": self.chain.state(),
            "mean": self.mean.state(),
            "samples": self.samples.state(),
            "fitted": self._fitted,
            "held_out": self._held_out,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state."""
        self.chain.restore(state["chain"])
        self.mean = PosteriorMean.of_state(state["mean"])
        self.samples.restore(state["samples"])
        self._fitted, self._held_out = state["fitted"], state["held_out"]


def _sum(total: Array | None, x: Array) -> Array:
    return x if total is None else total + x


class ChainRuns:
    """Some of the chains of a fit, which this process sweeps in turn.

    Args:
        problem: The `Problem`.
        indices: The numbers of the chains, from 0.
    """

    def __init__(self, problem: Problem, indices: Sequence[int]) -> None:
        examples = Examples(problem.sampled_blocks, problem.weights)
        draws = Draws(problem.sampled_blocks, problem.dim)
        same = problem.sampled_blocks is problem.blocks
        of_keys = draws if same else Draws(problem.blocks, problem.dim)
        held_out = problem.held_out
        scores = None if held_out is None else Scores(held_out)
        generators = np.random.default_rng(problem.seed).spawn(problem.chains)
        self._runs = [
            ChainRun(
                Chain(
                    examples,
                    draws,
                    problem.targets,
                    prior=problem.prior,
                    warm_up=WARM_UP,
                    rng=generators[i],
                    likelihood=problem.likelihood,
                ),
                problem,
                of_keys,
                scores,
            )
            for i in indices
        ]

    def sweep(self) -> list[Report]:
        """Sweeps each chain once. Returns the reports of the chains."""
        return [run.sweep() for run in self._runs]

    def save(self, paths: Sequence[Path]) -> list[str]:
        """Writes the state of each chain to a file. Returns the files' digests."""
        for run, path in zip(self._runs, paths, strict=True):
            write_state(path, KIND, run.state())
        return [digest_of(path) for path in paths]

    def restore(self, paths: Sequence[Path]) -> list[int]:
        """Resumes each chain from a file. Returns the sweeps of the chains."""
        for run, path in zip(self._runs, paths, strict=True):
            run.restore(read_state(path, KIND))
        return [run.chain.sweeps for run in self._runs]

    def results(self) -> list[Result]:
        """Returns the results of the chains."""
        return [Result(run.mean, list(run.samples)) for run in self._runs]

    def close(self) -> None:
        """Does nothing; see `Workers.close`."""
