"""The log lines of TensorFlow, kept off the terminal of the command."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
NONE = "3"  # nothing but what ends the process


def import_keras() -> None:
    """Imports Keras, without log lines unless the user has set their level."""
    os.environ.setdefault(LEVEL, NONE)
    if "keras" not in sys.modules:
        with without_log_lines():
            import keras  # noqa: F401


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Holds back what libraries write to standard error where the level is `NONE`.

    TensorFlow reads its level only after it has written, and TensorFlow Lite reads
    none. What was held back shows if the block raises.
    """
    if os.environ.get(LEVEL) != NONE or sys.stderr is None:
        yield
        return
    with tempfile.TemporaryFile() as lines:
        terminal = os.dup(2)
        os.dup2(lines.fileno(), 2)
        try:
            yield
        except Exception:
            lines.seek(0)
            with open(terminal, "wb", closefd=False) as shown:
                shutil.copyfileobj(lines, shown)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
