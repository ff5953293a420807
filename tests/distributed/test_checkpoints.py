import json
import time

import numpy as np
import pytest

from tests.distributed.cases import data
from tests.distributed.groups import end_of_group, run_group

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("jax")
pytestmark = pytest.mark.slow

EPOCHS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with shards of eight row groups."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "shards").mkdir()
    inputs, targets = data()
    inputs.pop("genres")
    table = pa.table({**inputs, "rating": targets})
    parquet.write_table(table, folder / "shards" / "a.parquet", row_group_size=30)
    return folder


def results(folder, name, processes=2):
    return [dict(np.load(folder / f"{name}-{i}.npz")) for i in range(processes)]


@pytest.fixture(scope="module")
def undisturbed(folder):
    run_group("checkpoints.py", folder, 2, "whole", EPOCHS)
    return results(folder, "whole")


def test_a_killed_group_ends_and_resumes_to_the_same_weights(folder, undisturbed):
    """Process 1 is killed in the second epoch, after the checkpoint of batch 2."""
    started = time.monotonic()
    codes, _ = end_of_group("checkpoints.py", folder, 2, "killed", EPOCHS, 8)
    assert time.monotonic() - started < 90
    assert codes[1] == -9
    assert codes[0] not in (0, -9), "it waited for the killed process"
    manifest = json.loads((folder / "killed" / "checkpoint.json").read_text())
    assert manifest["place"] == [1, 2]
    run_group("checkpoints.py", folder, 2, "killed-again", EPOCHS)
    for whole, resumed in zip(
        undisturbed, results(folder, "killed-again"), strict=True
    ):
        assert len(resumed.pop("losses")) == EPOCHS - 1
        for name, values in resumed.items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.mark.parametrize("processes", [1, 3])
def test_other_numbers_of_processes_restore_it(folder, undisturbed, processes):
    """All epochs are completed, so that they restore the weights only."""
    run_group("checkpoints.py", folder, processes, f"whole-{processes}", EPOCHS)
    for restored in results(folder, f"whole-{processes}", processes):
        assert len(restored.pop("losses")) == 0
        for name, values in restored.items():
            np.testing.assert_array_equal(values, undisturbed[0][name], err_msg=name)
