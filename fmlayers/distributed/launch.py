"""Starts a group of processes on this machine.

    python -m fmlayers.distributed.launch PROCESSES SCRIPT [ARGUMENT ...]

The script must call `fmlayers.distributed.start()` without arguments. If a process
fails, the others are terminated.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from fmlayers._checks import integer
from fmlayers._ports import free_port

MAX_ENDING_SECONDS = 10.0  # after SIGTERM


def launch(command: Sequence[str], processes: int) -> int:
    """Runs a command in a group of processes on this machine.

    It sets the environment variables that `fmlayers.distributed.start` reads, and
    selects the JAX backend of Keras, in each process.

    Args:
        command: List of strings, the program and its arguments.
        processes: Positive integer, the number of processes.

    Returns:
        0, or the exit code of the first process that fails. If a signal ended this
        process, the exit code is 128 plus the number of the signal.
    """
    processes = integer("processes", processes)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "FMLAYERS_COORDINATOR": f"127.0.0.1:{free_port()}",
        "FMLAYERS_PROCESSES": str(processes),
    }
    running = []
    try:
        for process in range(processes):
            variables = {**environment, "FMLAYERS_PROCESS": str(process)}
            running.append(subprocess.Popen(command, env=variables))
        while True:
            codes = [each.poll() for each in running]
            failed = next((code for code in codes if code), None)
            if failed is not None:
                return failed if failed > 0 else 128 - failed
            if None not in codes:
                return 0
            time.sleep(0.05)
    finally:
        _end(running)


def _end(running: Sequence["subprocess.Popen[bytes]"]) -> None:
    for each in running:
        if each.poll() is None:
            each.terminate()
    end = time.monotonic() + MAX_ENDING_SECONDS
    for each in running:
        try:
            each.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns the exit code."""
    if len(arguments) < 2 or not arguments[0].isdigit() or arguments[0] == "0":
        print(
            "usage: python -m fmlayers.distributed.launch PROCESSES SCRIPT "
            "[ARGUMENT ...]",
            file=sys.stderr,
        )
        return 2
    # Raises an exception, as Ctrl-C does, so that the processes are terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return launch([sys.executable, *arguments[1:]], int(arguments[0]))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
