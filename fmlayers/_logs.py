"""Suppression of TensorFlow's log messages in the command line."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
NONE = "3"  # only fatal errors


def import_keras() -> None:
    """Imports Keras without log messages, unless the user has set a log level."""
    os.environ.setdefault(LEVEL, NONE)
    if "keras" not in sys.modules:
        with without_log_lines():
            import keras  # noqa: F401


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Suppresses what libraries write to standard error, if the log level is `NONE`.

    TensorFlow logs some messages before it reads the level, and LiteRT ignores the
    level. If the block raises an error, the suppressed messages are written.
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
