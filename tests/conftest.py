import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from fmlayers import models
from fmlayers.models import specs

# The files that take longest. They start first, so that no process ends long after the
# others.
LONGEST = (
    *(
        "runs/test_killed_runs.py",
        "tuning/test_study.py",
        "export/test_export_files.py",
    ),
    *("test_documents.py", "test_own_model.py", "tuning/test_hyper_models.py"),
    *("cli/test_signals.py", "bayes/test_chain.py", "optimizers/test_rows.py"),
    *("export/test_raw_recommender.py", "runs/test_training.py"),
    *("test_document_training.py", "test_benchmark_runs.py", "tuning/test_kills.py"),
    *("tuning/test_processes.py", "tuning/test_tables.py", "tuning/test_worker.py"),
    *("layers/test_fm_interaction.py", "layers/test_inputs.py", "test_composition.py"),
)


def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in ranks), "`LONGEST` names a missing file"
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))


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
