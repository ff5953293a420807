"""Names that Keras and its backends accept."""

import hashlib
import re

_UNSAFE = re.compile(r"[^A-Za-z0-9_>-]")


def safe_name(name: str) -> str:
    """Returns a name for a weight or a layer that every backend accepts.

    A valid name is returned unchanged. Any other name gets a digest, so that "a b" and
    "a_b" stay distinct.
    """
    if not _UNSAFE.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_UNSAFE.sub('_', name)}_{digest[:8]}"


def input_name(name: str) -> str:
    """Returns the name of the `keras.Input` of an entry.

    It is the name of the entry unless that has a slash, which Keras does not allow.
    Keras warns if the name of an input differs from its key in a dict of inputs.
    """
    return safe_name(name) if "/" in name else name
