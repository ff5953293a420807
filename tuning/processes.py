"""Several processes at one study: KerasTuner's chief and workers, with bounds.

KerasTuner's chief waits for ever for a worker that was killed, and a worker an hour for
a chief that is gone. Here each process shows every few seconds that it is there, by a
file in the study's folder that all of them share, and looks whether the others do. Only
how long a file has not changed is looked at, by the looker's own clock.
"""

import _thread
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from fmlayers.tuning.study import StudyError
from fmlayers.tuning.trial_progress import TrialProgress

Role = Literal["alone", "chief", "worker"]

ALIVE = "alive"  # folder of the files that show who is there
CHIEF = "chief"
ENDED = "The search has ended."  # what the chief's file says from then on
VARIABLES = (
    "KERASTUNER_TUNER_ID",
    "KERASTUNER_ORACLE_IP",
    "KERASTUNER_ORACLE_PORT",
)
# Not `-m`, which would import Keras and its log lines with the package of the module.
START = """
from fmlayers._logs import import_keras
import_keras()
from fmlayers.tuning.worker import main
main()
"""
TIMEOUT = 120.0  # seconds; a shared folder may show a change a minute late
BEAT = 2.0  # seconds between two signs of life, at most
LOOK = 0.2  # seconds between two looks of the chief


def role() -> Role:
    """Returns what KerasTuner's environment variables make of this process.

    Raises:
        StudyError: If some of them are set and others are not.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if not given:
        return "alone"
    if len(given) < len(VARIABLES):
        missing = [name for name in VARIABLES if name not in given]
        raise StudyError(
            f"Of KerasTuner's environment variables {given} are set, and {missing} "
            "are not. Set all of them, or none."
        )
    return "chief" if CHIEF in os.environ[VARIABLES[0]] else "worker"


class Watch:
    """Tells for how long a process has shown no sign of life."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}

    def silence(self, path: Path) -> float:
        """Returns seconds since the file was last seen to change."""
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            changed = 0
        now = time.monotonic()
        before, when = self._seen.get(path, (None, now))
        if changed != before:
            when = now
        self._seen[path] = (changed, when)
        return now - when


@contextlib.contextmanager
def showing_life(
    folder: Path,
    name: str,
    timeout: float,
    *,
    of: str | None = None,
    child: bool = False,
) -> Iterator[threading.Event]:
    """Shows that this process is there, and stops it once another is not.

    Args:
        folder: The study's.
        name: Of this process.
        timeout: Seconds of silence after which a process counts as gone.
        of: Optional name of the process that this one is of no use without.
        child: Whether that one has started this one.

    Yields:
        An event that is set where that one is gone; the main thread is interrupted.
    """
    alive = folder / ALIVE
    alive.mkdir(exist_ok=True)
    ended, gone = threading.Event(), threading.Event()
    watch, parent = Watch(), os.getppid()

    def beat() -> None:
        while not ended.wait(min(BEAT, timeout / 4)):
            (alive / name).touch()
            if of is None:
                continue
            orphan = child and os.getppid() != parent
            if orphan or watch.silence(alive / of) > timeout:
                gone.set()
                _thread.interrupt_main()
                return

    (alive / name).write_text("")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with _interruptible(gone) if of is not None else contextlib.nullcontext():
            yield gone
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _interruptible(gone: threading.Event) -> Iterator[None]:
    """Lets `interrupt_main` reach a process that ignores Ctrl-C.

    A shell script starts its background processes so.
    """
    former = signal.getsignal(signal.SIGINT)
    if callable(former):
        yield
        return

    def leave(*_: Any) -> None:
        if gone.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


class LocalWorkers:
    """Workers on this machine, each a process of its own, replaced where one dies.

    Args:
        folder: The study's.
        count: How many.
        timeout: As of `showing_life`.
    """

    def __init__(self, folder: Path, count: int, timeout: float) -> None:
        self.folder = folder
        self.arguments = [str(folder), str(timeout), str(count)]
        self.spare = 2 * count  # replacements, in all
        self.started = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for _ in range(count):
            self.start()

    def start(self) -> None:
        """Starts one more; what it prints goes to a file in the study's folder."""
        self.started += 1
        name = f"worker-{self.started}"
        (self.folder / ALIVE).mkdir(exist_ok=True)
        command = [sys.executable, "-c", START, *self.arguments]
        with self.log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env={**os.environ, VARIABLES[0]: name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self, name: str) -> Path:
        return self.folder / ALIVE / f"{name}.log"

    def gone(self) -> list[tuple[str, bool]]:
        """Returns the workers that have ended since the last time, and whether well."""
        codes = {name: process.poll() for name, process in self.processes.items()}
        ended = [(name, code == 0) for name, code in codes.items() if code is not None]
        for name, _ in ended:
            del self.processes[name]
        return ended

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def local_chief(port: int | None = None) -> Iterator[None]:
    """Makes this process the chief of workers on this machine."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    values = (CHIEF, "127.0.0.1", str(port or _free_port()))
    os.environ.update(zip(VARIABLES, values, strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def lead(
    tuner: Any,
    folder: Path,
    progress: TrialProgress,
    timeout: float,
    local: LocalWorkers | None = None,
) -> None:
    """Serves trials to workers until there are none left, or no workers.

    Args:
        tuner: The chief's.
        folder: The study's.
        progress: Told of what has ended.
        timeout: As of `showing_life`; also for how long there may be no worker.
        local: Optional workers on this machine.

    Raises:
        StudyError: If all workers are gone before the search is done.
    """
    oracle = tuner.oracle
    # Its server has no other end than that of the search, and waits for ever.
    server = threading.Thread(target=tuner.search, daemon=True, name="chief")
    server.start()
    watch = Watch()
    left_well = False  # a worker leaves by itself when there is nothing left to do
    seen: set[str] = set()
    empty_since = time.monotonic()
    while True:
        time.sleep(LOOK)
        progress.update()
        here = set(oracle.tuner_ids)
        left_well |= bool(seen - here)
        gone = {n for n in here if watch.silence(folder / ALIVE / n) > timeout}
        for name in gone:
            oracle.release(name)
        seen = here = here - gone
        if local is not None:
            left_well |= _tend(local, oracle, seen, left_well)
            if not local.processes:
                break
            continue
        if here:
            empty_since = time.monotonic()
        finished = left_well and not here and not oracle.waiting
        if finished or time.monotonic() - empty_since > timeout:
            break
    progress.update()
    if not left_well or oracle.waiting:
        raise StudyError(
            f"All workers are gone; {len(oracle.end_order)} trials have ended. The "
            f"same command goes on.{_last_words(folder)}"
        )
    (folder / ALIVE / CHIEF).write_text(ENDED)


def has_ended(folder: Path) -> bool:
    """Returns whether the last chief of the study has left because all was done."""
    chief = folder / ALIVE / CHIEF
    return chief.is_file() and chief.read_text() == ENDED


def _tend(local: LocalWorkers, oracle: Any, seen: set[str], left_well: bool) -> bool:
    """Takes trials back from workers that have died, and replaces these.

    Returns whether one has ended because there was nothing left to do.
    """
    well = False
    for name, ended_well in local.gone():
        well |= ended_well
        if ended_well:
            continue
        oracle.release(name)
        seen.discard(name)
        if local.spare and (oracle.waiting or not (well or left_well)):
            local.spare -= 1
            local.start()
    # The others may have left before a trial was taken back.
    if not local.processes and oracle.waiting and local.spare:
        local.spare -= 1
        local.start()
    return well


def _last_words(folder: Path) -> str:
    """Returns the last line of the last worker's log that has one."""
    logs = sorted((folder / ALIVE).glob("*.log"), key=lambda log: log.stat().st_mtime)
    for log in reversed(logs):
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        if lines:
            return f" The last line of {log}: {lines[-1]}"
    return ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(path: Path, timeout: float) -> None:
    """Waits until the chief has made the study.

    Raises:
        StudyError: If it has not in time.
    """
    started = time.monotonic()
    while not (path / "config.json").is_file():
        if time.monotonic() - started > timeout:
            raise StudyError(
                f"The chief has made no study at {path}, of which the folder must be "
                "shared among all machines."
            )
        time.sleep(LOOK)
