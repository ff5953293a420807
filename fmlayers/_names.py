"""Names that Keras and its backends accept."""

import hashlib
import re

_UNSAFE = re.compile(r"[^A-Za-z0-9_>-]")


def safe_name(name: str) -> str:
    """Returns a name for a weight or a layer that every backend accepts.

    It is `name` itself where that is such a name. Any other gets a digest, which keeps
    "a b" and "a_b" apart.
    """
    if not _UNSAFE.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_UNSAFE.sub('_', name)}_{digest[:8]}"


def input_name(name: str) -> str:
    """Returns the name of a `keras.Input`, in which Keras refuses slashes.

    In a model with a dict of inputs, Keras warns where it is not the dict's key.
    """
    return safe_name(name) if "/" in name else name
