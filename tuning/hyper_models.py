"""The models of `fmlayers.models` as KerasTuner's `HyperModel`s."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import keras_tuner
from keras_tuner import HyperParameters

from fmlayers import MultiCategorical, RatingScaler
from fmlayers.features import Categorical, Feature
from fmlayers.models.specs import find
from fmlayers.tuning.spaces import (
    embedding_space,
    linear_space,
    optimizer_space,
    pooling_space,
    scaler_space,
    tower_space,
    training_space,
)


class HyperRegistered(keras_tuner.HyperModel):
    """Searches a model by its name, compiled and ready to fit.

    Its hyperparameters are those of `embedding_space`, `optimizer_space`, `batch_size`,
    where the model has what they are for `linear_space` and `tower_space`, and where
    there is something to choose `scaler_space` and `pooling_space`. `epochs` is one as
    long as nobody says how many: neither Hyperband nor `tuner.search(..., epochs=20)`.

    Args:
        model: Name of the model, among `fmlayers.models.registered()`.
        features: List of `Categorical`, `MultiCategorical` and `Numeric`; the user and
            the item, of a model that takes these two.
        bounds: Optional pair of the lowest and the highest rating, between which a
            `RatingScaler` brings the scores. Defaults to `None`: the rating is the
            score.
        mean: Optional mean rating, which the model starts from.
        by_field: Boolean, whether each feature has an L2 of its own. Defaults to
            `False`.
        loss: As of `compile`. Defaults to `"mse"`.
        metrics: Optional metrics, as of `compile`. Defaults to RMSE, named `rmse`: the
            objective is then `keras_tuner.Objective("val_rmse", "min")`.
        **options: Arguments of the model that are not searched, such as `encoder`.
            One of a searched name takes its place.

    Raises:
        ValueError: If no model has the name.

    Example:

    >>> features = [fmlayers.Categorical("user", 50), fmlayers.Categorical("film", 40)]
    >>> hypermodel = fmlayers.tuning.HyperRegistered("libfm", features)
    >>> type(hypermodel.build(keras_tuner.HyperParameters())).__name__
    'LibFM'
    """

    def __init__(
        self,
        model: str,
        features: Sequence[Feature],
        *,
        bounds: tuple[float, float] | None = None,
        mean: float | None = None,
        by_field: bool = False,
        loss: Any = "mse",
        metrics: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.spec = find(model)
        self.features = list(features)
        self.bounds = bounds
        self.mean = mean
        self.by_field = by_field
        self.loss = loss
        self.metrics = metrics
        self.options = options

    def build(self, hp: HyperParameters) -> keras.Model:
        """Returns the compiled model of a trial."""
        arguments = self.arguments(hp)
        batch_size = training_space(hp, epochs=None)["batch_size"]
        optimizer = optimizer_space(hp, batch_size=batch_size)
        model = self.make(**{**arguments, **self.options})
        metrics = self.metrics
        if metrics is None:
            metrics = [keras.metrics.RootMeanSquaredError(name="rmse")]
        model.compile(loss=self.loss, metrics=list(metrics), **optimizer)
        # Its state is in a trial's checkpoint, which finds no place for it otherwise.
        model.optimizer.build(model.trainable_variables)
        return model

    def fit(
        self,
        hp: HyperParameters,
        model: keras.Model,
        x: Any,
        y: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Trains the model of a trial, with the callbacks that the tuner gives."""
        space = training_space(hp, epochs=None if "epochs" in kwargs else 1)
        if y is None:  # batches that somebody else has formed
            del space["batch_size"]
        return model.fit(x, y, **{**space, **kwargs})

    def arguments(self, hp: HyperParameters) -> dict[str, Any]:
        """Registers what is searched of the model; returns its arguments."""
        spec = self.spec
        arguments = self.vectors(hp)
        if spec.takes("linear_l2"):
            arguments |= linear_space(hp)
        if spec.takes("hidden_units"):
            tower = tower_space(hp, spec.hidden_units)
            arguments |= {name: x for name, x in tower.items() if spec.takes(name)}
        return arguments

    def make(self, features: Sequence[Feature], **arguments: Any) -> keras.Model:
        """Returns the model of some arguments."""
        return self.spec.make(features, **arguments)

    def vectors(self, hp: HyperParameters) -> dict[str, Any]:
        """As `arguments`, of what all models have."""
        fields = [feature.name for feature in self.features] if self.by_field else []
        features = self.features
        if any(isinstance(feature, MultiCategorical) for feature in features):
            pooling = pooling_space(hp)
            features = [
                replace(feature, **pooling)
                if isinstance(feature, MultiCategorical)
                else feature
                for feature in features
            ]
        arguments = {"features": features, **embedding_space(hp, fields)}
        start = self.mean
        if self.bounds is not None:
            scaler = RatingScaler(*self.bounds, **scaler_space(hp))
            arguments["scaler"] = scaler
            start = None if start is None else scaler.inverse(start)
        if start is not None:
            arguments["bias_initializer"] = keras.initializers.Constant(start)
        return arguments


class HyperFactorizationMachine(HyperRegistered):
    """Searches a `FactorizationMachine`, as `HyperRegistered` does.

    Args:
        features: List of `Categorical`, `MultiCategorical` and `Numeric`.
        **options: As of `HyperRegistered`.

    Example:

    >>> features = [fmlayers.Categorical("user", 50), fmlayers.Categorical("film", 40)]
    >>> hypermodel = fmlayers.tuning.HyperFactorizationMachine(features, bounds=(1, 5))
    >>> hp = keras_tuner.HyperParameters()
    >>> hp.Fixed("dim", 8)
    8
    >>> hypermodel.build(hp).dim
    8
    """

    def __init__(self, features: Sequence[Feature], **options: Any) -> None:
        super().__init__("fm", features, **options)


class HyperLibFM(HyperRegistered):
    """Searches a `LibFM`; arguments are those of `HyperFactorizationMachine`."""

    def __init__(self, features: Sequence[Feature], **options: Any) -> None:
        super().__init__("libfm", features, **options)


class HyperDeepFM(HyperRegistered):
    """Searches a `DeepFM`; arguments are those of `HyperFactorizationMachine`."""

    def __init__(self, features: Sequence[Feature], **options: Any) -> None:
        super().__init__("deepfm", features, **options)


class HyperMatrixFactorization(HyperRegistered):
    """Searches a `MatrixFactorization`.

    Args:
        user: `Categorical` description of the users.
        item: `Categorical` description of the items.
        **options: As of `HyperRegistered`.
    """

    def __init__(self, user: Categorical, item: Categorical, **options: Any) -> None:
        super().__init__("mf", [user, item], **options)


class HyperNeuralMatrixFactorization(HyperRegistered):
    """Searches a `NeuralMatrixFactorization`, as `HyperMatrixFactorization` does."""

    def __init__(self, user: Categorical, item: Categorical, **options: Any) -> None:
        super().__init__("neumf", [user, item], **options)


class HyperChoice(keras_tuner.HyperModel):
    """Searches several models at once: which, and its own hyperparameters.

    The name of the chosen one is the hyperparameter `model`. What a model has is
    searched where it is the chosen one, in a conditional scope, and has the model's
    name before its own: `mf/dim`.

    Args:
        hypermodels: Dict from name to `HyperModel`. The first is the default.

    Raises:
        ValueError: If there is none.

    Example:

    >>> user, film = fmlayers.Categorical("user", 50), fmlayers.Categorical("film", 40)
    >>> hypermodel = fmlayers.tuning.HyperChoice(
    ...     {
    ...         "mf": fmlayers.tuning.HyperMatrixFactorization(user, film),
    ...         "deepfm": fmlayers.tuning.HyperDeepFM([user, film]),
    ...     }
    ... )
    >>> hp = keras_tuner.HyperParameters()
    >>> type(hypermodel.build(hp)).__name__
    'MatrixFactorization'
    """

    def __init__(self, hypermodels: Mapping[str, keras_tuner.HyperModel]) -> None:
        super().__init__()
        if not hypermodels:
            raise ValueError("`hypermodels` must not be empty. Received: {}.")
        self.hypermodels = dict(hypermodels)

    def build(self, hp: HyperParameters) -> keras.Model:
        """Returns the compiled model of a trial."""
        chosen = hp.Choice("model", list(self.hypermodels))
        for name, hypermodel in self.hypermodels.items():
            with hp.conditional_scope("model", [name]), hp.name_scope(name):
                if name == chosen:
                    model = hypermodel.build(hp)
        return model

    def fit(
        self, hp: HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains the model of a trial as its own `HyperModel` does."""
        chosen = hp.get("model")
        with hp.conditional_scope("model", [chosen]), hp.name_scope(chosen):
            return self.hypermodels[chosen].fit(hp, model, *args, **kwargs)
