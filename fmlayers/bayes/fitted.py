from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fmlayers.bayes.blocks import Block
from fmlayers.bayes.chain import Sample
from fmlayers.bayes.collapse import collapsed
from fmlayers.bayes.designs import Field, Floats, Pairs
from fmlayers.bayes.likelihoods import LOGITS_PER_PROBIT, LikelihoodName, normal_cdf
from fmlayers.bayes.posterior import MeanScore, PosteriorMean
from fmlayers.bayes.score_models import assign_score, new_model, selected
from fmlayers.bayes.scores import Scores
from fmlayers.features import Feature
from fmlayers.layers import RatingScaler

if TYPE_CHECKING:
    from fmlayers.data import Encoder
    from fmlayers.models import FactorizationMachine


@dataclass(frozen=True, eq=False)
class Fitted:
    """The result of a fit: everything that predictions and models need.

    Attributes:
        mean: The `PosteriorMean` over all samples.
        samples: List of some of the samples, evenly spaced.
        histories: Dict from the name of a `History` to its distinct keys and values.
        blocks: The blocks.
        bounds: Tuple of the lowest and the highest target.
        likelihood: The distribution of a target, given its score.
        variance: Float, the mean variance of the scores of the training rows. 0 unless
            the likelihood is `"probit"`.
    """

    mean: PosteriorMean
    samples: Sequence[Sample]
    histories: Mapping[str, Pairs]
    blocks: Sequence[Block]
    bounds: tuple[float, float]
    likelihood: LikelihoodName
    variance: float

    def expected(self, fields: Mapping[str, Field]) -> Floats:
        """Returns the means of the targets `(examples,)`."""
        if self.likelihood == "probit":
            return self.expected_and_std(fields)[0]
        return self._clipped(self._center(Scores(fields)))

    def expected_and_std(self, fields: Mapping[str, Field]) -> tuple[Floats, Floats]:
        """Returns the means and the standard deviations, `(examples,)` each."""
        scores = Scores(fields)
        center = self._center(scores)
        drawn = np.stack([scores(sample) for sample in self.samples])
        variance = drawn.var(axis=0)
        if self.likelihood == "probit":
            expected = normal_cdf(center / np.sqrt(1.0 + variance))
            return expected, normal_cdf(drawn).std(axis=0)
        noise = np.mean([1.0 / sample.alpha for sample in self.samples])
        return self._clipped(center), np.sqrt(variance + noise).astype(np.float32)

    def _center(self, scores: Scores) -> Floats:
        mean = self.mean.mean(self.blocks)
        return scores(Sample(mean.bias, 1.0, mean.tables))

    def _clipped(self, scores: Floats) -> Floats:
        return np.clip(scores, *self.bounds)

    def to_model(
        self,
        features: Sequence[Feature],
        dim: int | None,
        *,
        collapse: bool,
        encoder: "Encoder | None",
        scaler: RatingScaler | None,
    ) -> "FactorizationMachine":
        """Returns the mean over all samples; see `GibbsSampler.to_model`."""
        mean = self.mean.mean(self.blocks, None if collapse else dim)
        if collapse:
            features, mean = collapsed(mean, features, self.blocks)
            encoder = None if encoder is None else selected(encoder, features)
            if dim is not None:
                mean = self.mean.reduced(mean, dim)
        is_probit = self.likelihood == "probit"
        if scaler is None:
            scaler = RatingScaler(*self.bounds, "sigmoid" if is_probit else "clip")
        model = new_model(
            features, mean.dim, self.histories, scaler=scaler, encoder=encoder
        )
        assign_score(model, mean)
        if is_probit:
            model.rescale(LOGITS_PER_PROBIT / np.sqrt(1.0 + self.variance), 0.0)
        return model

    def draws(
        self, features: Sequence[Feature]
    ) -> Iterator[tuple["FactorizationMachine", float]]:
        """Yields a model with the weights of each sample, and alpha."""
        width = next(iter(self.samples[0].tables.values())).shape[1]
        model = new_model(features, width - 1, self.histories)
        for sample in self.samples:
            tables = sample.tables.items()
            score = MeanScore(
                sample.bias,
                {name: table[:, 0] for name, table in tables},
                {name: table[:, 1:] for name, table in tables},
            )
            assign_score(model, score)
            yield model, sample.alpha

    def state(self) -> dict[str, Any]:
        """Returns the content of a file, without the likelihood."""
        return {
            "mean": self.mean.state(),
            "samples": [dict(vars(sample)) for sample in self.samples],
            "histories": {name: list(x) for name, x in self.histories.items()},
            "blocks": [block.state() for block in self.blocks],
            "bounds": self.bounds,
            "variance": self.variance,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], likelihood: LikelihoodName) -> Self:
        """Returns the result of a state."""
        low, high = state["bounds"]
        return cls(
            PosteriorMean.of_state(state["mean"]),
            [Sample(**sample) for sample in state["samples"]],
            {name: (x, y) for name, (x, y) in state["histories"].items()},
            [Block.of_state(block) for block in state["blocks"]],
            (low, high),
            likelihood,
            state["variance"],
        )
