import json

import numpy as np
import pytest
from kill_points import kill_points

import fmlayers
from fmlayers.distributed import Checkpoints, Place
from tests.distributed.cases import data
from tests.distributed.groups import end_of_group, run_group

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("jax")

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


@pytest.mark.slow
def test_a_killed_group_ends_and_resumes_to_the_same_weights(folder, undisturbed):
    """Process 1 is killed in the second epoch, after the checkpoint of batch 2."""
    codes, _ = end_of_group("checkpoints.py", folder, 2, "killed", EPOCHS, 8)
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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_other_numbers_of_processes_restore_it(folder, undisturbed, processes):
    """All epochs are completed, so that they restore the weights only."""
    run_group("checkpoints.py", folder, processes, f"whole-{processes}", EPOCHS)
    for restored in results(folder, f"whole-{processes}", processes):
        assert len(restored.pop("losses")) == 0
        for name, values in restored.items():
            np.testing.assert_array_equal(values, undisturbed[0][name], err_msg=name)


def small_model():
    model = fmlayers.models.FactorizationMachine([fmlayers.Categorical("user", 9)], 2)
    model.compile(fmlayers.optimizers.LazyAdam(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def fill(model, value):
    for variable in (*model.variables, *model.optimizer.variables):
        variable.assign(np.full(variable.shape, value, variable.dtype))


def save_two(folder):
    model, checkpoints = small_model(), Checkpoints(folder / "saved")
    for epoch in (1, 2):
        fill(model, epoch)
        checkpoints.save(model, epoch=epoch)


def restore(folder):
    model = small_model()
    fill(model, 0)
    place = Checkpoints(folder / "saved").restore(model)
    values = [np.ravel(v) for v in (*model.variables, *model.optimizer.variables)]
    content = {"place": place, "values": sorted(set(np.concatenate(values).tolist()))}
    (folder / "restored.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_a_kill_leaves_a_complete_checkpoint(tmp_path):
    epochs = []
    for point in kill_points(save_two, tmp_path):
        point.run(restore)
        content = json.loads((tmp_path / "restored.json").read_text())
        epoch, batch = content["place"]
        assert content["values"] == [epoch]
        assert batch == 0
        epochs.append(epoch)
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1, 2}
    assert len(epochs) >= 10


def test_errors(tmp_path):
    checkpoints = Checkpoints(tmp_path / "saved")
    model = small_model()
    assert checkpoints.restore(model) == Place(0, 0)
    checkpoints.save(model, epoch=3, batch=2)
    assert checkpoints.restore(model) == (3, 2)
    other = fmlayers.models.FactorizationMachine([fmlayers.Categorical("user", 8)], 2)
    with pytest.raises(ValueError, match="`model` must be compiled"):
        checkpoints.restore(other)
    other.compile(fmlayers.optimizers.LazyAdam(), loss="mse")
    with pytest.raises(ValueError, match="a checkpoint of the same model"):
        checkpoints.restore(other)
    other = small_model()
    other.compile(fmlayers.optimizers.Adagrad(), loss="mse")
    with pytest.raises(ValueError, match="a checkpoint of the same model"):
        checkpoints.restore(other)
    (part,) = (tmp_path / "saved").glob("*.npz")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=part.name):
        checkpoints.restore(model)
    with pytest.raises(ValueError, match="`every` must"):
        checkpoints.callback(0)
    with pytest.raises(ValueError, match="`epoch` must"):
        checkpoints.save(model, epoch=-1)
    (tmp_path / "saved" / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match=r"checkpoint\.json"):
        checkpoints.restore(model)
