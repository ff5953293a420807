"""A run that is killed at any file operation is whole or not there, and resumes."""

import json
import os
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from kill_points import kill_points
from saved_weights import is_same, weights

from fmlayers._files import MARK
from fmlayers._json_files import read_json
from fmlayers.data import write_csv
from fmlayers.runs import Run, TrainingConfig, training
from fmlayers.runs.folder import FILES, PROGRESS, RunError

FILES_OF_A_TABLE = {*FILES, "metrics.json"} - {
    *("users.csv", "items.csv"),
    "samples.npz",  # of Gibbs sampling
}

SETTINGS = {
    "model": "mf",
    "dim": 2,
    "max_epochs": 2,
    "batch_size": 64,
    "validation_fraction": 0.0,
}


def train(folder, resume=False, overwrite=False):
    """Train a small run at `folder / "run"` without compiling it."""
    import tensorflow as tf

    config = TrainingConfig(data=str(folder / "data.csv"), **SETTINGS)
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf.data compiles its functions, anyway
            training.train(config, folder / "run", resume=resume, overwrite=overwrite)
    finally:
        tf.config.run_functions_eagerly(False)


def go_on(folder):
    """Do what a user does who finds what a killed process left."""
    try:
        train(folder, resume=True)
    except RunError as error:
        # Nothing was begun.
        assert not (folder / "run.partial").exists()
        train(folder, overwrite="holds a finished run" in str(error))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a table of ratings."""
    rng = np.random.default_rng(0)
    table = {name: rng.integers(12, size=110) for name in ("user", "item")}
    write_csv(
        pd.DataFrame({**table, "rating": rng.integers(1, 6, 110)}),
        tmp_path / "data.csv",
    )
    return tmp_path


IMPORTS = ["fmlayers.runs.training", "fmlayers.runs.run", "matplotlib.pyplot"]
needs_kills = pytest.mark.skipif(
    not hasattr(os, "fork") or keras.backend.backend() != "tensorflow",
    reason="needs fork and SIGKILL; the file operations are the same on each backend",
)


@pytest.fixture
def old(folder):
    """Return the weights of a finished run that is to be replaced."""
    config = TrainingConfig(data=str(folder / "data.csv"), **SETTINGS, seed=9)
    return weights(training.train(config, folder / "run").path)


@pytest.mark.slow
@needs_kills
def test_a_kill_at_any_file_operation_loses_nothing(folder, old):
    """A finished run is replaced, and each process is killed one operation later."""
    out = folder / "run"
    points, killed, resumed = [], [], []
    for point in kill_points(train, folder, False, True, imports=IMPORTS):
        names = {path.name for path in folder.iterdir() if MARK not in path.name}
        assert {"data.csv", "run"} <= names <= {"data.csv", "run", "run.partial"}, point
        Run(out).check()
        killed.append(weights(out))
        point.run(go_on)
        assert {path.name for path in folder.iterdir()} == {"data.csv", "run"}, point
        assert {path.name for path in out.iterdir()} == FILES_OF_A_TABLE, point
        resumed.append(weights(out))
        points.append(str(point))
    assert len(points) > 60, points
    undisturbed = weights(out)
    for point, found in zip(points, resumed, strict=True):
        assert is_same(found, undisturbed), point
    assert all(is_same(found, undisturbed) or is_same(found, old) for found in killed)
    # The new run is in place before the old one and the checkpoints are removed.
    assert sum(is_same(found, undisturbed) for found in killed) >= 5


def finished(folder):
    """Return the folder of a run that is complete and not in place, and its weights."""
    config = TrainingConfig(data=str(folder / "data.csv"), **SETTINGS)
    run = training.train(config, folder / "run")
    expected, partial = weights(run.path), folder / "run.partial"
    run.path.rename(partial)
    (partial / PROGRESS).write_text("{}")  # that of no epoch: it must not be read
    (partial / "refit-0002.state.npz").write_bytes(b"HDF")
    return partial, expected


@pytest.mark.slow
@needs_kills
def test_a_kill_in_the_last_steps_loses_nothing(folder):
    """With nothing at the place of the run."""
    out = folder / "run"
    _, expected = finished(folder)
    points = 0
    for point in kill_points(train, folder, True, imports=IMPORTS):
        assert out.exists() != (folder / "run.partial").exists(), point
        point.run(train, True)
        assert {path.name for path in folder.iterdir()} == {"data.csv", "run"}, point
        assert {path.name for path in out.iterdir()} == FILES_OF_A_TABLE, point
        assert is_same(weights(out), expected), point
        points += 1
    assert points >= 3


@pytest.mark.parametrize("version", ["now", "0.1.0"])
def test_a_complete_run_is_not_trained_again(version, folder, monkeypatch):
    partial, expected = finished(folder)
    if version == "0.1.0":  # which removed the progress first, and recorded no digests
        (partial / PROGRESS).unlink()
        metrics = read_json(partial / "metrics.json")
        del metrics["files"]
        (partial / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr(training, "Trainer", None)
    train(folder, resume=True)
    assert is_same(weights(folder / "run"), expected)
    assert {path.name for path in (folder / "run").iterdir()} == FILES_OF_A_TABLE
    # Resuming a finished run changes nothing.
    train(folder, resume=True)
    assert {path.name for path in folder.iterdir()} == {"data.csv", "run"}


def test_a_damaged_complete_run_is_trained_again(folder):
    partial, expected = finished(folder)
    (partial / "model.keras").write_bytes(b"PK")
    train(folder, resume=True)
    for name, found in weights(folder / "run").items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-6)
    assert {path.name for path in folder.iterdir()} == {"data.csv", "run"}
