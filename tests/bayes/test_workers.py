"""Chains in worker processes, and fits in processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checks import check_error
from small_fits import assert_equal, data, fit

from fmlayers.bayes import GibbsSampler
from fmlayers.bayes.workers import WorkerError, Workers

pytestmark = pytest.mark.slow

# Writes a backup after each sweep, and shows the process numbers of the workers.
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from small_fits import data, fit
from fmlayers.bayes import backups, workers
backups.MIN_SECONDS = backups.MIN_RATIO = 0.0
started = workers.Workers.__init__
def start(self, *arguments):
    started(self, *arguments)
    numbers = " ".join(str(each.pid) for each in self._processes)
    Path(sys.argv[2]).write_text(numbers)
workers.Workers.__init__ = start
fit(sys.argv[1], 60, processes=int(sys.argv[3]), features=data()[0][:3])
"""
SWEEPS = 60


def started(folder, processes=1):
    tests = str(Path(__file__).parent.parent)
    arguments = [folder / "backup", folder / "workers", processes, tests]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for_change(folder, before, process):
    """Waits until a folder has other files than before, or the process has ended."""
    wait_for(lambda: sorted(folder.glob("*")) != before or process.poll() is not None)


def is_alive(number):
    """Returns whether a process runs; one that has ended may still have an entry."""
    try:
        return (
            Path(f"/proc/{number}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
        )
    except OSError:
        return False


@pytest.fixture(scope="module")
def undisturbed():
    return fit(None, SWEEPS, features=data()[0][:3])[0]


def test_killed_at_many_moments(tmp_path, undisturbed):
    rng = np.random.default_rng(0)
    kills = 0
    folder = tmp_path / "backup"
    for _ in range(6):
        before = sorted(folder.glob("*"))
        process = started(tmp_path)
        wait_for_change(folder, before, process)
        time.sleep(rng.uniform(0.0, 0.15))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 3
    resumed, seen = fit(folder, SWEEPS, features=data()[0][:3])
    assert seen == list(range(SWEEPS - len(seen) + 1, SWEEPS + 1))
    assert_equal(resumed, undisturbed)
    assert len(list(folder.iterdir())) == 3  # no leftovers of killed processes


def test_workers_draw_the_same(tmp_path, undisturbed):
    features = data()[0][:3]
    assert_equal(fit(None, SWEEPS, features=features, processes=2)[0], undisturbed)
    fit(tmp_path, 20, features=features, processes=5)
    assert_equal(fit(tmp_path, SWEEPS, features=features)[0], undisturbed)


def test_uneven_chains():
    options = {"chains": 3}
    expected, _ = fit(None, 6, options=options)
    assert_equal(fit(None, 6, options=options, processes=2)[0], expected)


def test_a_killed_worker(tmp_path, undisturbed, monkeypatch):
    """The fit fails with an error, and resumes."""
    features = data()[0][:3]
    workers = []
    start = Workers.__init__

    def remember(self, *arguments):
        start(self, *arguments)
        workers.append(self)

    monkeypatch.setattr(Workers, "__init__", remember)

    def kill(sweep, _):
        if sweep == 10:
            os.kill(workers[0]._processes[1].pid, signal.SIGKILL)

    arguments = {"features": features, "processes": 2}
    with pytest.raises(WorkerError, match="exit code -9"):
        fit(tmp_path, SWEEPS, **arguments, callbacks=[kill])
    assert all(process.poll() is not None for process in workers[0]._processes)
    assert_equal(fit(tmp_path, SWEEPS, **arguments)[0], undisturbed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_fit(tmp_path, number):
    process = started(tmp_path, processes=2)
    wait_for(lambda: (tmp_path / "backup" / "fit.json").exists())
    numbers = (tmp_path / "workers").read_text().split()
    assert len(numbers) == 2
    assert all(is_alive(worker) for worker in numbers)
    process.send_signal(number)
    process.wait(30)
    wait_for(lambda: not any(is_alive(worker) for worker in numbers), 10)


def test_errors_of_workers(tmp_path):
    fit(tmp_path, 5)
    path = tmp_path / "chain-1-sweep-5.npz"
    path.unlink()
    check_error("chain-1-sweep-5.npz", lambda: fit(tmp_path, 6, processes=2))
    with pytest.raises(NotADirectoryError) as error:
        fit_to_lost_folder(tmp_path / "lost")
    assert "In a worker process" in "".join(error.value.__notes__)
    features, inputs, targets = data()
    check_error(
        "`processes` must be a positive",
        lambda: GibbsSampler(features, 2).fit(inputs, targets, processes=0),
    )


def fit_to_lost_folder(folder):
    """Replaces the folder of the backups by a file during the fit."""

    def lose(sweep, _):
        if sweep == 1:
            folder.rmdir()
            folder.touch()

    fit(folder, 5, processes=2, callbacks=[lose])
