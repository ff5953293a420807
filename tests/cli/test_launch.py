"""`fmlayers train` in several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fmlayers import cli
from fmlayers.data import synthetic, write_csv
from fmlayers.runs import TrainingConfig, group

pytest.importorskip("jax")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shop.csv"
    write_csv(synthetic(num_users=30, num_items=20, num_ratings=401).ratings, path)
    return path


def start(shop, out, *words):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "fmlayers", "train", "--data", str(shop)),
            *("--model", "mf", "--dim", "2", "--batch-size", "64"),
            *("--max-epochs", "30", "--patience", "30", "--out", str(out), *words),
        ],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # which take most of the time
        },
        stdout=subprocess.PIPE,
        text=True,
    )


def metrics(path):
    content = json.loads((path / "metrics.json").read_text())
    history = np.genfromtxt(path / "history.csv", delimiter=",", names=True)
    return content["rmse"], history["rmse"]


def number_of(process, out):
    """Return the operating system's number of a process that trains the run `out`."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = (path / "environ").read_bytes().split(b"\0")
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_it = f"FMLAYERS_PROCESS={process}".encode() in variables
        if is_it and str(out).encode() in words:
            return int(path.name)
    raise AssertionError("it does not run")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_processes_train_as_one_and_resume(shop, tmp_path):
    alone = start(shop, tmp_path / "alone")
    printed, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0
    out = tmp_path / "together"
    killed = start(shop, out, "--launch", "local:2")
    progress = tmp_path / "together.partial" / "progress.json"
    while not (progress.exists() and "refit" in progress.read_text()):
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(number_of(1, out), signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode not in (0, None)
    assert not out.exists()
    resumed = start(shop, out, "--launch", "local:2", "--resume")
    again, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0
    for one, other in zip(metrics(tmp_path / "alone"), metrics(out), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    # One process of the two prints the summary.
    assert again.count("test rows") == printed.count("test rows") == 1


@pytest.mark.slow
def test_processes_train_histories_as_one(shop, tmp_path):
    # With two batches per epoch, all of them have the same histories, so that XLA
    # compiles once.
    words = ["--model", "fm", "--histories", "--batch-size", "160", "--max-epochs", "3"]
    words.append("--no-refit")
    for name, launch in {"alone": [], "together": ["--launch", "local:2"]}.items():
        running = start(shop, tmp_path / name, *words, *launch)
        try:
            running.communicate(timeout=300)
        finally:
            running.terminate()
        assert running.returncode == 0
    alone, together = (metrics(tmp_path / name) for name in ("alone", "together"))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--launch", "local"], "`--launch` must be 'local:N'"),
        (["--launch", "local:0"], "`--launch` must be 'local:N' or 'ray:N'"),
        (["--launch", "ray:"], "`--launch` must be 'local:N' or 'ray:N'"),
        (["--launch", "ray:2", "--processes", "2"], "`--processes` must be left out"),
        (["--launch", "local:2", "--process", "0"], "`--process` must be left out"),
        (["--processes", "2"], "KERAS_BACKEND"),
    ],
)
def test_errors(words, message, shop, tmp_path, capsys):
    command = ["train", "--data", str(shop), "--out", str(tmp_path / "run"), *words]
    assert cli.main(command) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gibbs"}, '`method` must be "gradient" if several devices'),
        ({"batch_size": 15}, "`batch_size` must be a multiple of 2"),
    ],
)
def test_settings_that_devices_cannot_share(settings, message, monkeypatch):
    config = TrainingConfig(data="synthetic", **settings)
    group.check_config(config)
    monkeypatch.setattr(group, "num_shares", lambda: 2)
    with pytest.raises(ValueError, match=message):
        group.check_config(config)


@pytest.mark.parametrize("of_group", [1, 4])
@pytest.mark.parametrize("weights", [[], [np.arange(1.0, 13.0, dtype="float32")]])
def test_shares_are_of_equal_length(of_group, weights, monkeypatch):
    """Each row is in one share; the others have no weight, in whole groups."""
    batch = ({"id": np.arange(12)}, 10.0 * np.arange(12), *weights)
    monkeypatch.setattr(group, "processes", lambda: 5)
    monkeypatch.setattr(group, "num_shares", lambda: 10)
    shares = []
    for process in range(5):
        monkeypatch.setattr(group, "process", lambda i=process: i)
        shares.append(group.share_of(batch, of_group))
    lengths = {len(share[1]) for share in shares}
    assert len(lengths) == 1
    assert lengths.pop() % (2 * of_group) == 0
    ids = np.concatenate([share[0]["id"] for share in shares])
    weight = np.concatenate([share[2] for share in shares])
    np.testing.assert_array_equal(ids[weight > 0], np.arange(12))
    expected = weights[0] if weights else np.ones(12)
    np.testing.assert_array_equal(weight[weight > 0], expected)
    assert (ids[::of_group] % of_group == 0).all()
    for share in shares:
        np.testing.assert_array_equal(share[1], 10.0 * share[0]["id"])
