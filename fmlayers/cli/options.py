"""Options that commands share."""

import argparse
from collections.abc import Sequence
from typing import Any


def separator(text: str) -> str:
    return "\t" if text in (r"\t", "tab") else text


class Numbers(argparse.Action):
    """Reads NAME=NUMBER ... into a dict."""

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
                parser.error(f"{option_string} takes NAME=NUMBER. Received: {text!r}.")
        setattr(namespace, self.dest, numbers)
