import inspect
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from checks import check_error

from fmlayers import models
from fmlayers.models import ModelSpec, specs

ROOT = Path(__file__).parents[2]


def make_spec(**changes):
    one = {"name": "one", "model_class": "somewhere:One", "summary": "a model"}
    return ModelSpec(**one | changes)


@pytest.mark.parametrize("name", models.registered())
def test_a_spec_agrees_with_its_class(name):
    spec = models.registered()[name]
    found = spec.load()
    assert getattr(models, found.__name__) is found
    assert specs.CLASSES[found.__name__] == found.__module__
    arguments = {}
    for base in reversed(found.__mro__[: found.__mro__.index(keras.Model)]):
        arguments |= inspect.signature(base).parameters
    own = set(specs.OPTIONAL_SETTINGS) & set(arguments)
    assert set(spec.settings) == own
    if spec.hidden_units:
        assert arguments["hidden_units"].default == spec.hidden_units
    first = ("user", "item") if spec.columns == "user and item" else ("features",)
    assert tuple(inspect.signature(found).parameters)[: len(first)] == first


def test_the_documented_table_is_the_specs():
    rows = [
        (f"`{spec.load().__name__}`", f"`{name}`", spec.summary, spec.score, spec.paper)
        for name, spec in models.registered().items()
    ]
    table = "| --- | --- | --- | --- | --- |\n"
    table += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    assert f"{table}| `Ensemble` |" in (ROOT / "docs" / "models.md").read_text("utf-8")


def test_the_table_imports_no_model():
    script = """
import sys
from fmlayers.models import ModelSpec, registered
from fmlayers.runs import TrainingConfig
TrainingConfig(model=list(registered())[-1])
heavy = {"keras", "tensorflow", "jax", "torch", "pandas", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_name_belongs_to_one_model():
    spec = models.register(make_spec())
    assert models.registered()["one"] is spec
    assert models.register(make_spec()) == spec  # the same again
    for changes in ({"summary": "another"}, {"name": "fm"}):
        check_error(
            "`name` must not be that of another",
            lambda c=changes: models.register(make_spec(**c)),
        )
    assert models.registered()["one"].summary == "a model"


def test_errors():
    check_error("`columns` must be", lambda: make_spec(columns="user"))
    check_error("`settings` must be among", lambda: make_spec(settings=["seed"]))
    check_error("`hidden_units` must be the", lambda: make_spec(hidden_units=(8,)))
    check_error(
        "`hidden_units` must be the", lambda: make_spec(settings=["hidden_units"])
    )
    check_error("`model` must be one of.*or first be", lambda: specs.find("one"))


def test_which_models_take_a_setting():
    assert specs.taking("dropout") == ["deepfm", "neumf"]
    assert specs.taking("dim") == list(models.registered())
