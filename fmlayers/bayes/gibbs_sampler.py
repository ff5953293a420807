import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import keras
import numpy as np
import numpy.typing as npt

from fmlayers import _registry
from fmlayers._checks import boolean, choice, integer, positive
from fmlayers.bayes.backups import Backups, Figures, description_of
from fmlayers.bayes.blocks import Block, find_blocks
from fmlayers.bayes.chain import Sample
from fmlayers.bayes.chain_runs import Problem, Report
from fmlayers.bayes.collapse import collapsed
from fmlayers.bayes.designs import Field, Floats, Pairs, field_of
from fmlayers.bayes.likelihoods import (
    LIKELIHOODS,
    LOGITS_PER_PROBIT,
    LikelihoodName,
    normal_cdf,
)
from fmlayers.bayes.posterior import MeanScore, PosteriorMean
from fmlayers.bayes.priors import Hyperprior, Matrix
from fmlayers.bayes.scores import Scores
from fmlayers.bayes.state_files import read_state, write_state
from fmlayers.bayes.workers import started
from fmlayers.features import Feature, History
from fmlayers.layers import FeatureEmbedding, RatingScaler

if TYPE_CHECKING:
    from fmlayers.data import Encoder
    from fmlayers.models import FactorizationMachine

# The default prior scale: of fields that are all keys, and with further fields.
IDS_SCALE, FIELDS_SCALE = 1.0, 0.015
MAX_BURN_IN = 20  # by default
MAX_EXAMPLES = 10_000  # from which the mean variance of the scores is estimated
KIND = "a Gibbs sampler"  # of its files
# A function that is called with the number of a sweep, from 1, and its figures.
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

    Fields that are functions of a `Categorical`, such as the age of a user, are
    detected, and drawn from one pass over the examples together. The histories are the
    pairs of the examples. During `fit`, a `History` includes the value of the example
    itself, as in libFM.

    With the likelihood `"probit"`, the targets are labels. A label is 1 if the
    unobserved target of the equation above, with alpha = 1, is positive. The
    probability of the label 1 is Phi(score), the normal distribution function.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`, each with a separate table.
        dim: Positive integer, the embedding dimension of a sample.
        chains: Positive integer. Several short chains estimate a mean better than a
            long one of the same cost. Defaults to 4.
        prior_scale: Optional positive float. A priori, the precision matrices have a
            Wishart distribution with the scale matrix I / `prior_scale`. In the first
            10 sweeps, it is at least 1. Defaults to `None`: 1 if no field is a function
            of a `Categorical`, as for user and item alone, and 0.015 otherwise.
        likelihood: `"normal"` or `"probit"`, the distribution of a target given its
            score: a number with a normally distributed error, or a label 0 or 1.
            Defaults to `"normal"`.
        max_dim: Positive integer, the maximum dimension of the mean over the samples,
            which bounds the memory. Defaults to 512.
        seed: Nonnegative integer. Defaults to 0.

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
        - Albert, J. and Chib, S. (1993). Bayesian Analysis of Binary and Polychotomous
          Response Data. JASA 88(422) (the likelihood `"probit"`).
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
        likelihood: LikelihoodName = "normal",
        max_dim: int = 512,
        seed: int = 0,
    ) -> None:
        self.features = list(features)
        _check_tables(self.features)
        self.dim = integer("dim", dim)
        self.chains = integer("chains", chains)
        if prior_scale is not None:
            prior_scale = positive("prior_scale", prior_scale)
        self.prior_scale = prior_scale
        names = get_args(LikelihoodName)
        self.likelihood: LikelihoodName = choice("likelihood", likelihood, names)
        self.max_dim = integer("max_dim", max_dim)
        self.seed = integer("seed", seed, "a nonnegative integer", least=0)
        self.histories: dict[str, Pairs] = {}
        self._mean: PosteriorMean | None = None
        self._samples: list[Sample] = []
        self.history: list[Figures] = []
        self._bounds = (0.0, 1.0)
        self._variance = 0.0
        self._blocks: list[Block] = []

    def get_config(self) -> dict[str, Any]:
        return {
            "features": [keras.saving.serialize_keras_object(f) for f in self.features],
            "dim": self.dim,
            "chains": self.chains,
            "prior_scale": self.prior_scale,
            "likelihood": self.likelihood,
            "max_dim": self.max_dim,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        features = [
            keras.saving.deserialize_keras_object(each) for each in config["features"]
        ]
        return cls(**{**config, "features": features})

    def fit(
        self,
        inputs: Mapping[str, Any],
        targets: npt.ArrayLike,
        sweeps: int = 200,
        burn_in: int | None = None,
        *,
        sample_weight: npt.ArrayLike | None = None,
        validation_data: tuple[Mapping[str, Any], npt.ArrayLike] | None = None,
        callbacks: Sequence[Callback] = (),
        backup_dir: str | os.PathLike[str] | None = None,
        processes: int = 1,
    ) -> Self:
        """Draws samples.

        Args:
            inputs: Dict of arrays, as for a model: the encoded training rows.
            targets: Finite numbers `(examples,)`. With `"probit"`, labels 0 and 1.
            sweeps: Positive integer. A sweep draws all weights of a chain once.
                Defaults to 200.
            burn_in: Optional integer, the number of first sweeps that are not used,
                less than `sweeps`. Defaults to `None`: 20, or half of fewer sweeps.
            sample_weight: Optional nonnegative numbers `(examples,)`. The error of an
                example of weight w has the precision w * alpha. Not supported with
                `"probit"`.
            validation_data: Optional tuple of inputs and targets, for the figure
                `"val_rmse"`: the RMSE of the mean over all samples so far.
            callbacks: List of functions. After each sweep of all chains, they are
                called with the number of sweeps and a dict of figures: `"alpha"`,
                `"rmse"` (of the current weights on the training rows) and
                `"val_rmse"`. With `"probit"`, `"log_loss"` and `"val_log_loss"` replace
                the last two. The attribute `history` contains the figures of all
                sweeps.
            backup_dir: Optional path of a folder in which the chains are saved every
                few seconds and at the end. If it contains a backup of the same fit, the
                fit resumes from it, with the same draws as without an interruption.
                `sweeps` may be larger than before. Defaults to `None` (no backups).
            processes: Positive integer. With 2 or more, the chains run in up to that
                many worker processes, with the same results. Each has a copy of the
                training rows. Defaults to 1 (all chains run in this process).

        Returns:
            The sampler. Samples of an earlier `fit` are dropped.

        Raises:
            ValueError: If an argument is invalid, the arguments do not fit together, or
                `backup_dir` contains a damaged backup or that of another fit.
            WorkerError: If a worker process ends before its chains do.
        """
        processes = integer("processes", processes)
        _check_callbacks(callbacks)
        sweeps = integer("sweeps", sweeps)
        if burn_in is None:
            burn_in = min(MAX_BURN_IN, sweeps // 2)
        burn_in = integer(
            "burn_in",
            burn_in,
            "a nonnegative integer less than `sweeps`",
            least=0,
            most=sweeps - 1,
            of=f", sweeps={sweeps}",
        )
        y = self._targets_of("targets", targets)
        weights = np.ones(len(y))
        if sample_weight is not None:
            if self.likelihood == "probit":
                raise ValueError(
                    '`sample_weight` must be left out with the likelihood "probit". '
                    "Repeat examples instead. "
                    f"Received: {type(sample_weight).__name__}."
                )
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
        self._mean = None
        self._bounds = (float(y.min()), float(y.max()))
        self._blocks = find_blocks(self.features, fields)
        held_out, y_held_out = None, None
        if validation_data is not None:
            rows, labels = _pair("validation_data", validation_data)
            y_held_out = self._targets_of("validation_data", labels)
            held_out = self._fields(rows, len(y_held_out), "validation_data")
        problem = Problem(
            self._blocks,
            y,
            weights,
            {name: field.column_weights() for name, field in fields.items()},
            held_out,
            self.dim,
            self.max_dim,
            self.chains,
            burn_in,
            self._prior(self._blocks),
            self.likelihood,
            self.seed,
        )
        backups = None
        if backup_dir is not None:
            fit = description_of(self.get_config(), problem, fields, y_held_out)
            backups = Backups(Path(backup_dir), fit, self.chains)
        self.history = []
        with closing(started(problem, processes)) as runs:
            if backups is not None:
                self.history = backups.resume(runs, sweeps)
            for sweep in range(len(self.history) + 1, sweeps + 1):
                figures = self._figures(runs.sweep(), sweep - burn_in, y_held_out)
                self.history.append({"sweep": sweep, **figures})
                for callback in callbacks:
                    callback(sweep, figures)
                if backups is not None and (sweep == sweeps or backups.is_due()):
                    backups.write(runs, self.history)
            first, *others = runs.results()
        for other in others:
            first.mean.merge(other.mean)
        self._mean = first.mean
        self._samples = [x for each in (first, *others) for x in each.samples]
        if self.likelihood == "probit":
            self._variance = self._variance_of(fields)
        return self

    def predict(
        self, inputs: Mapping[str, Any], *, return_std: bool = False
    ) -> Floats | tuple[Floats, Floats]:
        """Returns the posterior means of the targets.

        With the likelihood `"probit"`, they are the probabilities of the label 1,
        Phi(m / sqrt(1 + v)), where m and v are the mean and the variance of the score.
        Means are over all samples, and variances over up to 32 of them.

        Args:
            inputs: Dict of arrays, as for a model. The rows of unknown ids are the mean
                of the prior. The histories are those of `fit`.
            return_std: Whether to return standard deviations, too: those of the
                targets, including the error of variance 1 / alpha. With `"probit"`,
                they are those of Phi(score) over the samples. Defaults to `False`.

        Returns:
            The means `(examples,)`, between the lowest and the highest target of `fit`;
            with `return_std`, a tuple of the means and the standard deviations.

        Raises:
            ValueError: If `fit` was not called, or the inputs do not fit the features.
        """
        return_std = boolean("return_std", return_std)
        mean = self._fitted().mean()
        scores = Scores(self._fields(inputs))
        center = scores(Sample(mean.bias, 1.0, mean.tables))
        is_probit = self.likelihood == "probit"
        if not is_probit and not return_std:
            return self._clipped(center)
        drawn = np.stack([scores(sample) for sample in self._samples])
        variance = drawn.var(axis=0)
        if is_probit:
            expected = normal_cdf(center / np.sqrt(1.0 + variance))
            std = normal_cdf(drawn).std(axis=0)
        else:
            expected = self._clipped(center)
            noise = np.mean([1.0 / sample.alpha for sample in self._samples])
            std = np.sqrt(variance + noise).astype(np.float32)
        return (expected, std) if return_std else expected

    def to_model(
        self,
        dim: int | None = None,
        *,
        collapse: bool = False,
        encoder: "Encoder | None" = None,
        scaler: RatingScaler | None = None,
    ) -> "FactorizationMachine":
        """Returns the mean over all samples, as an ordinary model.

        Like any `History` of a model, those of this model exclude the value of the
        example itself. If a history does not contain this value, as for test rows, the
        predictions are those of the sampler.

        With the likelihood `"probit"`, the output is the probability sigmoid(c * m),
        where m is the mean of the scores. The probability of `predict` is about
        Phi(m / sqrt(1 + v)), where v is the variance of the score. The model has no
        variances, so c = 1.702 / sqrt(1 + V), where V is the mean of v over the
        training rows. On Adult and MovieLens 100K, the probabilities differ by 0.006 to
        0.01 on average from those of `predict`, and the log loss is larger by 0.0004 to
        0.0025.

        Args:
            dim: Optional positive integer, the embedding dimension. For user and item
                alone, 32 lose 0.0003 of RMSE on MovieLens 100K; with further fields,
                256 do.
                Defaults to `None`: the dimension of the mean that the sampler has
                computed, at most `max_dim`.
            collapse: Whether to fold all fields of a key, such as the age and the
                history of a user, into the row of the key, so that the model reads the
                keys alone. The scores of known keys stay the same, except that a
                history includes the value of the example itself. For an unknown key,
                the other fields have their mean over the known keys. A `dim` of 128
                loses nothing on MovieLens. Defaults to `False`.
            encoder: Optional `fmlayers.data.Encoder`, saved with the model. With
                `collapse`, only the columns that the model reads are saved.
            scaler: Optional `RatingScaler`, which maps the targets of `fit` to
                ratings. Defaults to one that clips to the lowest and the highest target
                of `fit`; with `"probit"`, to `RatingScaler(0, 1)`, the sigmoid.

        Returns:
            A `fmlayers.models.FactorizationMachine` with this scaler.

        Raises:
            ValueError: If `fit` was not called, or an argument is invalid.
        """
        if dim is not None:
            dim = integer("dim", dim)
        if scaler is not None and not isinstance(scaler, RatingScaler):
            raise ValueError(
                "`scaler` must be a `fmlayers.layers.RatingScaler` or None. "
                f"Received: scaler={scaler!r}."
            )
        posterior = self._fitted()
        mean, features = posterior.mean(), self.features
        if boolean("collapse", collapse):
            features, mean = collapsed(mean, features, self._blocks)
            encoder = None if encoder is None else _selected(encoder, features)
        if dim is not None:
            mean = posterior.reduced(mean, dim)
        is_probit = self.likelihood == "probit"
        if scaler is None:
            scaler = RatingScaler(*self._bounds, "sigmoid" if is_probit else "clip")
        model = self._model(features, mean.dim, scaler=scaler, encoder=encoder)
        _assign_all(model, mean)
        if is_probit:
            model.rescale(LOGITS_PER_PROBIT / np.sqrt(1.0 + self._variance), 0.0)
        return model

    def draws(self) -> Iterator[tuple["FactorizationMachine", float]]:
        """Yields up to 32 of the samples, evenly spaced.

        With more than 16 chains, it yields up to two samples of each.

        Yields:
            A `fmlayers.models.FactorizationMachine` without a scaler, with the weights
            of the sample; and alpha. The model is the same object each time.

        Raises:
            ValueError: If `fit` was not called.
        """
        self._fitted()
        model = self._model(self.features, self.dim)
        for sample in self._samples:
            tables = sample.tables.items()
            score = MeanScore(
                sample.bias,
                {name: table[:, 0] for name, table in tables},
                {name: table[:, 1:] for name, table in tables},
            )
            _assign_all(model, score)
            yield model, sample.alpha

    def _model(
        self, features: Sequence[Feature], dim: int, **options: Any
    ) -> "FactorizationMachine":
        model: FactorizationMachine = _registry.load("FactorizationMachine")(
            features, dim, l2=0.0, linear_l2=0.0, **options
        )
        names = {feature.name for feature in features}
        for name, (keys, values) in self.histories.items():
            if name in names:
                model.factors.set_history(name, keys, values)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the samples in one file, atomically and without pickle.

        The file contains everything that `predict`, `to_model` and `draws` need.

        Args:
            path: Path of the file, which may end in `.npz`.

        Raises:
            ValueError: If `fit` was not called.
            OSError: If the disk is full or `path` cannot be written. The error names
                `path`.
        """
        content = {
            "config": self.get_config(),
            "mean": self._fitted().state(),
            "samples": [dict(vars(sample)) for sample in self._samples],
            "histories": {name: list(x) for name, x in self.histories.items()},
            "blocks": [block.state() for block in self._blocks],
            "bounds": self._bounds,
            "variance": self._variance,
            "history": self.history,
        }
        write_state(Path(path), KIND, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the sampler from a file that `save` has written.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If the file cannot be read, is damaged, is not a file of a
                sampler or was written by a newer version. The error names `path`.
        """
        content = read_state(Path(path), KIND)
        try:
            sampler = cls.from_config(content["config"])
            sampler._mean = PosteriorMean.of_state(content["mean"])
            sampler._samples = [Sample(**sample) for sample in content["samples"]]
            sampler.histories = {
                name: (keys, values)
                for name, (keys, values) in content["histories"].items()
            }
            sampler._blocks = [Block.of_state(block) for block in content["blocks"]]
            low, high = content["bounds"]
            sampler._bounds = (low, high)
            sampler._variance = content["variance"]
            sampler.history = content["history"]
        except (KeyError, TypeError, ValueError) as reason:
            raise ValueError(f"{path} is damaged: {reason!r}.") from reason
        return sampler

    def _fields(
        self,
        inputs: Mapping[str, Any],
        count: int | None = None,
        argument: str = "inputs` and `targets",
    ) -> dict[str, Field]:
        fields = {f.name: field_of(f, inputs, self.histories) for f in self.features}
        lengths = {name: len(field.index) for name, field in fields.items()}
        if count is not None:
            lengths["targets"] = count
        if len(set(lengths.values())) > 1:
            subject = "inputs" if count is None else argument
            raise ValueError(
                f"`{subject}` must have the same number of examples in all arrays. "
                f"Received: {lengths}."
            )
        return fields

    def _prior(self, blocks: Sequence[Block]) -> Hyperprior:
        scale = self.prior_scale
        if scale is None:
            are_keys = all(len(block.designs) == 1 for block in blocks)
            scale = IDS_SCALE if are_keys else FIELDS_SCALE
        return Hyperprior(scale=scale)

    def _figures(
        self, reports: Sequence[Report], samples: int, targets: Matrix | None
    ) -> dict[str, float]:
        """Returns the figures of a sweep, averaged over the chains.

        Args:
            reports: The report of each chain.
            samples: Integer, the number of samples of each chain.
            targets: Optional floats, those of the validation rows.
        """
        likelihood = LIKELIHOODS[self.likelihood]
        figures = {
            "alpha": float(np.mean([report.alpha for report in reports])),
            likelihood.metric: float(np.mean([report.loss for report in reports])),
        }
        totals = [report.total for report in reports if report.total is not None]
        if targets is not None and totals:
            mean = np.sum(totals, axis=0) / (samples * len(totals))
            mean = np.clip(mean, *self._bounds)
            figures[f"val_{likelihood.metric}"] = likelihood.loss(targets, mean)
        return figures

    def _targets_of(self, name: str, targets: npt.ArrayLike) -> Matrix:
        y = _numbers(name, targets)
        is_fitted = name == "targets"
        if self.likelihood == "probit":
            labels = np.unique(y)
            if not np.isin(labels, (0, 1)).all() or (is_fitted and len(labels) < 2):
                raise ValueError(
                    f'`{name}` must be labels 0 and 1 with the likelihood "probit"'
                    f'{", and contain both" if is_fitted else ""}. Use "normal" for '
                    f"other numbers. Received: {labels[:3].tolist()}."
                )
        return y

    def _variance_of(self, fields: Mapping[str, Field]) -> float:
        """Returns the mean over some examples of the variances of their scores."""
        count = len(next(iter(fields.values())).index)
        chosen = np.arange(0, count, -(-count // MAX_EXAMPLES))
        scores = Scores({name: x.rows(chosen) for name, x in fields.items()})
        drawn = [scores(sample) for sample in self._samples]
        return float(np.var(drawn, axis=0).mean())

    def _clipped(self, scores: Floats) -> Floats:
        return np.clip(scores, *self._bounds)

    def _fitted(self) -> PosteriorMean:
        if self._mean is None:
            raise ValueError("`fit` must be called first. Received: no samples.")
        return self._mean


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
    wanted = "(examples,), not empty" if count is None else f"({count},)"
    rule = f"`{name}` must be finite numbers of shape {wanted}"
    try:
        numbers = np.asarray(x, np.float64)
    except (TypeError, ValueError) as reason:
        received = str(reason).rstrip(".")
        raise ValueError(f"{rule}. Received: {received}.") from reason
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    is_right = numbers.ndim == 1 and len(numbers) and count in (None, len(numbers))
    if not is_right:
        raise ValueError(f"{rule}. Received: shape {numbers.shape}.")
    missing = np.flatnonzero(~np.isfinite(numbers))
    if len(missing):
        raise ValueError(
            f"{rule}. Remove the rows without one. Received: {numbers[missing[0]]} in "
            f"row {missing[0]}, and {len(missing)} such rows in all."
        )
    return numbers


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise ValueError(
            f"`{name}` must be a tuple (inputs, targets). "
            f"Received: {type(value).__name__}{size}."
        )
    inputs, targets = value
    return inputs, targets


def _check_callbacks(callbacks: Any) -> None:
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise ValueError(
            "`callbacks` must be a list of functions of the number of the sweep and a "
            "dict of its figures; callbacks of Keras are not supported. "
            f"Received: callbacks={callbacks!r}."
        )


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


def _selected(encoder: "Encoder", features: Sequence[Feature]) -> "Encoder":
    """Returns the encoder of the columns that the features read."""
    read = {entry.name for feature in features for entry in feature.entries}
    columns = [
        name for name in encoder.columns if read & set(encoder.column(name).inputs)
    ]
    return encoder.select(columns)


def _assign_all(model: "FactorizationMachine", score: MeanScore) -> None:
    for feature in model.features:
        name = feature.name
        _assign(model.factors, feature, score.vectors[name])
        _assign(model.linear, feature, score.linear[name][:, np.newaxis])
    model.bias.assign([score.bias])


def _assign(layer: FeatureEmbedding, feature: Feature, rows: Floats) -> None:
    """Assigns the rows of a field's table, or of its vectors and then its bias."""
    weights = layer.named_weights()
    name = feature.table_name or feature.name
    if ("bias", name) in weights:
        rows, bias = rows[:-1], rows[-1]
        weights["bias", name].assign(bias)
    weight = weights["vector" if feature.table_name is None else "table", name]
    weight.assign(rows.reshape(weight.shape))
