"""Texts about settings, for the documentation and the command."""

import textwrap
from collections.abc import Mapping

from fmlayers.models.specs import OPTIONAL_SETTINGS, taking
from fmlayers.runs.settings import Setting


def models_of(name: str) -> str:
    """Returns the models that a setting is for, as text, or `""` if it is for all."""
    *others, last = taking(name)
    text = f"{', '.join(others)} and {last}" if others else last
    return text if name in OPTIONAL_SETTINGS else ""


def documented(settings: Mapping[str, Setting]) -> str:
    """Returns the sections of a docstring that describe all settings."""
    lines = ["    Args:"]
    for name, known in settings.items():
        text = f"{name}: {known.help}. {known.more} "
        if models_of(name):
            text += f"For {models_of(name)}. "
        default = known.default_text()
        if isinstance(known.default, str):
            default = f'`"{default}"`'
        text += f"Defaults to {default}." if default else "Optional."
        lines += textwrap.wrap(
            " ".join(text.split()),
            width=88,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
            break_on_hyphens=False,
        )
    raises = "ValueError: If a setting violates its constraint or is not for the model."
    lines += ["", "    Raises:", f"        {raises}", "    "]
    return "\n".join(lines)
