"""The methods by which a run estimates the weights, and the settings of each."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fmlayers.runs.settings import Setting

# The settings of the model and of its training that Gibbs sampling reads. The others
# are settings of gradient descent. Both methods read all settings of the data.
SAMPLING = frozenset(
    {
        *("method", "sweeps", "chains", "refit"),
        *("model", "histories", "loss", "dim", "combiner", "scaler"),
    }
)
SAMPLING_ONLY = frozenset({"sweeps", "chains"})
# The values of these settings that Gibbs sampling supports, and the remedy for others.
SAMPLING_VALUES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "task": (
        ("regression", "binary"),
        "Use the method 'gradient' for implicit feedback.",
    ),
    "model": (
        ("fm",),
        "With the features user and item, 'fm' is a biased matrix factorization. Use "
        "the method 'gradient' for other models.",
    ),
    "scaler": (("clip", "none"), "Use the method 'gradient' for a sigmoid."),
}

# The training rows up to which Gibbs sampling takes minutes and fits into memory.
MAX_SAMPLED_ROWS = 5_000_000


def reads(method: str, name: str, setting: Setting) -> bool:
    """Returns whether a method reads a setting."""
    if method == "gradient":
        return name not in SAMPLING_ONLY
    return name in SAMPLING or setting.group in ("data", "file")


def check_read(
    method: str, names: Iterable[str], settings: Mapping[str, Setting]
) -> None:
    """Checks that a method reads settings.

    Args:
        method: `"gradient"` or `"gibbs"`.
        names: Names of the settings.
        settings: The description of each setting, by name.

    Raises:
        ValueError: If it does not.
    """
    for name in names:
        if not reads(method, name, settings[name]):
            other = "gibbs" if method == "gradient" else "gradient"
            raise ValueError(
                f"`{name}` must be left out: it is a setting of the method {other!r}. "
                f"Received: method={method!r}."
            )


def check_method(config: Any, settings: Mapping[str, Setting]) -> None:
    """Checks that the settings of a configuration suit its method.

    Raises:
        ValueError: If one does not.
    """
    method = config.method
    if method == "gibbs":
        for name, (values, remedy) in SAMPLING_VALUES.items():
            value = getattr(config, name)
            if value not in values:
                raise ValueError(
                    f"`{name}` must be {' or '.join(map(repr, values))} with the "
                    f"method 'gibbs'. {remedy} Received: {name}={value!r}."
                )
        if config.task == "binary" and config.weight is not None:
            raise ValueError(
                "`weight` must be left out with the method 'gibbs' and the task "
                "'binary'. Use the method 'gradient' for labels with weights. "
                f"Received: weight={config.weight!r}."
            )
    changed = [
        name
        for name, setting in settings.items()
        if not setting.is_default(getattr(config, name))
    ]
    check_read(method, changed, settings)


def check_options(
    config: Any, names: Iterable[str], settings: Mapping[str, Setting]
) -> None:
    """Checks that the options that a user has set have an effect.

    Raises:
        ValueError: If one has none, even if its value is the default.
    """
    names = set(names)
    check_read(config.method, sorted(names), settings)
    is_sampled = config.method == "gibbs" and config.refit
    if is_sampled and config.validation_fraction and "validation_fraction" in names:
        raise ValueError(
            "`validation_fraction` must be left out with the method 'gibbs', which "
            "samples from all training rows. Hold rows out with `--no-refit`. "
            f"Received: validation_fraction={config.validation_fraction}."
        )


def sampling_is_better(config: Any, columns: Collection[str], rows: int) -> bool:
    """Returns whether Gibbs sampling would predict the ratings of a run better.

    Args:
        config: The configuration of the run.
        columns: Names of the columns that the model reads.
        rows: Integer, the number of training rows.
    """
    return bool(
        config.method == "gradient"
        and config.task == "regression"
        and {"user", "item"} <= set(columns)
        and config.model in ("fm", "mf")
        and rows <= MAX_SAMPLED_ROWS
    )
