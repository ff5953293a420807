import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import fmlayers
from fmlayers.data import synthetic, write_csv
from fmlayers.distributed import launch_with_ray
from tests.distributed.groups import HERE, ROOT, environment

SECONDS = 300


def processes_of(folder):
    """Return the processes of the local Ray with this folder, and their commands."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = (path / "environ").read_bytes().split(b"\0")
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if f"RAY_TMPDIR={folder}".encode() in variables and command:
            found[int(path.name)] = command
    return found


@contextlib.contextmanager
def folder_of_ray():
    """Yield a folder for a local Ray, of which no process may be left."""
    pytest.importorskip("jax")
    pytest.importorskip("ray")
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    # The path of a socket in it must not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        try:
            yield name
            end = time.monotonic() + 60
            while processes_of(name) and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            left = processes_of(name)
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        assert not left


def start(folder, *words, **options):
    """Start a script without the cluster of Ray that the machine may have."""
    variables = environment(
        RAY_TMPDIR=folder, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"
    )
    variables.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def end(process):
    """Return the output of a process, which must succeed in time."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def holder_of(folder, path):
    """Return the process of the local Ray that has opened a file."""
    for number in processes_of(folder):
        with contextlib.suppress(OSError):  # it has ended
            opened = Path(f"/proc/{number}/fd").iterdir()
            if any(x.exists() and x.samefile(path) for x in opened):
                return number
    raise AssertionError(f"no process has opened {path}")


@pytest.mark.slow
def test_a_run_ends_as_undisturbed_if_a_worker_is_killed(tmp_path):
    write_csv(
        synthetic(num_users=30, num_items=20, num_ratings=401).ratings,
        tmp_path / "shop.csv",
    )
    command = shlex.split(
        "fmlayers train --data shop.csv --model mf --dim 2 --batch-size 64 "
        "--max-epochs 20 --patience 20"
    )
    lines = [
        shlex.join([*command, "--out", "together", "--launch", "ray:2"]),
        shlex.join([*command, "--out", "alone"]),
    ]
    (tmp_path / "lines").write_text("\n".join(lines))
    progress = tmp_path / "together.partial" / "progress.json"
    with folder_of_ray() as folder:
        with (tmp_path / "lines").open() as text:
            process = start(
                folder, ROOT / "tests" / "run_commands.py", cwd=tmp_path, stdin=text
            )
        limit = time.monotonic() + SECONDS
        while not progress.exists() and time.monotonic() < limit:
            assert process.poll() is None
            time.sleep(0.02)
        # Process 0, which writes the checkpoints, has locked the folder.
        os.kill(holder_of(folder, progress.with_name("config.json")), signal.SIGKILL)
        printed = end(process)
    assert printed.count("A Ray worker died. Restart 1 of 3") == 1
    assert printed.count("test rows") == 2  # one summary per run
    models = [
        keras.saving.load_model(tmp_path / name / "model.keras")
        for name in ("together", "alone")
    ]
    for one, other in zip(*(x.get_weights() for x in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """The folder and the output of `ray_group.py`."""
    pytest.importorskip("ray.train")
    path = tmp_path_factory.mktemp("functions")
    with folder_of_ray() as folder:
        return path, end(start(folder, HERE / "ray_group.py", path))


@pytest.fixture
def facts(functions):
    path, _ = functions
    return json.loads((path / "facts.json").read_text())


@pytest.mark.slow
def test_each_worker_calls_the_function(facts):
    (address, *first, gpus), (same, *second, others) = facts["environment"]
    assert address == same
    assert (first, second) == (["2", "0", "jax"], ["2", "1", "jax"])
    assert sorted([*gpus, *others]) == [0, 1]
    assert facts["platforms"] == ["cpu"]
    assert facts["connected"], "it must not close the connection of the caller"


@pytest.mark.slow
def test_workers_start_again_after_a_death(facts, functions):
    path, output = functions
    assert facts["once"] == [f"process {i} after 1 deaths" for i in range(2)]
    assert output.count("Restart 1 of 1: all workers are started again") == 1
    assert "A Ray worker died after 0 restarts" in facts["often"]
    assert len(list((path / "often").iterdir())) == 1


@pytest.mark.slow
def test_errors_in_workers(facts):
    assert facts["error"] == "LookupError: of the function"
    assert "Ray must have {'CPU': 1.0, 'GPU': 9.0} free" in facts["resources"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_ray_train_workers_do_not_train_separate_models(functions, rank):
    path, _ = functions
    facts = json.loads((path / f"worker-{rank}.json").read_text())
    assert (
        "`processes` must be at least 2, the number of Ray Train workers"
        in facts["alone"]
    )
    for name in ("shards", "fit"):
        assert "each worker would train a separate model" in facts[name]
    assert facts["joined"] == "no error"
    assert facts["group"] == [2, rank, rank]


def test_ray_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install fmlayers\[ray\]"):
        launch_with_ray(print, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "`workers` must be a positive integer"),
        ({"workers": 2, "restarts": -1}, "`restarts` must be a nonnegative integer"),
        ({"workers": 2, "timeout": 0}, "`timeout` must be a positive number"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        fmlayers.distributed.launch_with_ray(print, **arguments)
