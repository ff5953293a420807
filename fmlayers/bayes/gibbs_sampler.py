from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from fmlayers import _registry
from fmlayers._checks import integer, positive
from fmlayers.bayes.blocks import Block, find_blocks
from fmlayers.bayes.chain import Chain
from fmlayers.bayes.designs import Field, Floats, Pairs, field_of
from fmlayers.bayes.draws import Draws
from fmlayers.bayes.examples import Examples
from fmlayers.bayes.posterior import MeanScore, PosteriorMean
from fmlayers.bayes.priors import Hyperprior, Matrix
from fmlayers.bayes.scores import Scores
from fmlayers.bayes.thinned import Thinned
from fmlayers.features import Feature, History
from fmlayers.layers import FeatureEmbedding, RatingScaler

if TYPE_CHECKING:
    from fmlayers.data import Encoder
    from fmlayers.models import FactorizationMachine

# Of the tables, if no prior scale is given: of ids alone, and with further fields.
IDS_SCALE, FIELDS_SCALE = 1.0, 0.015
WARM_UP = 10  # sweeps in which a smaller scale counts as 1
MAX_DIM = 512  # of the mean over the samples
MAX_SAMPLES = 32  # kept whole, for standard deviations
# A function of the sweep, from 1, and its figures.
Callback = Callable[[int, Mapping[str, float]], None]


class GibbsSampler:
    """Samples the weights of a factorization machine from their posterior distribution.

        target = b + sum_f w_f + sum_{f<g} <v_f, v_g> + N(0, 1 / alpha)

    The rows (w, v) of each table are normally distributed a priori, with a mean and a
    precision matrix of each field that are sampled, too. There is no learning rate, no
    L2 and no number of epochs to choose. Predictions are means over the samples, which
    are more accurate than those of a single model, and have standard deviations.

    The mean over the samples is a factorization machine itself: `to_model` returns it
    as a `FactorizationMachine`.

    Fields that are functions of a `Categorical`, such as the age of a user, are found
    and drawn from one pass over the examples together. `History` fields contain the
    example's own value, as in libFM; the histories are the pairs of the examples.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`, each with a separate table.
        dim: Positive integer, the embedding dimension of a sample.
        chains: Positive integer. Several short chains estimate a mean better than a
            long one of the same cost. Defaults to 4.
        prior_scale: Optional positive float. A priori, the precision matrices have a
            Wishart distribution with the scale matrix I / `prior_scale`. Defaults to
            `None`: 1 if each field is a key, as for user and item alone, else
            0.015.
        max_dim: Positive integer. The samples are added up with a dimension of at most
            this, which bounds the memory. Defaults to 512.
        seed: Integer. Defaults to 0.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> features = [fmlayers.Categorical("user", 4), fmlayers.Categorical("item", 3)]
    >>> inputs = {"user": np.array([0, 1, 2, 3, 0]), "item": np.array([0, 1, 2, 0, 1])}
    >>> sampler = fmlayers.bayes.GibbsSampler(features, dim=2, chains=2)
    >>> sampler = sampler.fit(inputs, np.array([4, 3, 5, 4, 2]), sweeps=30)
    >>> mean, stddev = sampler.predict(inputs, return_std=True)
    >>> mean.shape, bool((stddev > 0).all())
    ((5,), True)
    >>> model = sampler.to_model(dim=8)

    References:
        - Salakhutdinov, R. and Mnih, A. (2008). Bayesian Probabilistic Matrix
          Factorization using Markov Chain Monte Carlo. ICML.
        - Freudenthaler, C., Schmidt-Thieme, L. and Rendle, S. (2011). Bayesian
          Factorization Machines. NIPS workshop on sparse representation and low-rank
          approximation.
        - Rendle, S. (2013). Scaling Factorization Machines to Relational Data. VLDB.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        dim: int,
        *,
        chains: int = 4,
        prior_scale: float | None = None,
        max_dim: int = MAX_DIM,
        seed: int = 0,
    ) -> None:
        self.features = list(features)
        _check_tables(self.features)
        self.dim = integer("dim", dim)
        self.chains = integer("chains", chains)
        if prior_scale is not None:
            prior_scale = positive("prior_scale", prior_scale)
        self.prior_scale = prior_scale
        self.max_dim = integer("max_dim", max_dim)
        self.seed = integer("seed", seed, "a nonnegative integer", least=0)
        self.histories: dict[str, Pairs] = {}
        self._mean: PosteriorMean | None = None
        self._samples = Thinned(MAX_SAMPLES)
        self._bounds = (0.0, 1.0)

    def fit(
        self,
        inputs: Mapping[str, Any],
        targets: npt.ArrayLike,
        sweeps: int = 100,
        burn_in: int = 10,
        *,
        sample_weight: npt.ArrayLike | None = None,
        validation_data: tuple[Mapping[str, Any], npt.ArrayLike] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Draws samples.

        Args:
            inputs: Dict of arrays, as for a model: the encoded training rows.
            targets: Finite numbers `(examples,)`.
            sweeps: Positive integer. A sweep draws all weights of a chain once.
                Defaults to 100.
            burn_in: Integer, the number of first sweeps that are not used, less than
                `sweeps`. Defaults to 10.
            sample_weight: Optional nonnegative numbers `(examples,)`. An error of an
                example of weight w has the precision w * alpha.
            validation_data: Optional tuple of inputs and targets, for the figure
                `"val_rmse"`: the RMSE of the mean over all samples so far.
            callbacks: List of functions. After each sweep of all chains, they are
                called with the number of sweeps and a dict of figures: `"alpha"`,
                `"rmse"` (of the current weights on the training rows) and
                `"val_rmse"`.

        Returns:
            The sampler. Samples of an earlier `fit` are dropped.

        Raises:
            ValueError: If the arguments do not fit together.
        """
        sweeps = integer("sweeps", sweeps)
        burn_in = integer(
            "burn_in", burn_in, "less than `sweeps`", least=0, most=sweeps - 1
        )
        y = _numbers("targets", targets)
        weights = np.ones(len(y))
        if sample_weight is not None:
            weights = _numbers("sample_weight", sample_weight, len(y))
            if (weights < 0).any() or not weights.any():
                raise ValueError(
                    "`sample_weight` must be nonnegative, and not all 0. Received: "
                    f"weights from {weights.min():g} to {weights.max():g}."
                )
        self.histories = {
            feature.name: _pairs(feature, inputs)
            for feature in self.features
            if isinstance(feature, History)
        }
        fields = self._fields(inputs, len(y))
        self._mean = PosteriorMean(
            {name: field.column_weights() for name, field in fields.items()},
            self.max_dim,
        )
        self._samples = Thinned(MAX_SAMPLES)
        self._bounds = (float(y.min()), float(y.max()))
        chains = self._chains(find_blocks(self.features, fields), y, weights)
        validation = None
        if validation_data is not None:
            validation = _Validation(*validation_data, self._fields, self._bounds)
        for sweep in range(1, sweeps + 1):
            for chain in chains:
                chain.sweep()
                if sweep > burn_in:
                    sample = chain.sample()
                    self._mean.add(sample)
                    self._samples.add(sample)
                    if validation is not None:
                        validation.add(sample)
            if callbacks:
                figures = {
                    "alpha": float(np.mean([chain.alpha for chain in chains])),
                    "rmse": float(np.mean([chain.rmse() for chain in chains])),
                }
                if validation is not None and sweep > burn_in:
                    figures["val_rmse"] = validation.rmse()
                for callback in callbacks:
                    callback(sweep, figures)
        return self

    def predict(
        self, inputs: Mapping[str, Any], *, return_std: bool = False
    ) -> Floats | tuple[Floats, Floats]:
        """Returns the posterior means of the targets, from up to 32 of the samples.

        Args:
            inputs: Dict of arrays, as for a model. Unknown ids have the mean of the
                prior. The histories are those of `fit`.
            return_std: Whether to return standard deviations, too: those of the target,
                which includes the error 1 / alpha. Defaults to `False`.

        Returns:
            The means `(examples,)`, between the lowest and the highest target of `fit`;
            with `return_std`, a tuple of the means and the standard deviations.

        Raises:
            ValueError: If `fit` was not called, or the inputs do not fit the features.
        """
        self._fitted()
        scores = Scores(self._fields(inputs))
        drawn = np.stack([scores(sample) for sample in self._samples])
        mean: Floats = np.clip(drawn.mean(axis=0), *self._bounds)
        if not return_std:
            return mean
        noise = np.mean([1.0 / sample.alpha for sample in self._samples])
        return mean, np.sqrt(drawn.var(axis=0) + noise).astype(np.float32)

    def to_model(
        self,
        dim: int | None = None,
        *,
        encoder: "Encoder | None" = None,
        scaler: RatingScaler | None = None,
    ) -> "FactorizationMachine":
        """Returns the mean over all samples, as an ordinary model.

        The model leaves the example's own value out of its histories, as every
        `History`. The predictions are those of the sampler where a history does not
        contain it, as in test rows.

        Args:
            dim: Optional positive integer, the embedding dimension. For user and item
                alone, 16 to 32 lose nothing; with further fields, 256 lose little.
                Defaults to `None`: the dimension that the sampler has kept, at most
                `max_dim`.
            encoder: Optional `fmlayers.data.Encoder`, saved with the model.
            scaler: Optional `RatingScaler`, the map from the targets of `fit` to
                ratings. Defaults to one that clips to the lowest and the highest
                target.

        Returns:
            A `fmlayers.models.FactorizationMachine` with this scaler.

        Raises:
            ValueError: If `fit` was not called, or `dim` is invalid.
        """
        if dim is not None:
            dim = integer("dim", dim)
        mean = self._fitted().mean(dim)
        if scaler is None:
            scaler = RatingScaler(*self._bounds, "clip")
        model = self._model(mean.dim, scaler, encoder)
        self._assign(model, mean)
        return model

    def draws(self) -> Iterator[tuple["FactorizationMachine", float]]:
        """Yields up to 32 of the samples, evenly spaced.

        Yields:
            A `fmlayers.models.FactorizationMachine` without a scaler, which is the same
            object each time and has the weights of the sample; and alpha.

        Raises:
            ValueError: If `fit` was not called.
        """
        self._fitted()
        model = self._model(self.dim, None, None)
        for sample in self._samples:
            tables = sample.tables.items()
            score = MeanScore(
                sample.bias,
                {name: table[:, 0] for name, table in tables},
                {name: table[:, 1:] for name, table in tables},
            )
            self._assign(model, score)
            yield model, sample.alpha

    def _model(
        self, dim: int, scaler: RatingScaler | None, encoder: "Encoder | None"
    ) -> "FactorizationMachine":
        model: FactorizationMachine = _registry.load("FactorizationMachine")(
            self.features, dim, scaler, l2=0.0, linear_l2=0.0, encoder=encoder
        )
        for name, (keys, values) in self.histories.items():
            model.factors.set_history(name, keys, values)
        return model

    def _assign(self, model: "FactorizationMachine", score: MeanScore) -> None:
        for feature in self.features:
            name = feature.name
            _assign(model.factors, feature, score.vectors[name])
            _assign(model.linear, feature, score.linear[name][:, np.newaxis])
        model.bias.assign([score.bias])

    def _fields(
        self, inputs: Mapping[str, Any], count: int | None = None
    ) -> dict[str, Field]:
        fields = {f.name: field_of(f, inputs, self.histories) for f in self.features}
        lengths = {name: len(field.index) for name, field in fields.items()}
        if count is not None:
            lengths["targets"] = count
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "`inputs` and `targets` must have the same number of examples. "
                f"Received: {lengths}."
            )
        return fields

    def _chains(
        self, blocks: Sequence[Block], targets: Matrix, weights: Matrix
    ) -> list[Chain]:
        scale = self.prior_scale
        if scale is None:
            are_keys = all(len(block.designs) == 1 for block in blocks)
            scale = IDS_SCALE if are_keys else FIELDS_SCALE
        examples, draws = Examples(blocks, weights), Draws(blocks, self.dim)
        return [
            Chain(
                examples,
                draws,
                targets,
                prior=Hyperprior(scale=scale),
                warm_up=WARM_UP,
                rng=rng,
            )
            for rng in np.random.default_rng(self.seed).spawn(self.chains)
        ]

    def _fitted(self) -> PosteriorMean:
        if self._mean is None:
            raise ValueError("`fit` must be called first. Received: no samples.")
        return self._mean


class _Validation:
    """The RMSE of the mean over samples on held-out examples."""

    def __init__(
        self,
        inputs: Mapping[str, Any],
        targets: npt.ArrayLike,
        fields: Callable[..., dict[str, Field]],
        bounds: tuple[float, float],
    ) -> None:
        self._targets = _numbers("validation_data", targets)
        self._scores = Scores(fields(inputs, len(self._targets)))
        self._bounds = bounds
        self._total = np.zeros(len(self._targets))
        self._count = 0

    def add(self, sample: Any) -> None:
        self._total += self._scores(sample)
        self._count += 1

    def rmse(self) -> float:
        mean = np.clip(self._total / self._count, *self._bounds)
        return float(np.sqrt(np.mean((mean - self._targets) ** 2)))


def _check_tables(features: Sequence[Feature]) -> None:
    """Raises `ValueError` unless each feature has a separate table."""
    FeatureEmbedding(features, 1)  # checks the features
    tables = [f.table_name for f in features if f.table_name is not None]
    shared = {name for name in tables if tables.count(name) > 1}
    if shared:
        raise ValueError(
            "`features` must have separate tables. Received: table "
            f"{min(shared)!r} of several features."
        )


def _numbers(
    name: str, x: npt.ArrayLike, count: int | None = None
) -> npt.NDArray[np.float64]:
    numbers = np.asarray(x, np.float64)
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    is_right = numbers.ndim == 1 and len(numbers) and count in (None, len(numbers))
    if not is_right or not np.isfinite(numbers).all():
        wanted = "(examples,)" if count is None else f"({count},)"
        raise ValueError(
            f"`{name}` must be finite numbers of shape {wanted}. "
            f"Received: shape {numbers.shape}."
        )
    return numbers


def _pairs(feature: History, inputs: Mapping[str, Any]) -> Pairs:
    """Returns the distinct pairs of a key and a value among the examples."""
    for entry in feature.entries:
        entry.check(inputs)
    keys, values = (np.asarray(entry.read(inputs)) for entry in feature.entries)
    known = (keys >= 0) & (keys < feature.num_keys)
    known &= (values > 0) & (values < feature.vocabulary_size)
    keys, values = np.unique(np.stack([keys[known], values[known]]), axis=1)
    if len(keys) != feature.num_pairs:
        raise ValueError(
            f"`num_pairs` of feature {feature.name!r} must be the number of distinct "
            f"pairs of a key and a value among the examples. Received: "
            f"num_pairs={feature.num_pairs}, with {len(keys)} pairs."
        )
    return keys, values


def _assign(layer: FeatureEmbedding, feature: Feature, rows: Floats) -> None:
    """Assigns the rows of a field's table, or of its vectors and then its bias."""
    weights = layer.named_weights()
    name = feature.table_name or feature.name
    if ("bias", name) in weights:
        rows, bias = rows[:-1], rows[-1]
        weights["bias", name].assign(bias)
    weight = weights["vector" if feature.table_name is None else "table", name]
    weight.assign(rows.reshape(weight.shape))
