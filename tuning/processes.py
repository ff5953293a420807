"""Several processes that work on one study: KerasTuner's chief and its workers.

KerasTuner's chief waits forever for a worker that was killed, and a worker waits an
hour for a lost chief. Here, each process touches a file in the shared folder of the
study every few seconds, and watches the files of the others. A process counts as lost
when its file has not changed for a while. The watching process measures that time, so
the clocks of the machines may differ.
"""

import _thread
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from fmlayers._files import whole_file
from fmlayers._ports import free_port
from fmlayers.tuning.study_folder import StudyError
from fmlayers.tuning.trial_progress import TrialProgress

Role = Literal["alone", "chief", "worker"]

ALIVE = "alive"  # folder of the files that show which processes are alive
CHIEF = "chief"
ENDED = "The search has ended."  # content of the chief's file after the search
VARIABLES = (
    "KERASTUNER_TUNER_ID",
    "KERASTUNER_ORACLE_IP",
    "KERASTUNER_ORACLE_PORT",
)
# The chief writes its `sys.path` and the models to the standard input of a worker. With
# `-m`, the package of the module would import Keras before its log lines are switched
# off.
START = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the chief ends its workers
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from fmlayers._logs import import_keras
import_keras()
from fmlayers.tuning.worker import main
main()
"""
TIMEOUT_SECONDS = 120.0  # a shared folder may show a change a minute late
MAX_BEAT_SECONDS = 2.0  # between two signs of life
POLL_SECONDS = 0.2


def role() -> Role:
    """Returns the role of this process, from KerasTuner's environment variables.

    Raises:
        StudyError: If only some of the variables are set.
    """
    present = [name for name in VARIABLES if os.environ.get(name)]
    if not present:
        return "alone"
    if len(present) < len(VARIABLES):
        missing = [name for name in VARIABLES if name not in present]
        raise StudyError(
            "KerasTuner's environment variables must all be set, or none of them. Set "
            f"{missing}, too. Received: {present}."
        )
    return "chief" if CHIEF in os.environ[VARIABLES[0]] else "worker"


class Watch:
    """Measures how long a process has shown no sign of life."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}

    def silence(self, path: Path) -> float:
        """Returns the seconds since this watch last saw the file change."""
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
    parent: int | None = None,
) -> Iterator[threading.Event]:
    """Shows that this process is alive, and interrupts it when its chief is lost.

    Args:
        folder: Folder of the study.
        name: Name of this process.
        timeout: Seconds without a sign of life after which a process counts as lost.
        of: Optional name of the chief of this process.
        parent: Number of the process of the chief, if it has started this one.

    Yields:
        An event. If the chief is lost, the event is set and the main thread is
        interrupted.
    """
    alive = folder / ALIVE
    alive.mkdir(exist_ok=True)
    ended, lost = threading.Event(), threading.Event()
    watch = Watch()

    def beat() -> None:
        while not ended.wait(min(MAX_BEAT_SECONDS, timeout / 4)):
            (alive / name).touch()
            if of is None:
                continue
            orphan = parent is not None and os.getppid() != parent
            if orphan or watch.silence(alive / of) > timeout:
                lost.set()
                _thread.interrupt_main()
                return

    (alive / name).write_text("")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        with _interruptible(lost) if of is not None else contextlib.nullcontext():
            yield lost
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _interruptible(lost: threading.Event) -> Iterator[None]:
    """Lets `interrupt_main` reach the main thread, however it handles Ctrl-C.

    Local workers ignore it, and so do the background processes of a shell script.
    """
    former = signal.getsignal(signal.SIGINT)

    def leave(number: int, frame: Any) -> None:
        if lost.is_set():
            raise KeyboardInterrupt
        if callable(former):
            former(number, frame)

    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


class LocalWorkers:
    """Starts worker processes on this machine, and replaces those that die.

    Args:
        folder: Folder of the study.
        timeout: Seconds without a sign of life after which a process counts as lost.
        specs: The models of the study, from `portable_specs`.
    """

    def __init__(self, folder: Path, timeout: float, specs: bytes) -> None:
        self.folder = folder
        self.timeout = timeout
        self.input = pickle.dumps(sys.path) + specs
        self.count = 0
        self.spare = 0  # replacements in total
        self.started = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_all(self, count: int) -> None:
        """Starts some workers, and allows for twice as many replacements."""
        self.count, self.spare = count, 2 * count
        for _ in range(count):
            self.start()

    def start(self) -> None:
        """Starts another worker; its output goes to a file in the study's folder."""
        self.started += 1
        name = f"worker-{self.started}"
        (self.folder / ALIVE).mkdir(exist_ok=True)
        arguments = [self.folder, self.timeout, self.count, os.getpid()]
        command = [sys.executable, "-c", START, *map(str, arguments)]
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, VARIABLES[0]: name},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[name] = process
        if process.stdin is not None:
            # A worker that has died already is replaced like any other.
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(self.input)

    def log(self, name: str) -> Path:
        return self.folder / ALIVE / f"{name}.log"

    def take_ended(self) -> list[tuple[str, bool]]:
        """Returns the workers that ended since the last call, and whether they failed.

        It removes them from `processes`.
        """
        codes = {name: process.poll() for name, process in self.processes.items()}
        ended = [(name, code != 0) for name, code in codes.items() if code is not None]
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
    """Makes this process the chief of the workers on this machine."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    values = (CHIEF, "127.0.0.1", str(port or free_port()))
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
    """Serves trials to workers until no trials or no workers are left.

    Args:
        tuner: The tuner of the chief.
        folder: Folder of the study.
        progress: Display of the trials that have ended.
        timeout: Seconds without a sign of life after which a worker counts as lost,
            and seconds without any worker after which the chief exits.
        local: Optional workers on this machine.

    Raises:
        StudyError: If all workers are lost before the end of the search.
    """
    oracle = tuner.oracle
    # KerasTuner's server returns only after the search, and otherwise waits forever.
    server = threading.Thread(target=tuner.search, daemon=True, name="chief")
    server.start()
    watch = Watch()
    is_complete = False  # a worker leaves by itself when no trials are left
    seen: set[str] = set()
    empty_since = time.monotonic()
    while True:
        time.sleep(POLL_SECONDS)
        progress.update()
        present = set(oracle.tuner_ids)
        is_complete |= bool(seen - present)
        lost = {n for n in present if watch.silence(folder / ALIVE / n) > timeout}
        for name in lost:
            oracle.release(name)
        seen = present = present - lost
        if local is not None:
            is_complete = _replace_failed(local, oracle, seen, is_complete)
            # Without a server, a worker that starts late would wait for an hour.
            is_over = is_complete and not server.is_alive() and not oracle.waiting
            if is_over or not local.processes:
                break
            continue
        if present:
            empty_since = time.monotonic()
        finished = is_complete and not present and not oracle.waiting
        if finished or time.monotonic() - empty_since > timeout:
            break
    progress.update()
    if not is_complete or oracle.waiting:
        raise StudyError(
            f"All workers are lost; {len(oracle.end_order)} trials have ended. Run the "
            f"same command again to resume the search.{_last_output(folder)}"
        )
    with whole_file(folder / ALIVE / CHIEF) as written:
        written.write_text(ENDED)


def has_ended(folder: Path) -> bool:
    """Returns whether the last chief of the study has completed its search."""
    chief = folder / ALIVE / CHIEF
    return chief.is_file() and chief.read_bytes() == ENDED.encode()


def _replace_failed(
    local: LocalWorkers, oracle: Any, seen: set[str], is_complete: bool
) -> bool:
    """Replaces workers that have failed; their trials wait for another worker.

    Returns:
        Whether a worker has ended because no trials are left.
    """
    for name, failed in local.take_ended():
        if not failed:
            is_complete = True
            continue
        oracle.release(name)
        seen.discard(name)
        if local.spare and (oracle.waiting or not is_complete):
            local.spare -= 1
            local.start()
    # The other workers may have left before the trial was released.
    if not local.processes and oracle.waiting and local.spare:
        local.spare -= 1
        local.start()
    return is_complete


def _last_output(folder: Path) -> str:
    """Returns the last line of the latest log that is not empty, as a sentence."""
    logs = sorted((folder / ALIVE).glob("*.log"), key=lambda log: log.stat().st_mtime)
    for log in reversed(logs):
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        if lines:
            return f" The last line of {log} is: {lines[-1]}"
    return ""


def wait_for(path: Path, timeout: float) -> None:
    """Waits until the chief has created the study.

    Raises:
        StudyError: If the study does not exist after `timeout` seconds.
    """
    started = time.monotonic()
    while not (path / "config.json").is_file():
        if time.monotonic() - started > timeout:
            raise StudyError(
                f"The chief has not created a study at {path} within {timeout:g} "
                "seconds. All machines must share this folder."
            )
        time.sleep(POLL_SECONDS)
