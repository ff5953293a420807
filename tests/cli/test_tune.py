from dataclasses import replace

import pandas as pd
import pytest

from fmlayers import cli
from fmlayers._json_files import write_json
from fmlayers.data import synthetic, write_csv
from fmlayers.runs import TrainingConfig
from fmlayers.tuning import Study, TuningConfig
from fmlayers.tuning.study_folder import set_aside


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "shop.csv"
    write_csv(synthetic(num_users=30, num_items=20, num_ratings=400).ratings, path)
    return path


@pytest.fixture(scope="module")
def searched(shop, tmp_path_factory):
    """Return the folder of a study and what the command printed."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("study") / "s"
    command = f"""
        tune --data {shop} --model mf --dim 3 --max-epochs 1 --batch-size 128
        --search l2=0.02:0.2 --max-trials 2 --out {out}
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(command.split()) == 0
    return out, printed.getvalue()


@pytest.mark.slow
def test_the_command_searches_and_tells(searched, shop):
    out, printed = searched
    study = Study(out)
    assert study.trials()["l2"].between(0.02, 0.2).all()
    assert len(study.trials()) == 2
    assert printed == f"{study.summary()}\nwritten to {out}\n"
    assert f"mf on {shop}, split random, seed 0: 2 trials of the random" in printed
    assert "\nuser    categorical      30      0 %  " in printed
    assert "left out: timestamp, day (no feature uses them" in printed
    expected = TrainingConfig(
        data=str(shop),
        model="mf",
        features=["user", "item"],
        dim=3,
        max_epochs=1,
        batch_size=128,
    )
    assert study.config.training == expected


def test_the_same_command_extends(searched, shop, capsys):
    out, _ = searched
    command = f"""
        tune --data {shop} --model mf --dim 3 --max-epochs 1 --batch-size 128
        --search l2=0.02:0.2 --out {out} --max-trials
    """
    assert cli.main([*command.split(), "3"]) == 0
    captured = capsys.readouterr()
    assert "3 trials of the random tuner" in captured.out
    assert captured.err.startswith("column  kind         values  missing  example\n")
    assert captured.err.count("trial 2: val_rmse") == 1
    assert "trial 1: val_rmse" not in captured.err
    assert cli.main([*command.replace("0.2 ", "0.3 ").split(), "3"]) == 1
    error = capsys.readouterr().err
    assert (
        "is a study of another search space, which differs in l2. Choose another"
        in error
    )
    assert error.count("\n") == 1


def test_every_setting_has_an_option(shop, monkeypatch, tmp_path):
    asked = {}

    def tune(config, out, **options):
        asked.update(config=config, out=out, options=options)

    monkeypatch.setattr("fmlayers.tuning.tune", tune)
    command = f"""
        tune --out {tmp_path} --overwrite --tuner hyperband --max-trials 7
        --max-minutes 3 --objective val_map --top 4 --tuner-seed 9 --workers 2
        --worker-timeout 11 --memory-limit 5 --model deepfm fm
        --search dim l2/day=.1:.5 hidden_units=8,8-4 --data {shop} --l2 .2
        --l2-of age=.5
    """
    assert cli.main(command.split()) == 0
    config = asked["config"]
    expected = TuningConfig(
        training=TrainingConfig(
            data=str(shop), model="deepfm", l2=0.2, l2_of={"age": 0.5}
        ),
        models=("deepfm", "fm"),
        search={"dim": "", "l2/day": ".1:.5", "hidden_units": "8,8-4"},
        tuner="hyperband",
        objective="val_map",
        k=4,
        seed=9,
        memory_limit=5_000_000,
    )
    assert replace(config, fixed=()) == expected
    assert {"l2", "l2/age", "data"} <= set(config.fixed)
    assert config.fields == ("age", "day")
    assert asked["options"] == {
        "max_trials": 7,
        "max_minutes": 3.0,
        "workers": 2,
        "worker_timeout": 11.0,
        "overwrite": True,
    }


def test_what_is_searched_is_listed(shop, tmp_path, capsys):
    command = f"tune --data {shop} --dim 16 --list --out {tmp_path / 's'}"
    assert cli.main(command.split()) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["dim", "fixed", "16"] in rows
    assert ["l2", "0.001", "...", "1", "0.06"] in rows
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("settings", "default"),
    [("", "fm"), ("--dropout .5", "deepfm"), ("--linear-l2 .02", "fm")],
)
def test_several_models_are_chosen_among(settings, default, shop, tmp_path, capsys):
    """The first of them that takes the settings is the default."""
    command = f"tune --data {shop} --model fm deepfm --list --out {tmp_path} {settings}"
    assert cli.main(command.split()) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model", "fm,", "deepfm", default] in rows
    name, _, value = settings.removeprefix("--").partition(" ")
    if name:
        assert [name.replace("-", "_"), "fixed", f"{float(value):g}"] in rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--search depth", "must name hyperparameters among"),
        ("--search dim=4:x", "'dim' must be numbers"),
        ("--objective val_mae", "`objective` must be among"),
        ("--max-trials 0", "`max_trials` must be positive"),
        ("--workers 0", "`workers` must be positive"),
        ("--validation-fraction 0", "`validation_fraction` must be positive"),
        ("--features age", "Feature 'age' is not among"),
    ],
)
def test_bad_input_is_refused(options, message, shop, tmp_path, capsys):
    command = f"tune --data {shop} --out {tmp_path / 's'} {options}"
    assert cli.main(command.split()) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("state", "options", "hint"),
    [
        ("missing", [], ""),
        ("begun", [], "; resume with the same command"),
        ("former in place", ["--overwrite"], ""),
        (
            "replacing",
            ["--overwrite"],
            "; resume with the same command without --overwrite",
        ),
    ],
)
def test_an_interruption_says_how_to_resume(
    state, options, hint, tmp_path, capsys, monkeypatch
):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fmlayers.tuning.tune", interrupted)
    out = tmp_path / "s"
    if state != "missing":
        out.mkdir()
        write_json(out / "config.json", {"study": {}})
    if state == "replacing":
        set_aside(out)
        out.mkdir()
        write_json(out / "config.json", {"study": {}})
    assert cli.main(["tune", "--out", str(out), *options]) == 130
    assert capsys.readouterr().err == f"fmlayers: interrupted{hint}\n"


def test_the_table_has_a_row_a_trial(searched):
    table = pd.read_csv(searched[0] / "trials.csv")
    assert table.columns[:3].tolist() == ["trial", "status", "val_rmse"]
    assert len(table) >= 2
