import subprocess

import keras
import numpy as np
import pytest

from fmlayers import models
from fmlayers.models import specs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _models_of_one_test(monkeypatch):
    """Undo what a test registers, in its documents and examples, too."""
    monkeypatch.setattr(specs, "_SPECS", models.registered())


@pytest.fixture
def backend():
    return keras.backend.backend()


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a file system of 8 MB, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        mounted = (
            subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
