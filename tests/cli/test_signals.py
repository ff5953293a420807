"""Real signals, sent to the command at many moments of its life."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fmlayers.data import synthetic, write_csv

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs the signals of processes"
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEXTS = dict(
    zip(SIGNALS, ("interrupted", "terminated", "terminated, as its"), strict=True)
)
MODEL = "--model mf --dim 2 --batch-size 64"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shop.csv"
    write_csv(synthetic(num_users=30, num_items=20, num_ratings=400).ratings, path)
    return path


@pytest.fixture(autouse=True, scope="module")
def _not_ignored():
    """A shell that starts the tests in the background makes them ignore Ctrl-C."""
    ignored = [x for x in SIGNALS if signal.getsignal(x) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def start(words):
    return subprocess.Popen(
        [sys.executable, "-m", "fmlayers", *words.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(words, number, *, times=1, after=0.0, when=None):
    """Send a signal to a command. Return its exit code and its standard error.

    The time `after` counts from when the command handles signals, which is as soon as
    Python runs it, or from when `when` returns True.
    """
    process = start(words)
    for condition in (lambda: handles_signals(process.pid), when or (lambda: True)):
        while process.poll() is None and not condition():
            time.sleep(0.005)
    time.sleep(after)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.02)
    _, error = process.communicate(timeout=120)
    return process.returncode, error


def handles_signals(process):
    """Return whether a process handles SIGTERM. Python itself handles SIGINT alone."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)
    raise AssertionError("no mask of signals")


def check_interrupted(number, code, error):
    """Check what the command says. Return the hint on how to resume."""
    assert code == 128 + number, error
    lines = [line for line in error.splitlines() if line.startswith("fmlayers:")]
    assert len(lines) == 1, error
    assert error.endswith(f"{lines[0]}\n")
    assert lines[0].startswith(f"fmlayers: {TEXTS[number]}")
    assert "Traceback" not in error
    assert "Error" not in error
    return lines[0].partition("; ")[2]


def processes_of(out):
    """Return the numbers of the processes whose command has a word."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(out).encode() in words:
            numbers.append(int(path.name))
    return numbers


def finishes(words):
    _, error = (process := start(words)).communicate(timeout=200)
    assert process.returncode == 0, error


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_signal_at_any_moment_of_the_start(command, shop, tmp_path):
    """Modules are imported then."""

    def attempt(i):
        number, times = SIGNALS[i % 3], 1 + i // 3 % 2
        words = f"{command} --data {shop} {MODEL} --max-epochs 4000 --patience 4000"
        if command == "tune":
            words += " --search l2"
        words += f" --out {tmp_path / str(i)}"
        result = interrupt(words, number, times=times, after=i / 6)
        check_interrupted(number, *result)
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(attempt, range(16))) == 16
    assert not [path for path in tmp_path.rglob("*") if ".fmlayers-" in path.name]


LOSES_THE_SIGNAL = """
import os, signal, sys, time
from fmlayers.cli import signals

signals.install()
signals.begin()

def fail():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt as error:
        lost = error
    {failure}

class Released:
    def __del__(self):
        fail()

try:
    {loss}
    time.sleep(4)
    print("lost")
except KeyboardInterrupt:
    print("interrupted by", signals.received())
"""
LOSSES = [
    "Released()",
    "try: fail()\n    except Exception: sys.excepthook(*sys.exc_info())",
]


@pytest.mark.parametrize("loss", LOSSES, ids=["finalizer", "printed by C code"])
@pytest.mark.parametrize("cause", [" from lost", ""], ids=["with cause", "bare"])
def test_an_interruption_that_c_code_turns_into_another_error(loss, cause):
    failure = f"raise SystemError('a result with an exception set'){cause}"
    script = LOSES_THE_SIGNAL.format(failure=failure, loss=loss)
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("interrupted by 15\n", "")


def test_other_errors_are_still_printed():
    script = "from fmlayers.cli import signals\nsignals.install()\n1 / 0"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, "ZeroDivisionError" in result.stderr) == (1, True)


def has(path, *, number=1):
    return lambda: len(list(path.parent.glob(path.name))) >= number


@pytest.mark.slow
def test_a_signal_during_training(shop, tmp_path):
    words = f"train --data {shop} {MODEL} --patience 60 --max-epochs"

    def attempt(i):
        out = tmp_path / str(i)
        # In six attempts, any two of signal, number and moment occur together.
        number, times, has_epochs = SIGNALS[i % 3], 1 + i // 3, (i + i // 3) % 2
        partial = tmp_path / f"{i}.partial"
        when = has(partial / ("config.json", "progress.json")[has_epochs])
        result = interrupt(
            f"{words} 4000 --out {out}", number, times=times, after=i / 50, when=when
        )
        hint = check_interrupted(number, *result)
        assert hint == ("resume with --resume" if partial.exists() else "")
        assert not out.exists()
        return partial.exists() or not has_epochs

    with ThreadPoolExecutor(4) as threads:
        resumable = list(threads.map(attempt, range(6)))
    assert len(resumable) == 6
    assert all(resumable)  # after the first epoch
    out = tmp_path / "resumed"
    result = interrupt(
        f"{words} 60 --out {out}",
        signal.SIGINT,
        times=2,
        when=has(tmp_path / "resumed.partial" / "progress.json"),
    )
    assert check_interrupted(signal.SIGINT, *result) == "resume with --resume"
    finishes(f"{words} 60 --out {out} --resume")
    assert (out / "model.keras").exists()
    assert not (tmp_path / "resumed.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_during_a_search(workers, shop, tmp_path):
    """It ends the workers, too."""
    words = f"tune --data {shop} {MODEL} --search l2 --workers {workers}"

    def attempt(i):
        out = tmp_path / str(i)
        number, times, has_workers = SIGNALS[i % 3], 1 + i // 3, (i + i // 3) % 2
        name = "alive/worker-*.log" if workers == 2 and has_workers else "config.json"
        when = has(out / name)
        result = interrupt(
            f"{words} --max-epochs 4000 --patience 4000 --out {out}",
            number,
            times=times,
            after=i / 4,
            when=when,
        )
        assert check_interrupted(number, *result) == "resume with the same command"
        deadline = time.monotonic() + 20
        while processes_of(out) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_of(out) == []

    with ThreadPoolExecutor(2) as threads:
        attempts = len(list(threads.map(attempt, range(6))))
    assert attempts == 6
    out = tmp_path / "resumed"
    resumed = f"{words} --max-epochs 2 --max-trials 3 --out {out}"
    result = interrupt(
        resumed,
        signal.SIGTERM,
        when=has(out / "trials" / "trial_*", number=2),
    )
    assert check_interrupted(signal.SIGTERM, *result) == "resume with the same command"
    finishes(resumed)
    assert (out / "best" / "model.keras").exists()
    assert len(list(out.glob("trials/trial_*/trial.json"))) == 3
