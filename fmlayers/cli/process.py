"""The process of the command: its streams, signals and exit code."""

import contextlib
import gc
import os
import sys
from collections.abc import Sequence

from fmlayers.cli import signals

# Below this, TensorFlow aborts or hangs when it starts its threads.
MIN_ADDRESS_SPACE = 5 * 10**9  # bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        arguments: The words after `fmlayers`. If omitted, those of this process, which
            then ends at Ctrl-C, SIGTERM or SIGHUP.

    Returns:
        0, 1 after an error, or 130 after an interruption (143 by SIGTERM, 129 by
        SIGHUP).
    """
    if arguments is not None:
        from fmlayers.cli.command import run

        return run(arguments)
    problem = _open_streams()
    signals.install()
    problem = problem or _limit()
    if problem:
        print(f"fmlayers: {problem}", file=sys.stderr)
        return 1
    from fmlayers.cli.command import run

    try:
        code = run()
    except KeyboardInterrupt:  # while another error was reported
        signals.end_process()
    if signals.received():
        # The end of Python would wait for threads, such as those of a server.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    # Otherwise, Python would search all objects of TensorFlow for cycles at its end,
    # which takes a second.
    gc.freeze()
    return code


def _open_streams() -> str:
    """Opens the streams that are closed. Returns what is wrong with the output."""
    closed = [number for number in range(3) if not _is_open(number)]
    while not _is_open(2):  # takes the lowest free number
        os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if 1 in closed:
        return "Standard output is closed. Redirect it to /dev/null to discard it."
    return ""


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _limit() -> str:
    """Returns why the memory of this process does not suffice, or `""`."""
    try:
        import resource
    except ImportError:  # on Windows
        return ""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= MIN_ADDRESS_SPACE:
        return ""
    return (
        "The limit of virtual memory (`ulimit -v`) must be at least "
        f"{MIN_ADDRESS_SPACE / 1e9:g} GB, since the backends reserve more than they "
        f"use. Received: {limit / 1e9:.1f} GB."
    )
