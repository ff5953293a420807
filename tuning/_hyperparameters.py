"""What each hyperparameter may be: what `TrainingConfig` says of the setting.

All numbers but `dropout` are taken evenly on a logarithmic scale, integers in powers
of two.
"""

from collections.abc import Sequence
from typing import Any

from keras_tuner import HyperParameters

from fmlayers.runs.config import SETTINGS

EPOCHS = (1, 128)  # which no setting is: a run stops early


def integer(
    hp: HyperParameters,
    name: str,
    default: int,
    bounds: tuple[int, int] | None = None,
) -> Any:
    if is_given(hp, name):
        return hp.get(name)
    low, high = bounds or searched(name)
    return hp.Int(
        name,
        min(low, default),
        max(high, default),
        step=2,
        sampling="log",
        default=default,
    )


def floating(
    hp: HyperParameters,
    name: str,
    default: float,
    bounds: tuple[float, float] | None = None,
) -> Any:
    if is_given(hp, name):
        return hp.get(name)
    if default == 0.0:  # which is on no logarithmic scale
        return hp.Fixed(name, 0.0)
    low, high = bounds or searched(name)
    return hp.Float(
        name, min(low, default), max(high, default), sampling="log", default=default
    )


def choice(hp: HyperParameters, name: str, values: Sequence[str], default: str) -> Any:
    if is_given(hp, name):
        return hp.get(name)
    every = list(values) if default in values else [*values, default]
    return hp.Choice(name, every, default=default)


def searched(name: str) -> Any:
    """Returns what a setting is searched among."""
    return SETTINGS[name].searched or SETTINGS[name].choices


def setting(hp: HyperParameters, name: str, default: str) -> Any:
    """A setting of `TrainingConfig` with few values."""
    return choice(hp, name, searched(name), default)


def l2_of(hp: HyperParameters, field: str, default: float) -> Any:
    """The L2 of a single field, `l2/FIELD`."""
    return floating(hp, f"l2/{field}", default, searched("l2"))


def rate(hp: HyperParameters, optimizer: str, defaults: dict[str, float]) -> float:
    """The learning rate, `learning_rate/OPTIMIZER`, of the chosen one.

    Each has a name of its own: of two hyperparameters of one name KerasTuner drops the
    value of the active one when it drops the other's.
    """
    if is_given(hp, "learning_rate"):
        return float(hp.get("learning_rate"))
    bounds = searched("learning_rate")
    for name, default in defaults.items():
        with hp.conditional_scope("optimizer", [name]):
            floating(hp, f"learning_rate/{name}", default, bounds[name])
    return float(hp.get(f"learning_rate/{optimizer}"))


def tower(
    hp: HyperParameters, hidden_units: Sequence[int], dropout: float
) -> dict[str, Any]:
    """Hidden layers, as text and so for the tables of a search: `"64-32"`."""
    default = "-".join(map(str, hidden_units))
    units = choice(hp, "hidden_units", searched("hidden_units"), default)
    if is_given(hp, "dropout"):
        share = hp.get("dropout")
    else:
        low, high = searched("dropout")
        share = hp.Float("dropout", low, max(high, dropout), default=dropout)
    return {"hidden_units": sizes(units), "dropout": share}


def sizes(units: str | None) -> tuple[int, ...] | None:
    return None if units is None else tuple(map(int, units.split("-")))


def is_given(hp: HyperParameters, name: str) -> bool:
    """Tells whether somebody has set a hyperparameter outside of all conditions.

    To KerasTuner one with conditions is another than one without of the same name: it
    would draw both, and the second would win.
    """
    name = hp._get_name(name)  # within its name scopes
    return any(known.name == name and not known.conditions for known in hp.space)
