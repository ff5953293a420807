"""Options that commands share."""


def separator(text: str) -> str:
    return "\t" if text in (r"\t", "tab") else text
