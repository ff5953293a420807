"""Options that several commands share."""

import argparse
from collections.abc import Sequence
from typing import Any

from fmlayers.models.specs import registered
from fmlayers.runs.config import SETTINGS, models_of
from fmlayers.runs.settings import Setting


class Numbers(argparse.Action):
    """Parses NAME=NUMBER ... into a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        numbers = {}
        for text in values or ():
            name, _, number = text.partition("=")
            try:
                numbers[name] = float(number)
            except ValueError:
                parser.error(
                    f"{option_string} must be NAME=NUMBER. Received: {text!r}."
                )
        setattr(namespace, self.dest, numbers)


def add_training_options(
    parser: argparse.ArgumentParser, *, several_models: bool = False
) -> None:
    """Adds an option for each setting of `TrainingConfig`.

    An option that is left out has the default of `TrainingConfig`.

    Args:
        parser: The parser of a command.
        several_models: Whether `--model` takes several names, stored as `models`.
            Defaults to `False`.
    """
    groups: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(
                setting.group, argument_default=argparse.SUPPRESS
            )
        add = groups[setting.group].add_argument
        if name == "model":
            _add_model(add, several_models)
        else:
            option = name.replace("_", "-")
            no = "no-" if setting.default is True else ""
            options = [f"--{no}{option}", *filter(None, [_former(setting)])]
            add(*options, dest=name, **_arguments(name, setting))


def _former(setting: Setting) -> str | None:
    return f"--{setting.former}" if setting.former else None


def _add_model(add: Any, several: bool) -> None:
    specs = registered()
    lines = "; ".join(f"{name}: {spec.summary}" for name, spec in specs.items())
    text = f"{lines} (default: {SETTINGS['model'].default})".replace("%", "%%")
    if several:
        text = f"one or more to choose from; {text}"
        add("--model", nargs="+", dest="models", choices=list(specs), help=text)
    else:
        add("--model", choices=list(specs), help=text)


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
    if isinstance(setting.default, dict):
        arguments["action"] = Numbers
    return {**arguments, "type": setting.read, "metavar": setting.metavar}


def _help(name: str, setting: Setting) -> str:
    first, _, rest = setting.help.partition(" ")
    text = f"{first if first[1:].isdigit() else first.lower()} {rest}".strip()
    if models_of(name):
        text += f", for {models_of(name)}"
    if setting.default_text():
        text += f" (default: {setting.default_text()})"
    return text.replace("%", "%%")


def settings_in(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of `TrainingConfig` whose options are set."""
    return {name: value for name, value in vars(options).items() if name in SETTINGS}
