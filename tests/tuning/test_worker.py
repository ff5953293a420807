"""Worker processes know the models that a user has registered."""

import importlib
import sys

import pytest

from fmlayers import models
from fmlayers.models import ModelSpec
from fmlayers.tuning import tune
from fmlayers.tuning.worker import portable_specs

MODULE = """
import keras
from fmlayers.models import FactorizationMachine
from fmlayers.models.specs import machine_weights

@keras.saving.register_keras_serializable(package="tests")
class Halved(FactorizationMachine):
    def pairs(self, inputs):
        return super().pairs(inputs) / 2

def weights(*arguments):
    return machine_weights(*arguments)
"""


@pytest.fixture
def halved(tmp_path, monkeypatch):
    """Register the model of a module that only this process can find by itself."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "halved_model.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "halved_model", raising=False)
    module = importlib.import_module("halved_model")
    models.register(
        ModelSpec(
            name="halved",
            model_class=module.Halved,
            summary="half of the pairs",
            num_weights=module.weights,
        )
    )
    return module


@pytest.mark.slow
def test_workers_know_a_registered_model(halved, make_config, tmp_path):
    config = make_config({"model": "halved", "max_epochs": 1})
    study = tune(config, tmp_path / "s", max_trials=2, workers=2)
    assert study.trials()["status"].tolist() == ["COMPLETED"] * 2
    assert type(study.run.model) is halved.Halved
    logs = list((tmp_path / "s" / "alive").glob("*.log"))
    assert len(logs) == 2  # no worker was replaced


@pytest.mark.parametrize("place", ["script", "function", "lambda"])
def test_a_model_that_workers_cannot_import(place, halved, make_config, tmp_path):
    class Local(halved.Halved):
        pass

    changes = {"model_class": Local}
    if place == "script":
        Local.__module__, Local.__qualname__ = "__main__", "Local"
        sys.modules["__main__"].Local = Local
    elif place == "lambda":
        changes = {"model_class": halved.Halved, "num_weights": lambda *_: 0}
    try:
        models.register(ModelSpec(name="local", summary="not importable", **changes))
        config = make_config({"model": "local"})
        with pytest.raises(ValueError, match=r"`workers` must be 1 .*'local'.*module"):
            tune(config, tmp_path / "s", workers=2)
    finally:
        vars(sys.modules["__main__"]).pop("Local", None)
    assert not (tmp_path / "s").exists()


def test_models_of_the_package_are_portable():
    portable_specs(list(models.registered()), workers=2)
