import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from checks import check_error

from fmlayers import cli
from fmlayers.models.specs import OPTIONAL_SETTINGS
from fmlayers.runs import Run, TrainingConfig
from fmlayers.runs.config import SETTINGS

OLD = sorted((Path(__file__).parents[1] / "training" / "old").glob("run-*"))


def test_each_setting_is_documented_once():
    section = TrainingConfig.__doc__.split("Args:\n")[1].split("\n\n")[0]
    assert re.findall(r"^        (\w+): ", section, re.M) == list(SETTINGS)
    assert max(map(len, TrainingConfig.__doc__.splitlines())) <= 88
    for name, text in {
        "dim": "Embedding dimension. Defaults to 64, with the method gibbs 20.",
        "scaler": 'Defaults to `"clip"`.',
        "dropout": "For deepfm and neumf. Defaults to 0.",
        "l2": "Defaults to 0.06, for labels 0.01, for implicit feedback 0.002.",
        "timestamp": "Optional.",
    }.items():
        (entry,) = re.findall(rf"^        {name}: (.*(?:\n {{12}}.*)*)", section, re.M)
        assert " ".join(entry.split()).endswith(text)


def test_each_setting_s_help_tells_its_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, setting in SETTINGS.items():
        written = setting.option or name.replace("_", "-")
        option = f"--{'no-' * (setting.default is True)}{written}"
        assert f"{option} " in printed
        if setting.read is not None and setting.default_text():
            assert f"(default: {setting.default_text()})" in printed


@pytest.mark.parametrize("name", OPTIONAL_SETTINGS)
def test_a_setting_of_other_models_is_refused(name):
    value = {"linear_l2": 0.3, "hidden_units": [8], "dropout": 0.5}[name]
    other = "neumf" if name == "linear_l2" else "mf"
    check_error(
        f"`{name}` must be left out: it is a setting of the models .*'deepfm'.*"
        f"Received: model='{other}', {name}=",
        lambda: TrainingConfig(model=other, **{name: value}),
    )
    config = TrainingConfig(model="deepfm", **{name: value})
    check_error(f"`{name}` must be left out", lambda: replace(config, model=other))


@pytest.mark.parametrize("loss", ["mse", "bpr"])
def test_a_configuration_becomes_another_model_s(loss):
    config = replace(TrainingConfig(loss=loss), model="neumf")
    assert replace(replace(config, task=None, loss="bce"), model="fm").dim == config.dim


def test_a_record_is_read_back():
    config = TrainingConfig(
        model="deepfm", hidden_units=[4, 2], features=["user"], l2_of={"user": 0.5}
    )
    record = json.loads(json.dumps(config.to_dict()))
    assert TrainingConfig.from_dict(record) == replace(config, features=["user"])


def test_a_record_of_an_older_version_is_read():
    record = TrainingConfig(model="neumf", l2=0.5).to_dict()
    for name in ("hidden_units", "dropout", "combiner"):  # which 0.1.0 lacks
        del record[name]
    record |= {"linear_l2": 0.3, "columns": {}, "fingerprint": "f", "backend": "jax"}
    assert TrainingConfig.from_dict(record) == TrainingConfig(model="neumf", l2=0.5)


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.choices])
def test_choices_error(name):
    first, *_, last = SETTINGS[name].choices
    check_error(
        f'`{name}` must be "{first}".* or "{last}". Received: {name}=3',
        lambda: TrainingConfig(**{name: 3}),
    )


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.read is None])
def test_flags_error(name):
    check_error(f"`{name}` must be True or False", lambda: TrainingConfig(**{name: 2}))
    assert getattr(TrainingConfig(**{name: False}), name) is False


def test_features_error():
    for features in ("user", [3], 3):
        check_error(
            "`features` must be a list of strings. Received: features=",
            lambda f=features: TrainingConfig(features=f),
        )


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if not s.optional])
def test_none_is_no_value(name):
    """But stands for a default that depends on others."""
    setting = SETTINGS[name]
    if setting.has_rule:
        default = setting.chosen(TrainingConfig())
        assert getattr(TrainingConfig(**{name: None}), name) == default
    else:
        check_error(f"`{name}` must", lambda: TrainingConfig(**{name: None}))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.name)
def test_the_configuration_of_an_old_run_is_read(path):
    """What its version did not have yet, it did as the defaults say."""
    record = json.loads((path / "config.json").read_text("utf-8"))
    config = Run(path).config
    assert (config.hidden_units, config.dropout, config.combiner) == (None, 0.0, "mean")
    known = config.to_dict()
    assert {n: known[n] for n in record if n in SETTINGS} == {
        n: value for n, value in record.items() if n in SETTINGS
    }
