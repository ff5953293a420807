"""A chief and its workers in separate processes on this machine."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from fmlayers._json_files import read_json, write_json
from fmlayers.tuning import Study, StudyError, processes, tune
from fmlayers.tuning.study import Prepared
from fmlayers.tuning.tuners import make_tuner

# Long enough to be killed in.
LONG = {"max_epochs": 20, "patience": 20}


@pytest.fixture
def on_loopback(monkeypatch):
    """Make this process the chief, of workers that share its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = ("chief", "127.0.0.1", str(port))
    for name, value in zip(processes.VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)


@pytest.fixture
def as_worker(study, on_loopback, monkeypatch):
    """Make this process a worker of a copy of the study."""
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "one")
    return lambda out: tune(study.config, out, worker_timeout=1.0)


@contextlib.contextmanager
def worker(name, config, out):
    """Run a worker by the command, as on another machine."""
    training = config.training
    command = f"""
        tune --data {training.data} --dim {training.dim} --out {out}
        --max-epochs {training.max_epochs} --patience {training.patience}
        --batch-size {training.batch_size} --search l2 learning_rate=0.05:0.5
        --worker-timeout 60
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "fmlayers.cli", *command.split()],
        env={**os.environ, "KERASTUNER_TUNER_ID": name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_search_does_not_wait_for_a_worker_that_starts_late(
    make_config, tmp_path, monkeypatch
):
    """The other worker has tried all combinations by then, and the server has ended."""
    late = """
import os, time
if os.environ["KERASTUNER_TUNER_ID"] == "worker-2":
    time.sleep(3000)
"""
    monkeypatch.setattr(processes, "START", late + processes.START)
    config = make_config({"max_epochs": 1}, search={"l2": "0.02,0.2"})
    study = tune(config, tmp_path / "study", max_trials=6, workers=2)
    assert sorted(study.trials()["l2"]) == [0.02, 0.2]


def exits_without_error(process):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def in_flight(out):
    """Return whether a worker runs a trial."""
    for path in (out / "trials").glob("trial_*/trial.json"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(path.read_text())["status"] == "RUNNING":
                return True
    return False


def kill_in_flight(out, processes):
    """Kill the first process as soon as there is a trial in flight."""

    def kill():
        while not in_flight(out):
            time.sleep(0.01)
            if any(process.poll() is not None for process in processes):
                return
        time.sleep(0.5)
        processes[0].kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def values(study):
    trials = study.trials()
    return trials[["trial", "status", "l2", "learning_rate/adagrad"]].round(6)


@pytest.mark.slow
def test_a_chief_and_two_workers(study, make_config, on_loopback, tmp_path):
    config, out = make_config(), tmp_path / "s"
    with worker("one", config, out) as one, worker("two", config, out) as two:
        result = tune(config, out, max_trials=4, worker_timeout=60.0)
        exits_without_error(one)
        exits_without_error(two)
    # The same trials as in a single process.
    assert values(result).equals(values(study)[:4])
    assert (out / "best" / "model.keras").exists()
    assert {path.name for path in (out / "alive").iterdir()} >= {"one", "two", "chief"}
    assert processes.has_ended(out)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(study, make_config, tmp_path, monkeypatch):
    started = []

    class Recorded(processes.LocalWorkers):
        def start(self):
            super().start()
            started.append(self.processes[f"worker-{self.started}"])

    monkeypatch.setattr(processes, "LocalWorkers", Recorded)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    out = tmp_path / "s"
    killing = kill_in_flight(out, started)
    result = tune(make_config(LONG), out, max_trials=3, workers=2)
    killing.join()
    assert len(started) == 3
    assert (result.trials()["status"] == "COMPLETED").all()
    assert result.trials()["trial"].tolist() == [0, 1, 2]
    assert values(result)["l2"].tolist() == values(study)["l2"].tolist()[:3]
    assert not any(name in os.environ for name in processes.VARIABLES)
    logs = [log.read_text() for log in (out / "alive").glob("*.log")]
    assert len(logs) == 3
    assert not [log for log in logs if "absl" in log or ".cc:" in log]


@pytest.mark.slow
def test_a_chief_does_not_wait_for_a_killed_worker(
    make_config, on_loopback, tmp_path, monkeypatch
):
    config, out = make_config(LONG), tmp_path / "s"
    with worker("one", config, out) as one:
        killing = kill_in_flight(out, [one])
        with pytest.raises(StudyError, match=r"All workers are lost; \d trials have"):
            tune(config, out, max_trials=2, worker_timeout=15.0)
        killing.join()
        assert one.wait(60) == -signal.SIGKILL
    for name in processes.VARIABLES:
        monkeypatch.delenv(name)
    # The resumed search runs the interrupted trial again.
    result = tune(config, out, max_trials=2)
    assert (result.trials()["status"] == "COMPLETED").all()
    assert result.trials()["trial"].tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_a_worker_does_not_wait_for_a_lost_chief(
    ignored, as_worker, study, tmp_path, request
):
    handler = signal.SIG_IGN if ignored else signal.default_int_handler
    former = signal.signal(signal.SIGINT, handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, former))
    shutil.copytree(study.path, tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "trials" / "trial_0")  # a worker need not read it
    with pytest.raises(StudyError, match="The chief of .* is lost. Run the same"):
        as_worker(tmp_path / "s")
    # After a completed search, the worker exits without an error.
    (tmp_path / "s" / "alive" / "chief").write_text(processes.ENDED)
    as_worker(tmp_path / "s")


def test_a_worker_waits_for_the_study(tmp_path):
    with pytest.raises(
        StudyError, match="The chief has not created a study at .* within 0.5 seconds"
    ):
        processes.wait_for(tmp_path / "s", 0.5)


def test_a_worker_of_other_data_is_refused(as_worker, study, tmp_path):
    shutil.copytree(study.path, tmp_path / "s")
    record = read_json(tmp_path / "s" / "config.json")
    record["fingerprints"]["data"] = "0"
    write_json(tmp_path / "s" / "config.json", record)
    with pytest.raises(
        StudyError, match="data on this machine must be those of the study"
    ):
        as_worker(tmp_path / "s")


def test_some_variables_error(monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(StudyError, match="must all be set.*KERASTUNER_ORACLE_PORT"):
        processes.role()


def test_a_trial_that_kills_its_workers_fails(study, tmp_path):
    """It starts again once, and then counts as failed."""
    prepared = Prepared(study.config)
    tuner = make_tuner(
        study.config,
        tmp_path,
        prepared.trial_model(),
        study.hyperparameters,
        max_trials=2,
    )
    oracle = tuner.oracle
    first = oracle.create_trial("one")
    oracle.release("one")
    assert (oracle.waiting, oracle.tuner_ids) == (1, set())
    again = oracle.create_trial("two")
    assert again.trial_id == first.trial_id
    oracle.release("two")
    assert (oracle.waiting, oracle.end_order) == (0, [first.trial_id])
    assert oracle.trials[first.trial_id].status == "FAILED"
    reason = tmp_path / "trials" / f"trial_{first.trial_id}" / "failure.json"
    assert "The trial lost its worker 2 times." in read_json(reason)["reason"]
    oracle.release("nobody")  # a worker without a trial
    assert oracle.create_trial("three").trial_id != first.trial_id


def test_silence_is_measured_by_an_unchanged_file(tmp_path):
    watch, path = processes.Watch(), tmp_path / "one"
    assert watch.silence(path) == 0.0
    time.sleep(0.05)
    assert watch.silence(path) >= 0.05
    path.touch()
    assert watch.silence(path) == 0.0
    # A wrong clock does not matter.
    os.utime(path, (1, 1))
    assert watch.silence(path) == 0.0
    assert watch.silence(path) < 0.05


def test_a_study_is_read_by_others(study):
    assert Study(study.path).trials().equals(study.trials())
