"""A disk that fills up ends training in a sentence, and nothing is lost."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from saved_weights import is_same, weights

from fmlayers._keras_files import save_model, save_weights
from fmlayers.cli import main
from fmlayers.runs import train

resource = pytest.importorskip("resource")


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(200)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def limit():
    """Limit the size of files. A larger one ends in an error, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize(
    ("save", "name"), [(save_model, "a.keras"), (save_weights, "a.weights.h5")]
)
def test_what_was_there_stays(save, name, model, limit, tmp_path):
    path = tmp_path / name
    save(model, path)
    before = path.read_bytes()
    model.trainable_variables[0].assign(np.ones((100, 200), "float32"))
    limit(20_000)
    with pytest.raises(OSError, match=f"File too large: .*{name}'"):
        save(model, path)
    limit(10**9)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    save(model, path)
    model.trainable_variables[0].assign(np.zeros((100, 200), "float32"))
    if save is save_weights:
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    np.testing.assert_array_equal(np.asarray(model.trainable_variables[0]), 1.0)


def test_weights_are_those_that_keras_writes(model, tmp_path):
    save_weights(model, tmp_path / "a.weights.h5")
    model.save_weights(tmp_path / "b.weights.h5")
    found, expected = (weights(tmp_path / f"{name}.weights.h5") for name in "ab")
    assert len(expected) > 4
    assert is_same(found, expected)


@pytest.fixture
def command(make_config):
    settings = {"model": "mf", "dim": 256, "max_epochs": 3, "batch_size": 256}
    config = make_config(**settings, validation_fraction=0.0)
    words = ["train", "--data", config.data, "--validation-fraction", "0"]
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return config, words


def test_a_checkpoint_that_does_not_fit_is_an_error(command, limit, tmp_path, capsys):
    _, words = command
    limit(200_000)
    assert main([*words, "--out", str(tmp_path / "run")]) == 1
    limit(10**9)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("fmlayers: [Errno 27] File too large: ")
    assert lines[-1].endswith("refit-0001.state.npz'")
    assert list(tmp_path.iterdir()) == []  # there is no epoch to resume from
    assert main([*words, "--out", str(tmp_path / "run")]) == 0


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk. Return its folder and a function to set its size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a disk needs root on Linux")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this environment does not let root mount a disk")

    def resize(size):
        options = f"remount,size={size}"
        subprocess.run(["mount", "-o", options, str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_run_on_a_full_disk_is_resumed_with_space(command, disk, tmp_path, capsys):
    """In a process of its own, which HDF5 would end with a signal."""
    config, words = command
    folder, resize = disk
    expected = weights(train(config, tmp_path / "expected").path)
    process = subprocess.run(
        [sys.executable, "-m", "fmlayers.cli", *words, "--out", str(folder / "run")],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process
    assert "Traceback" not in process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith("fmlayers: [Errno 28] No space left on device: ")
    partial = folder / "run.partial"
    assert {path.name for path in partial.iterdir()} >= {"config.json", "progress.json"}
    assert [path.name for path in folder.iterdir()] == ["run.partial"]
    (kept,) = partial.glob("*.state.npz")
    # Still full: the same error, and the checkpoint stays.
    assert main([*words, "--out", str(folder / "run"), "--resume"]) == 1
    assert kept.exists()
    for size in ("850k", "20m"):
        resize(size)
        code = main([*words, "--out", str(folder / "run"), "--resume"])
        if not code:
            break
        assert "No space left on device" in capsys.readouterr().err
    assert code == 0
    assert is_same(weights(folder / "run"), expected)
    assert [path.name for path in folder.iterdir()] == ["run"]
