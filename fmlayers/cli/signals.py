"""The signals that end the command: Ctrl-C, SIGTERM and SIGHUP.

While a command works, the first signal raises `KeyboardInterrupt` in the main thread,
so that temporary files are removed and worker processes end. Before that, and while
modules are imported, it ends the process at once: code that is imported may swallow the
exception. Later signals are ignored. If the process still runs after `GRACE_SECONDS`,
it ends at once, too: a long step of training cannot be interrupted otherwise, and
nothing is lost, as each file appears whole.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

GRACE_SECONDS = 5.0
TEXTS = {
    "SIGINT": "interrupted",
    "SIGTERM": "terminated",
    "SIGHUP": "terminated, as its terminal was closed",
}


class _State:
    number = 0  # of the first signal
    works = False  # whether `KeyboardInterrupt` is caught
    has_ended = False
    terminal = 2  # leads to standard error, also while that is redirected
    hint: Callable[[], str] | None = None


def install() -> None:
    """Handles the signals, except those that this process was started to ignore."""
    for name in TEXTS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _raise_again
    sys.excepthook = _print_error
    with contextlib.suppress(OSError):  # standard error is closed
        _State.terminal = os.dup(2)
    _watch()


def set_hint(hint: Callable[[], str] | None) -> None:
    """Sets the function that returns how to resume the command, or `""`."""
    _State.hint = hint


def begin() -> None:
    """Lets the first signal raise `KeyboardInterrupt` from now on."""
    _State.works = True


def end() -> None:
    """Ignores the signals from now on, since the command has ended."""
    _State.has_ended = True


def received() -> int:
    """Returns the number of the first signal, or 0."""
    return _State.number


def sentence() -> str:
    """Returns what to print after an interruption."""
    name = signal.Signals(_State.number or signal.SIGINT).name
    hint = ""
    with contextlib.suppress(Exception):  # a path may be unreadable
        hint = _State.hint() if _State.hint else ""
    return "; ".join(filter(None, [f"fmlayers: {TEXTS[name]}", hint]))


def exit_code() -> int:
    """Returns the exit code after an interruption."""
    return 128 + (_State.number or signal.SIGINT)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.number or _State.has_ended:
        return
    _State.number = number
    if not _State.works or _is_importing(frame):
        end_process()
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def end_process() -> None:
    """Ends this process at once, after a line about the interruption."""
    text = sentence() + "\n"
    with contextlib.suppress(OSError):  # the terminal is closed
        if os.isatty(_State.terminal):
            text = f"\x1b[?25h{text}"  # shows the cursor, which a progress bar hides
        os.write(_State.terminal, text.encode(errors="replace"))
    os._exit(exit_code())


def _watch() -> None:
    """Starts a thread that ends the process some time after the first signal.

    Python calls `_handle` only after the current call into a library, such as a step of
    training. The thread is notified at once.
    """
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)

    def wait() -> None:
        number = 0
        while number == 0 or signal.Signals(number).name not in TEXTS:
            number = os.read(woken, 1)[0]
        time.sleep(GRACE_SECONDS)
        if not _State.has_ended:
            _State.number = _State.number or number
            end_process()

    threading.Thread(target=wait, daemon=True).start()


def _raise_again(unraisable: Any) -> None:
    """Raises an interruption again that was lost where nothing can be raised."""
    if not _signal_again(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Raises an interruption again that C code would print and clear."""
    if not _signal_again(error):
        sys.__excepthook__(kind, error, trace)


def _signal_again(error: BaseException | None) -> bool:
    """Sends the first signal again if an error, which is lost, came from it.

    C code that does not expect a signal may turn the `KeyboardInterrupt` into a
    `SystemError` ("returned a result with an exception set").
    """
    seen = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    by_c_code = (
        isinstance(error, SystemError) and _State.number and not _State.has_ended
    )
    if not (seen or by_c_code):
        return False
    number, _State.number = _State.number or signal.SIGINT, 0
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    return True
