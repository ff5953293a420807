import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.distributed import cases
from tests.distributed.groups import HERE, environment

pytest.importorskip("jax")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of a process with three devices."""
    folder = tmp_path_factory.mktemp("devices")
    one = cases.compiled("fm", "adagrad")
    x, y = cases.data()
    one.fit(x, y, batch_size=cases.BATCH, shuffle=False, verbose=0)
    one.save(folder / "one.keras")
    flags = "--xla_force_host_platform_device_count=3"
    subprocess.run(
        [sys.executable, str(HERE / "devices.py"), str(folder)],
        env=environment(XLA_FLAGS=flags),
        timeout=120,
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def facts(folder):
    return json.loads((folder / "facts.json").read_text())


@pytest.mark.parametrize("name", cases.ON_DEVICES)
def test_devices_train_as_one(folder, name):
    make, _ = cases.ON_DEVICES[name]
    expected = cases.results(make(), *cases.data(), cases.BATCH)
    results = np.load(folder / f"{name}.npz")
    assert set(results) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(
            results[key], values, rtol=1e-5, atol=1e-5, err_msg=key
        )


def test_files_do_not_depend_on_the_devices(folder, facts):
    one = keras.saving.load_model(folder / "one.keras")
    for name, weight in cases.weights(one).items():
        np.testing.assert_allclose(facts["loaded"][name], np.sum(weight), atol=1e-4)
    x, y = cases.data()
    loss = one.fit(x, y, batch_size=cases.BATCH, shuffle=False, verbose=0)
    np.testing.assert_allclose(facts["next loss"], loss.history["loss"], rtol=1e-5)
    three = keras.saving.load_model(folder / "three.keras")
    for mine, other in zip(one.variables, three.variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), atol=1e-5)
    for mine, other in zip(
        one.optimizer.variables, three.optimizer.variables, strict=True
    ):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), atol=1e-5)


def test_weights_move_between_models(folder, facts):
    alone, over_devices = facts["predictions"]
    assert len(alone) == 31
    np.testing.assert_allclose(alone, over_devices, atol=1e-6)
    three = keras.saving.load_model(folder / "three.keras")
    odd = {name: values[:31] for name, values in cases.data()[0].items()}
    expected = three.predict(odd, verbose=0).ravel()
    np.testing.assert_allclose(alone, expected, atol=1e-6)


def test_initial_values(facts):
    initial = facts["initial"]
    for name in ("normal", "pretrained"):
        assert 0.0099 < initial[name]["deviation"] < 0.0101
        assert initial[name]["distinct"] > 0.99
        assert initial[name]["unknown"] == 0.0
    assert initial["pretrained"]["difference"] == 0.0
    assert "must not depend on the number of rows" in initial["by rows"]
    assert "GlorotUniform" in initial["by rows"]


def test_ids_outside_the_vocabulary_are_nan(facts):
    assert [row for row, (nan,) in enumerate(facts["outside"]) if nan] == [4]
