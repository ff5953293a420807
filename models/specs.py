"""The table of the models, with one `ModelSpec` per model.

The command, the runs, the search spaces, the memory estimate and the registry of
classes are derived from it. It refers to classes by name: it imports neither the models
nor Keras.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fmlayers._checks import choice

Columns = Literal["any", "user and item"]
# Settings of `TrainingConfig` that only some models have.
OPTIONAL_SETTINGS = ("linear_l2", "hidden_units", "dropout")


def tower_weights(width: int, hidden_units: Sequence[int]) -> int:
    """Returns the number of weights of hidden layers with `width` inputs."""
    weights = 0
    for size in hidden_units:
        weights += (width + 1) * size
        width = size
    return weights + (width if hidden_units else 0)


def machine_weights(
    rows: int, fields: int, dim: int, hidden_units: Sequence[int]
) -> int:
    """Returns the number of weights of a factorization machine.

    Args:
        rows: Integer, the number of rows of all features, including unknown ids.
        fields: Integer, the number of fields.
        dim: Integer, the embedding dimension.
        hidden_units: Sizes of the hidden layers over the vectors; may be empty.
    """
    return 1 + rows * (dim + 1) + tower_weights(fields * dim, hidden_units)


def two_tower_weights(
    rows: int, fields: int, dim: int, hidden_units: Sequence[int]
) -> int:
    """Returns the number of weights of a product of vectors plus hidden layers.

    Args:
        rows: Integer, the number of rows of all features, including unknown ids.
        fields: Integer, the number of fields.
        dim: Integer, the embedding dimension of both towers.
        hidden_units: Sizes of the hidden layers.
    """
    return 1 + 2 * rows * dim + dim + tower_weights(fields * dim, hidden_units)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Describes a model to runs, search spaces and the command.

    Pass it to `register` to train and evaluate a custom model by its name, and to
    search over its hyperparameters.

    Args:
        name: String, the name of the model, as in `TrainingConfig(model=...)`.
        model_class: The class of the model, or a string `"package.module:Class"`, which
            is imported when a model is built. Its constructor takes the features, then
            the arguments `dim`, `scaler`, `l2`, `embeddings_initializer`,
            `bias_initializer` and `encoder`, and those in `settings`.
        summary: String, one line that describes the model, without a full stop.
        score: Optional string, the formula of the score, for documentation.
        paper: Optional string, the authors and the year of the paper.
        columns: The first arguments of the constructor: `"any"` (a list of features)
            or `"user and item"` (a user feature and an item feature). Defaults to
            `"any"`.
        settings: The names among `linear_l2`, `hidden_units` and `dropout` that are
            arguments of the constructor. Defaults to `("linear_l2",)`.
        hidden_units: The default of the argument `hidden_units`, if there is one.
        num_weights: Function with the arguments of `machine_weights` that returns the
            number of weights of a model, for the memory estimate. Defaults to
            `machine_weights`.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> class Plain(fmlayers.models.FactorizationMachine):
    ...     pass
    >>> spec = fmlayers.models.ModelSpec(
    ...     name="plain", model_class=Plain, summary="a plain factorization machine"
    ... )
    >>> spec.load().__name__, spec.takes("dropout")
    ('Plain', False)
    """

    name: str
    model_class: str | type[Any]
    summary: str
    score: str = ""
    paper: str = ""
    columns: Columns = "any"
    settings: Sequence[str] = ("linear_l2",)
    hidden_units: Sequence[int] = ()
    num_weights: Callable[[int, int, int, Sequence[int]], int] = machine_weights

    def __post_init__(self) -> None:
        choice("columns", self.columns, get_args(Columns))
        if set(self.settings) - set(OPTIONAL_SETTINGS):
            raise ValueError(
                f"`settings` must be among {list(OPTIONAL_SETTINGS)}. "
                f"Received: settings={self.settings!r}."
            )
        if self.takes("hidden_units") != bool(self.hidden_units):
            raise ValueError(
                "`hidden_units` must be the default sizes if `settings` has "
                "'hidden_units', and empty otherwise. "
                f"Received: hidden_units={self.hidden_units!r}, "
                f"settings={self.settings!r}."
            )
        for name in ("settings", "hidden_units"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def takes(self, setting: str) -> bool:
        """Returns whether a setting of `TrainingConfig` applies to the model."""
        return setting not in OPTIONAL_SETTINGS or setting in self.settings

    def load(self) -> type[Any]:
        """Returns the class of the model, and imports it if necessary."""
        if not isinstance(self.model_class, str):
            return self.model_class
        module, _, name = self.model_class.partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), name)
        return loaded

    def make(self, features: Sequence[Any], **arguments: Any) -> Any:
        """Returns a new model.

        Args:
            features: List of features. If `columns` is `"user and item"`, the user
                feature and the item feature.
            **arguments: Other arguments of the constructor.
        """
        columns = features if self.columns == "user and item" else [list(features)]
        model = self.load()(*columns, **arguments)
        model.build()  # a subclass of `ScoringModel` may leave it to the first call
        return model


_SPECS: dict[str, ModelSpec] = {}


def register(spec: ModelSpec) -> ModelSpec:
    """Registers a model by name for runs, search spaces and the command.

    The registration lasts for the process: a process that reads a run of the model must
    register it, too. Register the class with
    `keras.saving.register_keras_serializable`, so that its files load.

    Args:
        spec: A `ModelSpec`.

    Returns:
        The `spec`.

    Raises:
        ValueError: If another model has the same name.
    """
    if _SPECS.setdefault(spec.name, spec) != spec:
        raise ValueError(
            "`name` must not be that of another model: choose another name. "
            f"Received: name={spec.name!r}."
        )
    return spec


def registered() -> dict[str, ModelSpec]:
    """Returns the `ModelSpec` of each registered model, by name."""
    return dict(_SPECS)


def find(name: str) -> ModelSpec:
    """Returns the `ModelSpec` of a model.

    Args:
        name: Name of the model.

    Raises:
        ValueError: If no model has this name.
    """
    if name not in _SPECS:
        raise ValueError(
            f"`model` must be one of {list(_SPECS)}, or first be registered with "
            f"`fmlayers.models.register`. Received: model={name!r}."
        )
    return _SPECS[name]


def taking(setting: str) -> list[str]:
    """Returns the names of the models that have a setting of `TrainingConfig`."""
    return [name for name, spec in _SPECS.items() if spec.takes(setting)]


register(
    ModelSpec(
        name="fm",
        model_class="fmlayers.models.factorization_machine:FactorizationMachine",
        summary="a factorization machine: all pairs of fields",
        score="b + Σ w_f + Σ ⟨v_f, v_g⟩",
        paper="Rendle 2010",
    )
)
register(
    ModelSpec(
        name="mf",
        model_class="fmlayers.models.matrix_factorization:MatrixFactorization",
        summary="a vector and a bias for each user and each item",
        score="b + b_u + b_i + ⟨p_u, q_i⟩",
        paper="Koren, Bell and Volinsky 2009",
        columns="user and item",
    )
)
register(
    ModelSpec(
        name="deepfm",
        model_class="fmlayers.models.deepfm:DeepFM",
        summary="a factorization machine plus hidden layers over its vectors",
        score="b + Σ w_f + Σ ⟨v_f, v_g⟩ + ⟨h, a⟩",
        paper="Guo et al. 2017",
        settings=("linear_l2", "hidden_units", "dropout"),
        hidden_units=(64, 64),
    )
)
register(
    ModelSpec(
        name="libfm",
        model_class="fmlayers.models.libfm:LibFM",
        summary="a factorization machine field by field, positive on request",
        score="b + Σ w_f + ½ Σ ⟨v_f, S - v_f⟩",
        paper="Rendle 2012",
    )
)
register(
    ModelSpec(
        name="neumf",
        model_class=(
            "fmlayers.models.neural_matrix_factorization:NeuralMatrixFactorization"
        ),
        summary="a product of vectors plus hidden layers over others",
        score="b + ⟨h, p_u ∘ q_i⟩ + ⟨g, a⟩",
        paper="He et al. 2017",
        columns="user and item",
        settings=("hidden_units", "dropout"),
        hidden_units=(64, 32, 16),
        num_weights=two_tower_weights,
    )
)

CLASSES = {
    "Ensemble": "fmlayers.models.ensemble",
    **{
        name: module
        for module, name in (
            str(spec.model_class).split(":") for spec in _SPECS.values()
        )
    },
}
