"""What each hyperparameter may be, told once for all spaces."""

from collections.abc import Sequence
from typing import Any

from keras_tuner import HyperParameters

# Lowest and highest value. All are taken evenly on a logarithmic scale, the integers
# in powers of two.
INTEGERS = {"batch_size": (16, 8192), "dim": (4, 256), "epochs": (1, 128)}
FLOATS = {
    "init_stddev": (0.001, 0.1),
    "l2": (0.001, 1.0),
    "linear_l2": (0.0001, 0.1),
}
RATES = {"adagrad": (0.005, 0.5), "lazy_adam": (0.0001, 0.01)}
LARGEST_DROPOUT = 0.6
UNITS = ("16", "64", "32-16", "64-32", "64-64", "128-64", "64-32-16", "128-64-32")


def integer(
    hp: HyperParameters,
    name: str,
    default: int,
    bounds: tuple[int, int] | None = None,
) -> Any:
    if is_given(hp, name):
        return hp.get(name)
    low, high = bounds or INTEGERS[name]
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
    low, high = bounds or FLOATS[name]
    return hp.Float(
        name, min(low, default), max(high, default), sampling="log", default=default
    )


def choice(hp: HyperParameters, name: str, values: Sequence[str], default: str) -> Any:
    if is_given(hp, name):
        return hp.get(name)
    every = list(values) if default in values else [*values, default]
    return hp.Choice(name, every, default=default)


def l2_of(hp: HyperParameters, field: str, default: float) -> Any:
    """The L2 of a single field, `l2/FIELD`."""
    return floating(hp, f"l2/{field}", default, FLOATS["l2"])


def rate(hp: HyperParameters, optimizer: str, defaults: dict[str, float]) -> float:
    """The learning rate, `learning_rate/OPTIMIZER`, of the chosen one.

    Each has a name of its own: of two hyperparameters of one name KerasTuner drops the
    value of the active one when it drops the other's.
    """
    if is_given(hp, "learning_rate"):
        return float(hp.get("learning_rate"))
    for name, default in defaults.items():
        with hp.conditional_scope("optimizer", [name]):
            floating(hp, f"learning_rate/{name}", default, RATES[name])
    return float(hp.get(f"learning_rate/{optimizer}"))


def tower(
    hp: HyperParameters, hidden_units: Sequence[int], dropout: float
) -> dict[str, Any]:
    """Hidden layers, as text and so for the tables of a search: `"64-32"`."""
    units = choice(hp, "hidden_units", UNITS, "-".join(map(str, hidden_units)))
    if is_given(hp, "dropout"):
        share = hp.get("dropout")
    else:
        largest = max(LARGEST_DROPOUT, dropout)
        share = hp.Float("dropout", 0.0, largest, default=dropout)
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
