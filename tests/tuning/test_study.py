import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras_tuner
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from fmlayers import cli
from fmlayers._json_files import read_json, write_json
from fmlayers.cli.command import parser
from fmlayers.data import write_csv
from fmlayers.runs import Run, TrainingConfig, fitting, train
from fmlayers.runs.model import build_model
from fmlayers.tuning import Study, StudyError, TuningConfig, searched, tune
from fmlayers.tuning.study import Prepared, begin
from fmlayers.tuning.study_files import trial_folder, write_reason
from fmlayers.tuning.study_folder import former_studies
from fmlayers.tuning.study_report import command_of, write_report
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.tuners import make_tuner

PICTURES = ("best_so_far", "parallel_coordinates", "importance")
FIXED = {"dim": 4, "init_stddev": 0.01, "linear_l2": 0.01, "scaler": "clip"}


def values(study):
    trials = study.trials()
    return trials.drop(columns=["seconds", "epochs", "val_rmse"]).to_dict("records")


@pytest.mark.slow
def test_a_study_has_the_requested_trials(study):
    trials = study.trials()
    assert trials["trial"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (trials["status"] == "COMPLETED").all()
    for name, value in FIXED.items():
        assert (trials[name] == value).all()
    assert trials["l2"].nunique() == trials["learning_rate/adagrad"].nunique() == 6
    assert trials["learning_rate/adagrad"].between(0.05, 0.5).all()
    names = {path.name for path in study.path.iterdir()}
    pictures = {f"{name}.png" for name in PICTURES}
    files = {"config.json", "trials.csv", "report.html", "summary.json", "summary.txt"}
    assert names == {*files, *pictures, "best", "trials"}
    table = pd.read_csv(study.path / "trials.csv")
    np.testing.assert_allclose(table["val_rmse"], trials["val_rmse"])


def test_no_report_names_a_folder(study):
    files = [path for path in study.path.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert str(study.path).encode() not in path.read_bytes(), path
    page = (study.path / "report.html").read_text("utf-8")
    data = Path(study.config.training.data)
    assert data.is_absolute()
    assert f"--data {data.name}" in page
    assert str(data.parent) not in page
    assert f"run: {study.path.name}/best" in page


def test_a_report_without_a_best_run_names_no_folder(make_config, tmp_path):
    with pytest.raises(StudyError, match="has no completed trial"):
        tune(make_config(memory_limit=1), tmp_path / "s", max_trials=1)
    for name in ("report.html", "summary.txt"):
        text = (tmp_path / "s" / name).read_text("utf-8")
        assert "s has no completed trial" in text
        assert str(tmp_path) not in text


def test_the_first_trial_has_the_defaults(study):
    config = study.configured(0)
    default = study.config.training
    for name in ("l2", "learning_rate", "dim", "optimizer", "scaler"):
        assert getattr(config, name) == getattr(default, name), name


@pytest.mark.slow
def test_a_trial_is_the_first_phase_of_a_run(study, tmp_path):
    """The same settings give the same figure as in `fmlayers train`."""
    for number in (0, 3):
        config = study.configured(number)
        config = replace(config, validation_fraction=0.1, max_epochs=2, refit=False)
        run = train(config, tmp_path / str(number))
        actual = study.trials()["val_rmse"][number]
        # Settings are rounded to four digits in both.
        np.testing.assert_allclose(run.metrics["validation_rmse"], actual, rtol=1e-5)


@pytest.mark.slow
def test_the_best_is_an_ordinary_run(study, ratings, tmp_path, capsys):
    trials = study.trials()
    best = trials.loc[trials["val_rmse"].idxmin()]
    run = Run(study.path / "best")
    assert run.metrics["config"]["l2"] == pytest.approx(best["l2"], rel=1e-3)
    assert run.metrics["epochs"] == best["epochs"]
    assert run.metrics["rows"]["train"] == 640
    path = str(run.path)
    for command in (
        ["evaluate", path, "--top", "5"],
        ["recommend", path, "--user", "1", "--top", "3"],
        ["explain", path, "--user", "1", "--item", "2"],
        ["export", path, "--out", str(tmp_path / "served")],
    ):
        assert cli.main(command) == 0
        assert capsys.readouterr().out
    assert f"{run.metrics['rmse']:.4f}" in study.summary()
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    pairs = {"user": [1, 2, 0], "item": [3, 1, 2]}
    actual = served(**{name: tf.constant(ids, tf.int64) for name, ids in pairs.items()})
    expected = run.model({name: np.array(ids) for name, ids in pairs.items()})
    np.testing.assert_allclose(actual["rating"], expected, rtol=1e-6)


def test_the_best_is_that_of_the_command_in_the_summary(study):
    (line,) = (x for x in study.summary().splitlines() if x.startswith("fmlayers"))
    options = parser().parse_args([*line.split()[1:], "--out", "run"])
    default = TrainingConfig().to_dict()
    given = {name: x for name, x in vars(options).items() if name in default}
    assert TrainingConfig(**given) == study.best()


def test_a_command_says_all_that_is_not_the_default():
    config = TrainingConfig(
        data="shop data.csv",
        model="deepfm",
        features=("user", "item", "age:categorical"),
        histories=True,
        l2_of={"age": 0.5},
        hidden_units=(8, 4),
        optimizer="lazy_adam",
        learning_rate=0.002,
        refit=False,
        separator="\t",
    )
    command = command_of(config)
    assert "--data 'shop data.csv'" in command
    assert "--dim" not in command

    options = parser().parse_args([*shlex.split(command)[1:], "--out", "run"])
    given = {k: v for k, v in vars(options).items() if k in config.to_dict()}
    assert TrainingConfig(**given).to_dict() == config.to_dict()


def test_the_report_is_one_page(study):
    page = (study.path / "report.html").read_text("utf-8")
    assert "http" not in page
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(embedded) == page.count("<img") == len(PICTURES)
    for name, picture in zip(PICTURES, embedded, strict=True):
        content = (study.path / f"{name}.png").read_bytes()
        assert base64.b64decode(picture) == content
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) > 5000
    assert page.count("<tr") == 7
    for fingerprint in study.record["fingerprints"].values():
        assert len(fingerprint) == 64
        assert fingerprint in page


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials(study, make_config, tmp_path):
    again = tune(make_config(), tmp_path / "again", max_trials=2)
    assert values(again) == values(study)[:2]
    np.testing.assert_allclose(
        again.trials()["val_rmse"], study.trials()["val_rmse"][:2], rtol=1e-5
    )


def planned(config, folder, count):
    """Return the values of the trials that a study would run."""
    prepared = Prepared(config)
    model = TrialModel(config, prepared.space, prepared.examples, None)
    tuner = make_tuner(config, folder, model, prepared.space.narrowed(), count)
    trials = [tuner.oracle.create_trial(f"worker-{i}") for i in range(count)]
    return [trial.hyperparameters.values for trial in trials]


def test_another_seed_gives_other_trials(study, make_config, tmp_path):
    same = planned(make_config(), tmp_path / "same", 3)
    assert [each["l2"] for each in same] == study.trials()["l2"][:3].tolist()
    other = planned(make_config(seed=1), tmp_path / "other", 3)
    assert other[0] == same[0]  # the defaults
    assert other[1] != same[1]


def test_more_trials_extend_a_study(study, make_config, tmp_path):
    shutil.copytree(study.path, tmp_path / "s")
    first = (tmp_path / "s" / "trials" / "trial_3" / "trial.json").read_bytes()
    run = (tmp_path / "s" / "best" / "metrics.json").read_bytes()
    # As many as there are: nothing to do.
    tune(make_config(), tmp_path / "s", max_trials=6)
    assert (tmp_path / "s" / "best" / "metrics.json").read_bytes() == run
    more = tune(make_config(), tmp_path / "s", max_trials=7)
    assert more.trials()["trial"].tolist() == list(range(7))
    assert values(more)[:6] == values(study)
    assert len(more.trials()["l2"].unique()) == 7
    assert (more.path / "trials" / "trial_3" / "trial.json").read_bytes() == first


@pytest.mark.slow
def test_a_killed_search_is_resumed(study, make_config, tmp_path):
    """Killed during a trial, it ends like an uninterrupted one."""
    out = tmp_path / "s"
    data = make_config().training.data
    command = f"""
        tune --data {data} --dim 4 --max-epochs 2 --batch-size 256 --max-trials 3
        --search l2 learning_rate=0.05:0.5 --out {out}
    """
    arguments = [sys.executable, "-m", "fmlayers.cli", *command.split()]
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:

        def status(number):
            path = out / "trials" / f"trial_{number}" / "trial.json"
            return json.loads(path.read_text())["status"] if path.exists() else None

        deadline = time.monotonic() + 120
        while status(0) != "COMPLETED" or status(1) != "RUNNING":
            assert process.poll() is None
            assert status(2) is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "best").exists()
    finished = (out / "trials" / "trial_0" / "trial.json").read_bytes()
    tune(make_config(), out, max_trials=3)
    resumed = Study(out)
    assert (out / "trials" / "trial_0" / "trial.json").read_bytes() == finished
    assert values(resumed) == values(study)[:3]
    np.testing.assert_allclose(
        resumed.trials()["val_rmse"], study.trials()["val_rmse"][:3], rtol=1e-5
    )
    assert (out / "best" / "model.keras").exists()


def test_a_study_of_something_else_is_refused(study, make_config, ratings, tmp_path):
    changed = ratings.assign(rating=ratings["rating"].to_numpy()[::-1])
    write_csv(changed, tmp_path / "other.csv")
    before = {p: p.read_bytes() for p in study.path.rglob("*") if p.is_file()}
    for config, match in (
        (
            make_config(search={"l2": ""}),
            "another search space, which differs in learning_rate/adagrad",
        ),
        (
            make_config(search={"l2": "0.1:0.2"}),
            "another search space, which differs in l2, learning",
        ),
        (make_config({"data": str(tmp_path / "other.csv")}), "study of other data"),
        (make_config({"test_fraction": 0.3}), "another split of the data"),
        (make_config({"seed": 5}), "another split of the data"),
        (make_config({"max_epochs": 7}), r"another config.*max_epochs 2 \(now 7\)"),
        (make_config(seed=3), r"another configuration: seed 0 \(now 3\)"),
        (make_config(tuner="bayesian"), "another configuration: tuner 'random'"),
    ):
        with pytest.raises(StudyError, match=match):
            tune(config, study.path, max_trials=7)
    assert before == {p: p.read_bytes() for p in study.path.rglob("*") if p.is_file()}


def test_data_may_have_moved(study, make_config, tmp_path):
    shutil.copytree(study.path, tmp_path / "s")
    shutil.copy(study.config.training.data, tmp_path / "moved.csv")
    moved = make_config({"data": str(tmp_path / "moved.csv")})
    assert len(tune(moved, tmp_path / "s", max_trials=6).trials()) == 6


def test_a_folder_of_something_else_is_never_touched(make_config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StudyError, match="exists and is not a study"):
            tune(make_config(), tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StudyError, match="is not a study"):
        Study(tmp_path)


@pytest.mark.slow
def test_overwriting_starts_a_new_study(study, make_config, tmp_path):
    out = tmp_path / "s"
    shutil.copytree(study.path, out)
    fails = make_config({"dim": 2}, search={"learning_rate": "1e30"})
    for _ in range(2):  # a failed study replaces nothing
        with pytest.raises(StudyError, match="has no completed trial"):
            tune(fails, out, max_trials=1, overwrite=True)
        (former,) = former_studies(out)
        assert values(Study(former)) == values(study)
        assert Study(out).config == fails
    other = make_config(search={"l2": ""})
    actual = tune(other, out, max_trials=1, overwrite=True)
    assert len(actual.trials()) == 1
    assert actual.config == other
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_failed_trials_are_reported_and_not_fatal(make_config, tmp_path, capsys):
    config = make_config(search={"learning_rate": "0.1,1e30", "l2": "0.01:0.1"})
    study = tune(config, tmp_path / "s", max_trials=3)
    trials = study.trials()
    failed = trials[trials["status"] == "FAILED"]
    assert 0 < len(failed) < 3
    assert set(failed["learning_rate/adagrad"]) == {1e30}
    assert failed["val_rmse"].isna().all()
    assert failed["reason"].str.contains("the training has diverged").all()
    assert "Traceback" not in capsys.readouterr().err
    assert (
        f"trial {failed['trial'].iloc[0]}: val_rmse is not a number" in study.summary()
    )
    page = (study.path / "report.html").read_text("utf-8")
    assert page.count('class="failed"') == len(failed)
    assert Run(study.path / "best").metrics["config"]["learning_rate"] == 0.1


@pytest.mark.slow
def test_a_report_escapes_names(ratings, make_config, tmp_path):
    """Names of columns and files, and reasons of failures, are no HTML."""
    script = "<script>alert(1)</script>"
    data = tmp_path / "<b>shop.csv"
    write_csv(ratings.assign(**{script: [1, 2] * (len(ratings) // 2)}), data)
    training = {
        "data": str(data),
        "max_epochs": 1,
        "features": ("user", "item", f"{script}:categorical"),
    }
    search = {f"l2/{script}": "", "learning_rate": "0.1,1e30"}
    study = tune(make_config(training, search=search), tmp_path / "s", max_trials=3)
    failed = study.trials().query("status == 'FAILED'")["trial"]
    assert len(failed)
    for trial in failed:
        write_reason(trial_folder(study.path, str(trial)), f"Error: {script}")
    write_report(study, [script])
    page = (study.path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;") >= 3


@pytest.mark.slow
def test_a_search_without_a_result(make_config, tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(fitting, "build_model", fails)
    with pytest.raises(StudyError, match="no completed trial.*no memory left"):
        tune(make_config(), tmp_path / "s", max_trials=5)
    study = Study(tmp_path / "s")
    assert len(study.trials()) == 5  # KerasTuner alone gives up after three
    assert "no memory left" in (study.path / "report.html").read_text("utf-8")
    assert not (study.path / "best").exists()


@pytest.mark.slow
def test_a_model_above_the_memory_limit_is_not_built(
    make_config, tmp_path, monkeypatch
):
    built = []

    def build(config, *arguments):
        built.append(config.dim)
        return build_model(config, *arguments)

    monkeypatch.setattr(fitting, "build_model", build)
    # Of 74 rows each has dim and one weights, and as many numbers of Adagrad's.
    limit = 74 * (16 + 1) * 4 * 2
    config = make_config(search={"dim": "8,16,4096"}, memory_limit=limit + 100)
    study = tune(config, tmp_path / "s", max_trials=3)
    trials = study.trials().set_index("dim")
    assert set(built) <= {8, 16}
    assert trials["status"].to_dict() == {
        8: "COMPLETED",
        16: "COMPLETED",
        4096: "FAILED",
    }
    assert "it was not built" in trials["reason"][4096]


@pytest.mark.slow
def test_test_rows_are_not_read(study, make_config, ratings, tmp_path):
    order = np.random.default_rng(0).permutation(len(ratings))
    changed = ratings.copy()
    test = order[len(ratings) - 160 :]
    changed.loc[changed.index[test], "rating"] = 1.0
    write_csv(changed, tmp_path / "shop.csv")
    config = make_config({"data": str(tmp_path / "shop.csv")})
    other = tune(config, tmp_path / "s", max_trials=2)
    assert values(other) == values(study)[:2]
    np.testing.assert_allclose(
        other.trials()["val_rmse"], study.trials()["val_rmse"][:2], rtol=1e-5
    )


@pytest.mark.slow
def test_a_top_n_metric_is_an_objective(make_config, tmp_path):
    training = {"loss": "bpr", "learning_rate": 0.2}
    config = make_config(training, search={"l2": ""}, objective="val_ndcg", k=5)
    study = tune(config, tmp_path / "s", max_trials=2)
    trials = study.trials()
    assert trials["val_ndcg"].between(0, 1, inclusive="neither").all()
    best = trials.loc[trials["val_ndcg"].idxmax()]
    assert study.best().l2 == pytest.approx(best["l2"], rel=1e-3)
    assert Run(study.path / "best").metrics["epochs"] == best["epochs"]


def answered(config, folder, count):
    """Let KerasTuner choose up to `count` trials, scored by their values."""
    prepared = Prepared(config)
    model = TrialModel(config, prepared.space, prepared.examples, None)
    oracle = make_tuner(config, folder, model, prepared.space.narrowed(), count).oracle
    while (trial := oracle.create_trial("one")).status == "RUNNING":
        score = abs(np.log(trial.hyperparameters.values["l2"] / 0.2))
        oracle.update_trial(trial.trial_id, {"val_rmse": score})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return [each.hyperparameters.values["l2"] for each in oracle.trials.values()]


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["random", "bayesian"])
def test_an_interrupted_search_chooses_as_a_whole_one(tuner, make_config, tmp_path):
    config = make_config(search={"l2": ""}, tuner=tuner)
    whole = answered(config, tmp_path / "whole", 7)
    for count in (4, 6, 7):
        parts = answered(config, tmp_path / "parts", count)
        assert len(parts) == count
    np.testing.assert_allclose(whole, parts, rtol=1e-6)
    assert len(set(whole)) == 7
    if tuner == "bayesian":  # which has learned where the low values are
        assert np.median(np.abs(np.log(np.array(whole[3:]) / 0.2))) < 1.0


@pytest.mark.parametrize("moment", ["begun", "ended"])
def test_a_kill_between_two_files(moment, make_config, tmp_path):
    """A trial's file has news that the oracle's file lacks."""
    prepared = Prepared(make_config())
    model = TrialModel(prepared.config, prepared.space, prepared.examples, None)

    def oracle():
        space = prepared.space.narrowed()
        return make_tuner(prepared.config, tmp_path, model, space, 2).oracle

    file = tmp_path / "trials" / "oracle.json"
    first = oracle()
    first.save()
    if moment == "ended":
        first.create_trial("one")
    before = file.read_bytes()
    trial = first.create_trial("one")
    if moment == "ended":
        first.update_trial(trial.trial_id, {"val_rmse": 0.5})
        trial.status = "COMPLETED"
        first.end_trial(trial)
    file.write_bytes(before)
    again = oracle()
    assert again.waiting == 0
    following = again.create_trial("one")
    if moment == "begun":
        assert following.trial_id == trial.trial_id
        assert following.hyperparameters.values == trial.hyperparameters.values
    else:
        assert again.end_order == [trial.trial_id]
        assert int(following.trial_id) == int(trial.trial_id) + 1


@pytest.mark.slow
def test_a_bayesian_search(make_config, tmp_path):
    config = make_config({"max_epochs": 1}, tuner="bayesian")
    study = tune(config, tmp_path / "s", max_trials=4)  # the first three are random
    assert (study.trials()["status"] == "COMPLETED").all()
    assert study.trials()["l2"].nunique() == 4


@pytest.mark.slow
def test_hyperband_continues_from_trained_weights(make_config, tmp_path):
    slow = {"l2": "0.01:0.02", "learning_rate": "0.01:0.02"}
    config = make_config({"max_epochs": 3}, tuner="hyperband", search=slow)
    study = tune(config, tmp_path / "s", max_trials=99)
    trials = study.trials()
    ended = f"The search ended after {len(trials)} of 99 trials: the tuner has no more"
    assert f"{ended} trials to run." in study.summary()
    assert (trials["status"] == "COMPLETED").all()
    states = [
        json.loads(path.read_text())["hyperparameters"]["values"]
        for path in study.path.glob("trials/trial_*/trial.json")
    ]
    assert {values["tuner/epochs"] for values in states} == {1, 3}
    (number,) = trials["trial"][trials["l2"].duplicated()][:1]
    # The result equals that of uninterrupted training.
    options = {"validation_fraction": 0.1, "refit": False, "patience": 3}
    whole = replace(study.configured(number), **options)
    run = train(whole, tmp_path / "run")
    actual = trials.set_index("trial")["val_rmse"][number]
    assert run.metrics["epochs"] == 3
    np.testing.assert_allclose(run.metrics["validation_rmse"], actual, rtol=1e-4)


@pytest.mark.slow
def test_a_model_is_chosen(make_config, tmp_path):
    config = make_config(
        {"features": ("user", "item")},
        models=("mf", "deepfm"),
        search={"model": "", "hidden_units": "8,8-4", "dropout": ""},
        seed=3,
    )
    study = tune(config, tmp_path / "s", max_trials=3)
    trials = study.trials()
    assert set(trials["model"]) == {"mf", "deepfm"}
    assert (trials["status"] == "COMPLETED").all()
    of_tower = trials["model"] == "deepfm"
    assert (trials["hidden_units"].notna() == of_tower).all()
    assert (trials["dropout"].notna() == of_tower).all()
    best = trials.loc[trials["val_rmse"].idxmin()]
    assert Run(study.path / "best").metrics["config"]["model"] == best["model"]


@pytest.mark.slow
def test_hyperparameters_of_keras_tuner_narrow_a_study(make_config, tmp_path):
    hp = keras_tuner.HyperParameters()
    hp.Fixed("dim", 3)
    hp.Float("learning_rate", 0.2, 0.3)
    config = make_config(search=None)
    study = tune(config, tmp_path / "s", max_trials=2, hyperparameters=hp)
    trials = study.trials()
    assert (trials["dim"] == 3).all()
    assert trials["learning_rate"].between(0.2, 0.3).all()
    assert trials["l2"].nunique() == 2  # what it leaves out is searched
    assert study.best().learning_rate >= 0.2
    assert [p.name for p in study.hyperparameters.space][:2] == ["dim", "learning_rate"]


@pytest.mark.slow
def test_minutes_bound_a_search(make_config, tmp_path):
    study = tune(make_config(), tmp_path / "s", max_trials=50, max_minutes=0.02)
    assert 0 < len(study.trials()) < 20
    count = len(study.trials())
    sentence = f"The search ended after {count} of 50 trials, at the time limit.\n"
    assert sentence in study.summary()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_search_says_that_its_space_is_exhausted(workers, make_config, tmp_path):
    config = make_config({"max_epochs": 1}, search={"l2": "0.02,0.2"})
    sentence = "The search space has 2 combinations; all were tried."
    for max_trials in (6, 9):  # begun, and extended
        study = tune(config, tmp_path / "s", max_trials=max_trials, workers=workers)
        assert sorted(study.trials()["l2"]) == [0.02, 0.2]
        assert f"{sentence}\n" in study.summary()
        assert f"<p>{sentence}</p>" in (study.path / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_a_search_of_one_combination_says_so(make_config, tmp_path):
    config = make_config({"max_epochs": 1}, search={})
    study = tune(config, tmp_path / "s", max_trials=2)
    assert len(study.trials()) == 1
    assert (
        "space has a single combination of values, which was tried." in study.summary()
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tuner": "grid"}, "`tuner` must be \"random\", .*Received: tuner='grid'"),
        ({"objective": "val_mae"}, "`objective` must be among .* the loss 'mse'"),
        ({"objective": "val_bpr"}, "`objective` must be among .* the loss 'mse'"),
        ({"models": ("fm", "svd")}, "`models` must be among .*'svd'"),
        ({"models": ("fm", "fm")}, "`models` must be among .*each once"),
        ({"k": 0}, "`k` must be positive. Received: k=0"),
        ({"seed": -1}, "`seed` must be at least 0. Received: seed=-1"),
        ({"memory_limit": 0}, "`memory_limit` must be positive"),
        (
            {"training": TrainingConfig(validation_fraction=0.0)},
            "`validation_fraction` must be positive, since trials are compared",
        ),
    ],
)
def test_configuration_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        TuningConfig(**changes)


@pytest.mark.parametrize(
    ("training", "changes", "match"),
    [
        (
            {},
            {"search": {"depth": ""}},
            r"name hyperparameters among \['dim'.*Received: \['depth'",
        ),
        ({}, {"search": {"dim": "a:b"}}, "'dim' must be numbers.*Received: 'a'"),
        ({}, {"search": {"dim": "4:inf"}}, "'dim' must be numbers.*Received: 'inf'"),
        ({}, {"search": {"dim": "4,nan"}}, "'dim' must be numbers.*Received: 'nan'"),
        (
            {"model": "deepfm"},
            {"search": {"dropout": "-1:0.5"}},
            "'dropout' must be LOW:HIGH, with 0 <= LOW <= HIGH",
        ),
        ({}, {"search": {"dim": "9:3"}}, "'dim' must be LOW:HIGH.*Received: '9:3'"),
        ({}, {"search": {"l2": "0:1"}}, "'l2' must be LOW:HIGH, with 0 < LOW <= HIGH"),
        ({"l2": 0.0}, {"search": {"l2": "0.1:1"}}, "'l2' must have a positive default"),
        (
            {"model": "deepfm"},
            {"search": {"hidden_units": "8,many"}},
            "'hidden_units' must be sizes like 64-32. Received: '8,many'",
        ),
        ({}, {"search": {"scaler": "tanh"}}, r"'scaler' must be among \['sigmoid'"),
        ({}, {"fields": ("age",)}, r"must be among the features \['user', 'item'\]"),
        (
            {"histories": True},
            {"models": ("fm", "mf")},
            "`features` of the model 'mf' must be user and item, without",
        ),
    ],
)
def test_space_errors(training, changes, match, make_config, tmp_path):
    with pytest.raises(ValueError, match=match):
        tune(make_config(training, **changes), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "setting",
    [{"max_trials": 0}, {"max_minutes": 0.0}, {"workers": 0}, {"worker_timeout": 0.0}],
)
def test_search_errors(setting, make_config, tmp_path):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"`{name}` must be positive. .*{value}"):
        tune(make_config(), tmp_path / "s", **setting)
    assert not (tmp_path / "s").exists()


def test_the_search_space_is_listed(make_config):
    text = searched(make_config(search={"dim": "8:32", "l2/user": ""}))
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert lines["dim"] == ["8", "...", "32", "8"]
    assert lines["l2/user"] == ["0.001", "...", "1", "0.06"]
    assert lines["l2"] == ["fixed", "0.06"]


@pytest.mark.slow
def test_a_study_is_written_by_one_process(study, make_config):
    script = f"""
from pathlib import Path
from fmlayers.runs.folder import locked
with locked(Path({str(study.path)!r})):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="Another process is writing"):
            tune(make_config(), study.path, max_trials=7)
        other.communicate("\n")


def test_a_study_of_an_older_version_is_extended(study, make_config, tmp_path):
    """Its record lacks a setting of runs and has the fixed names in another order."""
    shutil.copytree(study.path, tmp_path / "s")
    path = tmp_path / "s" / "config.json"
    record = read_json(path)
    for name in ("hidden_units", "dropout", "combiner"):
        del record["study"]["training"][name]
    record["study"]["fixed"] = ["dim", "data"]
    write_json(path, record)
    prepared = Prepared(make_config(fixed=("data", "dim")))
    record = prepared.record(prepared.space.narrowed())
    assert begin(path.parent, record, overwrite=False).config.fixed == ("data", "dim")
    record["study"]["k"] = 3
    with pytest.raises(StudyError, match=r"another configuration: k 10 \(now 3\)"):
        begin(path.parent, record, overwrite=False)
