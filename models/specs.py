"""What is known of each model, in one table, and all else follows from it.

The command, the runs, the search spaces, the estimate of memory and the registry of
classes read the table. It names classes and imports none, and so no Keras.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fmlayers._checks import choice

Columns = Literal["any", "user and item"]
# Settings of `TrainingConfig` that not all models take.
OPTIONAL_SETTINGS = ("linear_l2", "hidden_units", "dropout")


def tower_weights(width: int, hidden_units: Sequence[int]) -> int:
    """Returns how many weights hidden layers over `width` numbers have."""
    weights = 0
    for size in hidden_units:
        weights += (width + 1) * size
        width = size
    return weights + (width if hidden_units else 0)


def machine_weights(
    rows: int, fields: int, dim: int, hidden_units: Sequence[int]
) -> int:
    """Returns how many weights a factorization machine has.

    Args:
        rows: Rows of all tables of one kind.
        fields: How many fields there are.
        dim: Size of a field's vector.
        hidden_units: Sizes of the hidden layers over the vectors, none if empty.
    """
    return 1 + rows * (dim + 1) + tower_weights(fields * dim, hidden_units)


def two_tower_weights(
    rows: int, fields: int, dim: int, hidden_units: Sequence[int]
) -> int:
    """As `machine_weights`, of a product of vectors beside hidden layers of others."""
    return 1 + 2 * rows * dim + dim + tower_weights(fields * dim, hidden_units)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a run must know of a model to train it.

    `register` makes a model of your own known to `TrainingConfig`, the search spaces
    and the command, within the process.

    Args:
        name: Name of the model, as `TrainingConfig(model=...)` has it.
        model_class: The class, or where it is defined, `"package.module:Class"`, to be
            imported when a model is built. Its constructor takes the columns, then
            `dim`, `scaler`, `l2`, `embeddings_initializer`, `bias_initializer` and
            `encoder`, and the `settings`.
        summary: What the model is, in a line without a full stop.
        score: Optional formula of the score, for documents.
        paper: Optional authors and year of the paper.
        columns: What the constructor begins with: `"any"`, a list of features, or
            `"user and item"`, these two. Defaults to `"any"`.
        settings: Which of `linear_l2`, `hidden_units` and `dropout` the constructor
            takes. Defaults to `("linear_l2",)`.
        hidden_units: The constructor's default of `hidden_units`, if it takes it.
        num_weights: Function that returns how many weights a model has, for the
            estimate of its memory; called as `machine_weights`, which is the default.

    Raises:
        ValueError: If an argument breaks its constraint.

    Example:

    >>> class Plain(fmlayers.models.FactorizationMachine):
    ...     pass
    >>> spec = fmlayers.models.ModelSpec(
    ...     name="plain", model_class=Plain, summary="a machine as any other"
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
                "`hidden_units` must be the default sizes if `settings` has them, else "
                f"empty. Received: hidden_units={self.hidden_units!r}, "
                f"settings={self.settings!r}."
            )
        for name in ("settings", "hidden_units"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def takes(self, setting: str) -> bool:
        """Returns whether the constructor takes a setting of `TrainingConfig`."""
        return setting not in OPTIONAL_SETTINGS or setting in self.settings

    def load(self) -> type[Any]:
        """Returns the class, imported now if it is not yet."""
        if not isinstance(self.model_class, str):
            return self.model_class
        module, _, name = self.model_class.partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), name)
        return loaded

    def make(self, features: Sequence[Any], **arguments: Any) -> Any:
        """Returns a model over some features, a user and an item if it takes these."""
        columns = features if self.columns == "user and item" else [list(features)]
        return self.load()(*columns, **arguments)


_SPECS: dict[str, ModelSpec] = {}


def register(spec: ModelSpec) -> ModelSpec:
    """Makes a model known by its name to runs, search spaces and the command.

    It is known within the process. Register it also where its runs are read, and
    register its class with `keras.saving.register_keras_serializable`, so that
    its files load.

    Args:
        spec: What is known of the model.

    Returns:
        The same.

    Raises:
        ValueError: If another model has the name.
    """
    if _SPECS.setdefault(spec.name, spec) != spec:
        raise ValueError(
            f"`name` must not be that of another model, which {spec.name!r} is: choose "
            f"another. Received: name={spec.name!r}."
        )
    return spec


def registered() -> dict[str, ModelSpec]:
    """Returns what is known of each model, by name."""
    return dict(_SPECS)


def find(name: str) -> ModelSpec:
    """Returns what is known of the model of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in _SPECS:
        raise ValueError(
            f"`model` must be one of {list(_SPECS)}, or first be registered with "
            f"`fmlayers.models.register`. Received: model={name!r}."
        )
    return _SPECS[name]


def taking(setting: str) -> list[str]:
    """Returns the names of the models that take a setting of `TrainingConfig`."""
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
