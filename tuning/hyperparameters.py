"""Registers hyperparameters with the values that `TrainingConfig` declares.

All numbers except `dropout` are sampled on a logarithmic scale, integers in powers of
two. A hyperparameter that the user has already registered keeps its values.
"""

from collections.abc import Sequence
from typing import Any

from keras_tuner import HyperParameters

from fmlayers.runs.config import SETTINGS

EPOCHS = (1, 128)  # not a setting: a run stops early


def register_int(
    hp: HyperParameters,
    name: str,
    default: int,
    bounds: tuple[int, int] | None = None,
) -> Any:
    if is_registered(hp, name):
        return hp.get(name)
    low, high = bounds or search_values(name)
    return hp.Int(
        name,
        min(low, default),
        max(high, default),
        step=2,
        sampling="log",
        default=default,
    )


def register_float(
    hp: HyperParameters,
    name: str,
    default: float,
    bounds: tuple[float, float] | None = None,
) -> Any:
    if is_registered(hp, name):
        return hp.get(name)
    if default == 0.0:  # not on a logarithmic scale
        return hp.Fixed(name, 0.0)
    low, high = bounds or search_values(name)
    return hp.Float(
        name, min(low, default), max(high, default), sampling="log", default=default
    )


def register_choice(
    hp: HyperParameters, name: str, values: Sequence[str], default: str
) -> Any:
    if is_registered(hp, name):
        return hp.get(name)
    every = list(values) if default in values else [*values, default]
    return hp.Choice(name, every, default=default)


def register_setting(hp: HyperParameters, name: str, default: str) -> Any:
    """Registers a setting of `TrainingConfig` with a few named values."""
    return register_choice(hp, name, search_values(name), default)


def register_l2(hp: HyperParameters, field: str, default: float) -> Any:
    """Registers `l2/FIELD`, the L2 of a single field."""
    return register_float(hp, f"l2/{field}", default, search_values("l2"))


def register_learning_rate(
    hp: HyperParameters, optimizer: str | None, defaults: dict[str, float]
) -> Any:
    """Registers `learning_rate/OPTIMIZER`; returns the rate of `optimizer`.

    In an inactive scope, the optimizer and the rate are `None`.

    The rate of each optimizer needs a separate name. If two conditional hyperparameters
    share a name, KerasTuner drops the active value together with the inactive one.
    """
    if is_registered(hp, "learning_rate"):
        return float(hp.get("learning_rate"))
    bounds = search_values("learning_rate")
    for name, default in defaults.items():
        with hp.conditional_scope("optimizer", [name]):
            register_float(hp, f"learning_rate/{name}", default, bounds[name])
    return None if optimizer is None else float(hp.get(f"learning_rate/{optimizer}"))


def register_tower(
    hp: HyperParameters, hidden_units: Sequence[int], dropout: float
) -> dict[str, Any]:
    """Registers the sizes of the hidden layers as text, `"64-32"`, and `dropout`."""
    default = "-".join(map(str, hidden_units))
    units = register_choice(hp, "hidden_units", search_values("hidden_units"), default)
    if is_registered(hp, "dropout"):
        share = hp.get("dropout")
    else:
        low, high = search_values("dropout")
        share = hp.Float("dropout", low, max(high, dropout), default=dropout)
    return {"hidden_units": _sizes(units), "dropout": share}


def search_values(name: str) -> Any:
    """Returns the range or the choices of a setting in a search."""
    return SETTINGS[name].searched or SETTINGS[name].choices


def is_registered(hp: HyperParameters, name: str) -> bool:
    """Returns whether a hyperparameter exists without conditions.

    KerasTuner treats a conditional hyperparameter as different from an unconditional
    one of the same name. It would sample both, and the second value would win.
    """
    name = hp._get_name(name)  # with the current name scopes
    return any(known.name == name and not known.conditions for known in hp.space)


def _sizes(units: str | None) -> tuple[int, ...] | None:
    return None if units is None else tuple(map(int, units.split("-")))
