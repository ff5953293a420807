"""Options that several commands share."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from fmlayers.models.specs import registered
from fmlayers.runs.config import FILE_SETTINGS, SETTINGS
from fmlayers.runs.settings import Group, Setting, coefficients
from fmlayers.runs.settings_text import models_of

if TYPE_CHECKING:
    from fmlayers.runs.share import Share


class Pairs(argparse.Action):
    """Parses NAME=VALUE ... into a dict."""

    convert: Callable[[str], Any] = staticmethod(str)
    value = "COLUMN"

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        pairs = {}
        for text in values or ():
            name, equals, value = text.partition("=")
            try:
                pairs[name] = self.convert(value)
            except ValueError:
                equals = ""
            if not (name and equals and value):
                parser.error(
                    f"{option_string} must be NAME={self.value}. Received: {text!r}."
                )
        setattr(namespace, self.dest, pairs)


class Numbers(Pairs):
    """Parses NAME=NUMBER ... into a dict."""

    convert = staticmethod(float)
    value = "NUMBER"


def add_training_options(
    parser: argparse.ArgumentParser,
    *,
    several_models: bool = False,
    groups: Sequence[Group] = get_args(Group),
) -> None:
    """Adds an option for each setting of `TrainingConfig`.

    An option that is left out has the default of `TrainingConfig`.

    Args:
        parser: The parser of a command.
        several_models: Whether `--model` and `--method` take several names, stored as
            `models` and `methods`. Defaults to `False`.
        groups: The groups of settings to add. Defaults to all.
    """
    added: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if setting.group not in groups:
            continue
        if setting.group not in added:
            added[setting.group] = parser.add_argument_group(
                setting.group, argument_default=argparse.SUPPRESS
            )
        add = added[setting.group].add_argument
        if name == "model":
            _add_model(add, several_models)
        elif name == "method" and several_models:
            _add_methods(add, setting)
        else:
            add(*_options(name, setting), dest=name, **_arguments(name, setting))


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field of `TableFormat`.

    An option that is left out has the value of the run.
    """
    group = parser.add_argument_group("file", argument_default=argparse.SUPPRESS)
    for name in FILE_SETTINGS.values():
        setting = SETTINGS[name]
        arguments = _arguments(name, setting)
        arguments["help"] = f"{_sentence(setting)} (default: as in training)"
        group.add_argument(*_options(name, setting), dest=name, **arguments)


def add_escape_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--escape-formulas",
        action="store_true",
        help="put an apostrophe before texts that a spreadsheet would run as a formula",
    )


def add_share_options(parser: argparse.ArgumentParser, rows: str) -> None:
    """Adds the options that divide the work among several processes.

    Args:
        parser: The parser of a command.
        rows: String, the unit to divide, such as `"rows"`, for the help text.
    """
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--worker",
        type=int,
        metavar="I",
        help=f"score only part I of the {rows}, from 0 to --workers - 1, and write it "
        "to a file with the number in its name, such as out-0-of-4.csv",
    )
    group.add_argument("--workers", type=int, metavar="N", help="number of processes")


def share_in(options: argparse.Namespace) -> "Share":
    """Returns the share of the process from its options.

    Raises:
        ValueError: If one of the options is missing or out of range.
    """
    from fmlayers.runs.share import Share

    if (options.worker is None) != (options.workers is None):
        raise ValueError("`--worker` and `--workers` must be used together.")
    if options.workers is None:
        return Share()
    return Share(options.worker, options.workers)


def _options(name: str, setting: Setting) -> list[str]:
    no = "no-" if setting.default is True else ""
    option = setting.option or name.replace("_", "-")
    return [f"--{no}{option}", *([f"--{setting.former}"] if setting.former else [])]


def _add_model(add: Any, several: bool) -> None:
    specs = registered()
    lines = "; ".join(f"{name}: {spec.summary}" for name, spec in specs.items())
    text = f"{lines} (default: {SETTINGS['model'].default})".replace("%", "%%")
    if several:
        text = f"one or more to choose from; {text}"
        add("--model", nargs="+", dest="models", choices=list(specs), help=text)
    else:
        add("--model", choices=list(specs), help=text)


def _add_methods(add: Any, setting: Setting) -> None:
    text = f"one or more to choose from; {_help('method', setting)}"
    add("--method", nargs="+", dest="methods", choices=setting.choices, help=text)


def _arguments(name: str, setting: Setting) -> dict[str, Any]:
    """Returns the arguments of `add_argument` for a setting."""
    if setting.read is None:
        action = "store_false" if setting.default else "store_true"
        return {"action": action, "help": setting.option_help}
    arguments: dict[str, Any] = {"help": _help(name, setting)}
    if setting.choices:
        return {**arguments, "choices": setting.choices}
    if setting.many:
        arguments["nargs"] = "+"
    arguments["metavar"] = setting.metavar
    if isinstance(setting.default, dict):
        is_number = setting.check is coefficients
        return {**arguments, "action": Numbers if is_number else Pairs}
    return {**arguments, "type": setting.read}


def _help(name: str, setting: Setting) -> str:
    text = _sentence(setting)
    if models_of(name):
        text += f", for {models_of(name)}"
    if setting.default_text():
        text += f" (default: {setting.default_text()})"
    return text.replace("%", "%%")


def _sentence(setting: Setting) -> str:
    first, _, rest = setting.help.partition(" ")
    return f"{first if first[1:].isdigit() else first.lower()} {rest}".strip()


def settings_in(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of `TrainingConfig` whose options are set."""
    return {name: value for name, value in vars(options).items() if name in SETTINGS}


def format_in(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `TableFormat` whose options are set."""
    known = vars(options)
    return {
        field: known[name] for field, name in FILE_SETTINGS.items() if name in known
    }
