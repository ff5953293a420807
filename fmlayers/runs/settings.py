"""The descriptions of the settings of a run.

`TrainingConfig` describes each of its fields by one `Setting`, from which its check,
its documentation, its command-line option and its values in a search are derived.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_args

from fmlayers import _checks
from fmlayers._checks import boolean, coefficient, integer, integers, number

Group = Literal["data", "file", "model", "training"]
Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class ByTask:
    """A default that depends on the task.

    Args:
        regression: The default for ratings and other numbers.
        implicit: The default for implicit feedback.
        binary: The default for labels.
        histories: Optional default for regression with histories.
    """

    regression: float
    _: KW_ONLY
    implicit: float
    binary: float
    histories: float | None = None

    def of(self, config: Any) -> float:
        """Returns the default for a configuration whose task is known."""
        if config.histories and self.histories and config.task == "regression":
            return self.histories
        rate: float = getattr(self, config.task)
        return rate

    def every(self) -> set[float]:
        rates = {self.regression, self.implicit, self.binary}
        return rates | ({self.histories} if self.histories else set())

    def __str__(self) -> str:
        text = f"{self.regression:g}"
        if self.histories is not None:
            text += f", with histories {self.histories:g}"
        return (
            f"{text}, for labels {self.binary:g}, "
            f"for implicit feedback {self.implicit:g}"
        )


@dataclass(frozen=True)
class ByOptimizer:
    """A default that depends on the optimizer and the task.

    The first rule is that of the default optimizer.
    """

    rules: Mapping[str, ByTask]

    def of(self, config: Any) -> float:
        return self.rules[config.optimizer].of(config)

    def every(self) -> set[float]:
        return set().union(*(rule.every() for rule in self.rules.values()))

    def __str__(self) -> str:
        (_, first), *others = self.rules.items()
        return "; ".join([f"{first}", *(f"for {name} {rule}" for name, rule in others)])


@dataclass(frozen=True)
class ByMethod:
    """A default that depends on the method."""

    gradient: int
    _: KW_ONLY
    gibbs: int

    def of(self, config: Any) -> int:
        default: int = getattr(self, config.method)
        return default

    def every(self) -> set[int]:
        return {self.gradient, self.gibbs}

    def __str__(self) -> str:
        return f"{self.gradient}, with the method gibbs {self.gibbs}"


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string. Received: {name}={value!r}.")
    return value


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The description of a setting.

    Args:
        group: The group of options that it belongs to.
        help: One line that begins with a capital letter and has no full stop.
        more: Additional sentences for the documentation, not shown by the command.
        option_help: Optional help of the option, if it differs from `help`.
        default: The default, or the rule by which it depends on other settings.
        otherwise: Text of the default, if `default` does not describe it.
        check: Function of the name and a value that returns the value as a Python
            object or raises.
        read: Converts the text of an option to a value. `None` if the option takes no
            value.
        many: Whether the option takes several values.
        choices: All values, if there are only a few.
        metavar: Name of the value in the help of the option.
        option: Optional name of the option, if it differs from that of the setting.
        former: Optional name in older versions, still read in records and as an option.
        searched: The values that a search tries: the lowest and the highest value, a
            dict from optimizer to these two, or all values.
    """

    group: Group
    help: str
    more: str = ""
    option_help: str = ""
    default: Any = None
    otherwise: str | Callable[[], str] = ""
    check: Check = text
    read: Callable[[str], Any] | None = str
    many: bool = False
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    option: str | None = None
    former: str | None = None
    searched: Any = None

    @property
    def optional(self) -> bool:
        """Whether `None` is a value."""
        return self.default is None

    def chosen(self, config: Any) -> Any:
        """Returns the default for a configuration."""
        return self.default.of(config) if self.has_rule else self.default

    def is_default(self, value: Any) -> bool:
        """Returns whether a value is the default for any task, optimizer and method."""
        if self.has_rule:
            return value in self.default.every()
        return bool(value == self.default)

    @property
    def has_rule(self) -> bool:
        return isinstance(self.default, ByTask | ByOptimizer | ByMethod)

    def default_text(self) -> str:
        """Returns the default as text, or `""` if the setting has no default."""
        if self.otherwise:
            return (
                self.otherwise if isinstance(self.otherwise, str) else self.otherwise()
            )
        if self.default is None:
            return ""
        is_number = isinstance(self.default, float)
        return f"{self.default:g}" if is_number else str(self.default)


def setting(default: Any, group: Group, help: str, **facts: Any) -> Any:
    """Returns a field of `TrainingConfig`."""
    known = Setting(group=group, help=help, default=default, **facts)
    options: dict[str, Any] = {"default": None if known.has_rule else default}
    if isinstance(default, dict):
        options = {"default_factory": default.copy}
    return field(**options, metadata={"setting": known})


def flag(default: bool, group: Group, help: str, **facts: Any) -> Any:
    """Returns a field that is true or false."""
    return setting(default, group, help, check=boolean, read=None, **facts)


def whole(default: int | ByMethod | None, group: Group, help: str, **facts: Any) -> Any:
    """Returns a field that is a positive integer."""
    facts = {"check": integer, "read": int, "metavar": "N", **facts}
    return setting(default, group, help, **facts)


def real(default: Any, group: Group, help: str, **facts: Any) -> Any:
    """Returns a field that is a number, by default a positive one."""
    return setting(
        default, group, help, **{"check": _checks.positive, "read": float, **facts}
    )


def choice(
    default: str | None, group: Group, help: str, values: Any, **facts: Any
) -> Any:
    """Returns a field that is one of the values of a `Literal`."""
    choices = get_args(values)
    check = partial(_checks.choice, choices=choices)
    return setting(default, group, help, choices=choices, check=check, **facts)


def open_share(name: str, value: Any) -> float:
    rule = "between 0 and 1, both excluded"
    return number(name, value, rule, lambda x: 0.0 < x < 1.0)


def seed_number(name: str, value: Any) -> int:
    return integer(name, value, "from 0 to 2**32 - 1", least=0, most=2**32 - 1)


def sizes(name: str, value: Any) -> tuple[int, ...]:
    return integers(name, value, "a non-empty list of positive integers")


def texts(name: str, value: Any) -> Any:
    sequence = isinstance(value, Sequence) and not isinstance(value, str)
    if not sequence or not all(isinstance(entry, str) for entry in value):
        raise ValueError(
            f"`{name}` must be a list of strings. Received: {name}={value!r}."
        )
    return value


def columns_by_name(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(x, str) for pair in value.items() for x in pair
    ):
        raise ValueError(
            f"`{name}` must be a dict from column to column. "
            f"Received: {name}={value!r}."
        )
    return dict(value)


def coefficients(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"`{name}` must be a dict from feature name to a number. "
            f"Received: {name}={value!r}."
        )
    return {
        key: coefficient(name, number, of=f" for feature {key!r}")
        for key, number in value.items()
    }


def settings_of(config_class: type[Any]) -> dict[str, Setting]:
    """Returns the description of each setting, by name."""
    return {f.name: f.metadata["setting"] for f in fields(config_class)}
