"""KerasTuner `HyperModel`s for the models in `fmlayers.models`."""

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
    """A `HyperModel` of a registered model, compiled and ready to fit.

    Its hyperparameters are `batch_size` and those of `embedding_space` and
    `optimizer_space`. It adds `linear_space` and `tower_space` if the model takes their
    arguments, `scaler_space` if there are `bounds`, and `pooling_space` if there is a
    `MultiCategorical` feature. `epochs` is a hyperparameter, too, unless Hyperband or
    `tuner.search(..., epochs=20)` sets it.

    Args:
        model: Name of the model, among `fmlayers.models.registered()`.
        features: List of `Categorical`, `MultiCategorical`, `Numeric` and `Vector`, or
            of the user and the item for a model that takes only these two.
        bounds: Optional tuple of the lowest and the highest rating, for a
            `RatingScaler`. Defaults to `None` (the model returns the raw score).
        mean: Optional mean rating, the initial prediction of the model.
        by_field: Boolean, whether to search over a separate L2 for each feature.
            Defaults to `False`.
        loss: Loss for `compile`. Defaults to `"mse"`.
        metrics: Optional metrics for `compile`. Defaults to the RMSE under the name
            `rmse`, for the objective `keras_tuner.Objective("val_rmse", "min")`.
        **options: Arguments of the model that are not searched, such as `encoder`. An
            argument with the name of a hyperparameter replaces it.

    Raises:
        ValueError: If no model with this name is registered.

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
        # The checkpoint of a trial loads the optimizer's state only if it is built.
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
        """Trains the model of a trial; `kwargs` holds the callbacks of the tuner."""
        space = training_space(hp, epochs=None if "epochs" in kwargs else 1)
        if y is None:  # `x` already yields batches
            del space["batch_size"]
        return model.fit(x, y, **{**space, **kwargs})

    def arguments(self, hp: HyperParameters) -> dict[str, Any]:
        """Registers the hyperparameters of the model, and returns its arguments."""
        spec = self.spec
        arguments = self.vectors(hp)
        if spec.takes("linear_l2"):
            arguments |= linear_space(hp)
        if spec.takes("hidden_units"):
            tower = tower_space(hp, spec.hidden_units)
            arguments |= {name: x for name, x in tower.items() if spec.takes(name)}
        return arguments

    def make(self, features: Sequence[Feature], **arguments: Any) -> keras.Model:
        """Returns the model with these arguments."""
        return self.spec.make(features, **arguments)

    def vectors(self, hp: HyperParameters) -> dict[str, Any]:
        """Registers the hyperparameters that all models have."""
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
    """A `HyperModel` of `FactorizationMachine`. See `HyperRegistered`.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric` and `Vector`.
        **options: Arguments of `HyperRegistered`.

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
    """A `HyperModel` of `LibFM`. See `HyperRegistered`.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric` and `Vector`.
        **options: Arguments of `HyperRegistered`.
    """

    def __init__(self, features: Sequence[Feature], **options: Any) -> None:
        super().__init__("libfm", features, **options)


class HyperDeepFM(HyperRegistered):
    """A `HyperModel` of `DeepFM`. See `HyperRegistered`.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric` and `Vector`.
        **options: Arguments of `HyperRegistered`.
    """

    def __init__(self, features: Sequence[Feature], **options: Any) -> None:
        super().__init__("deepfm", features, **options)


class HyperMatrixFactorization(HyperRegistered):
    """A `HyperModel` of `MatrixFactorization`. See `HyperRegistered`.

    Args:
        user: `Categorical` feature of the users.
        item: `Categorical` feature of the items.
        **options: Arguments of `HyperRegistered`.
    """

    def __init__(self, user: Categorical, item: Categorical, **options: Any) -> None:
        super().__init__("mf", [user, item], **options)


class HyperNeuralMatrixFactorization(HyperRegistered):
    """A `HyperModel` of `NeuralMatrixFactorization`. See `HyperRegistered`.

    Args:
        user: `Categorical` feature of the users.
        item: `Categorical` feature of the items.
        **options: Arguments of `HyperRegistered`.
    """

    def __init__(self, user: Categorical, item: Categorical, **options: Any) -> None:
        super().__init__("neumf", [user, item], **options)


class HyperChoice(keras_tuner.HyperModel):
    """A `HyperModel` that chooses among several others.

    The hyperparameter `model` is the name of the chosen model. The hyperparameters of a
    model are conditional on that choice, and their names have the name of the model as
    a prefix: `mf/dim`.

    Args:
        hypermodels: Dict from name to `HyperModel`. The first is the default.

    Raises:
        ValueError: If `hypermodels` is empty.

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
            raise ValueError(
                "`hypermodels` must have at least one entry. Received: hypermodels={}."
            )
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
        """Trains the model of a trial by the `HyperModel` that built it."""
        chosen = hp.get("model")
        with hp.conditional_scope("model", [chosen]), hp.name_scope(chosen):
            return self.hypermodels[chosen].fit(hp, model, *args, **kwargs)
