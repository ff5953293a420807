"""Worker processes for the chains of a fit."""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from fmlayers.bayes.chain_runs import ChainRuns, Problem, Report, Result

# A worker reads commands from its standard input and writes the answers to a copy of
# its standard output. The process that started it kills it.
START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
import pickle
sys.path[:] = pickle.load(sys.stdin.buffer)
from fmlayers._logs import import_keras
import_keras()
from fmlayers.bayes.workers import work
work(sys.stdin.buffer, answers)
"""


class WorkerError(RuntimeError):
    """A worker process has ended before its chains did."""


class Workers:
    """The chains of a fit in worker processes, with the methods of `ChainRuns`.

    Args:
        problem: The `Problem`.
        count: Integer, the number of processes, at most that of the chains.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        self._indices = np.array_split(np.arange(problem.chains), count)
        self._processes: list[subprocess.Popen[bytes]] = []
        env = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
        try:
            for _ in self._indices:
                process = subprocess.Popen(
                    [sys.executable, "-c", START],
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                self._processes.append(process)
            for process, indices in zip(self._processes, self._indices, strict=True):
                self._send(process, sys.path)
                self._send(process, (problem, indices.tolist()))
        except BaseException:
            self.close()
            raise

    def sweep(self) -> list[Report]:
        """See `ChainRuns.sweep`."""
        return self._all("sweep")

    def save(self, paths: Sequence[Path]) -> list[str]:
        """See `ChainRuns.save`."""
        return self._all("save", paths)

    def restore(self, paths: Sequence[Path]) -> list[int]:
        """See `ChainRuns.restore`."""
        return self._all("restore", paths)

    def results(self) -> list[Result]:
        """See `ChainRuns.results`."""
        return self._all("results")

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with contextlib.suppress(OSError):  # unsent bytes in the buffer
                    pipe.close()

    def _all(self, method: str, paths: Sequence[Path] | None = None) -> list[Any]:
        """Calls a method of the chains of each worker. Joins the lists it returns."""
        for process, indices in zip(self._processes, self._indices, strict=True):
            arguments = [] if paths is None else [[paths[i] for i in indices]]
            self._send(process, (method, arguments))
        return [x for process in self._processes for x in self._answer(process)]

    def _send(self, process: subprocess.Popen[bytes], message: Any) -> None:
        assert process.stdin is not None
        try:
            pickle.dump(message, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
        except OSError as reason:
            raise _ended(process) from reason

    def _answer(self, process: subprocess.Popen[bytes]) -> list[Any]:
        assert process.stdout is not None
        try:
            answer, error, lines = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as reason:
            raise _ended(process) from reason
        if error is not None:
            error.add_note(f"In a worker process:\n{lines}")
            raise error
        answers: list[Any] = answer
        return answers


def started(problem: Problem, processes: int) -> ChainRuns | Workers:
    """Returns the chains of a fit, in this process or in workers."""
    count = min(processes, problem.chains)
    if count == 1:
        return ChainRuns(problem, range(problem.chains))
    return Workers(problem, count)


def work(commands: BinaryIO, answers: BinaryIO) -> None:
    """Runs chains for the process that has started this one."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(commands, messages), daemon=True).start()
    runs = None
    answer: tuple[Any, Exception | None, str]
    while True:
        message = messages.get()
        try:
            if runs is None:
                runs = ChainRuns(*message)
                continue
            method, arguments = message
            answer = getattr(runs, method)(*arguments), None, ""
        except Exception as error:
            answer = None, _portable(error), traceback.format_exc()
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _receive(commands: BinaryIO, messages: "queue.SimpleQueue[Any]") -> None:
    """Receives messages until the main process ends, and then exits."""
    try:
        while True:
            messages.put(pickle.load(commands))
    except BaseException:
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """Returns the error, or one with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _ended(process: subprocess.Popen[bytes]) -> WorkerError:
    return WorkerError(
        f"Worker process {process.pid} has ended with exit code {process.wait()}, "
        "which is negative if it was killed, for example for lack of memory. Call "
        "`fit` again; with the same `backup_dir`, it resumes from the last backup. "
        "Fewer `processes` need less memory."
    )
