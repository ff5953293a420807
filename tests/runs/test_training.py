import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
from saved_weights import weights

import fmlayers
from fmlayers._json_files import SEAL, read_json
from fmlayers._training import execution
from fmlayers._training.split_step import SplitStep
from fmlayers.cli import main
from fmlayers.data import DataError, sources, split_rows, write_csv
from fmlayers.optimizers import LazyAdam
from fmlayers.runs import Run, RunError, TrainingConfig, fitting, train, trainer
from fmlayers.runs.examples import default_batch_size

FILES = {
    "config.json",
    "history.csv",
    "history.png",
    "metrics.json",
    "model.keras",
    "summary.txt",
}


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def split(rows, seed=0):
    """Return the positions of the training and the test rows, as documented."""
    order = np.random.default_rng(seed).permutation(rows)
    return order[: rows - round(rows * 0.2)], order[rows - round(rows * 0.2) :]


def errors(run, table):
    inputs = run.encoder.transform(table)
    return run.model.predict(inputs, verbose=0)[:, 0] - table["rating"].to_numpy()


def rmse(error):
    return np.sqrt(np.mean(error**2))


def read_history(run):
    return pd.read_csv(run.path / "history.csv")


def assert_same_history(run, other):
    table, expected = read_history(run), read_history(other)
    for column in ("phase", "epoch"):
        assert table[column].tolist() == expected[column].tolist()
    figures = ["loss", "rmse", "val_loss", "val_rmse"]
    np.testing.assert_allclose(table[figures], expected[figures], rtol=1e-4)


def test_files(run, film_run):
    assert names(run.path) == FILES
    assert names(film_run.path) == FILES | {"users.csv", "items.csv"}
    for each in (run, film_run):
        png = (each.path / "history.png").read_bytes()
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(png) > 5000
        assert not each.path.with_name(each.path.name + ".partial").exists()


def test_metrics_say_what_the_run_was(run, make_config, early, backend):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (run.path / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=refuse)
    assert metrics == {**run.metrics, SEAL: metrics[SEAL]}
    config = make_config(**early).to_dict()
    assert {name: metrics["config"][name] for name in config} == config
    assert metrics["config"]["seed"] == 3
    assert metrics["config"]["backend"] == backend
    assert metrics["config"]["columns"] == {
        "user": "categorical",
        "item": "categorical",
    }
    fingerprint = sources.load(config["data"]).fingerprint()
    assert metrics["config"]["fingerprint"] == fingerprint
    assert metrics["config"] == read_json(run.path / "config.json")
    assert metrics["versions"]["fmlayers"] == fmlayers.__version__
    assert metrics["versions"]["keras"] == keras.__version__
    assert metrics["versions"]["numpy"] == np.__version__
    assert {backend, "python"} < set(metrics["versions"])
    assert metrics["rows"] == {"train": 2400, "validation": 240, "test": 600}
    assert metrics["batch_size"] == 256
    assert metrics["repairs"] == []
    assert metrics["seconds"] > 0


def test_metrics_are_those_of_the_saved_model(run, ratings):
    train_rows, test_rows = split(len(ratings), seed=3)
    error = errors(run, ratings.iloc[test_rows])
    mean = ratings["rating"].to_numpy()[train_rows].mean()
    off = ratings["rating"].to_numpy()[test_rows] - mean
    expected = {
        "rmse": rmse(error),
        "mae": np.mean(np.abs(error)),
        "mean_predictor_rmse": rmse(off),
        "mean_predictor_mae": np.mean(np.abs(off)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(run.metrics[name], value, rtol=1e-6)
    assert run.metrics["rmse"] < 0.97 * run.metrics["mean_predictor_rmse"]
    summary = (run.path / "summary.txt").read_text()
    assert f"{run.metrics['rmse']:.4f}" in summary
    assert f"{run.metrics['mean_predictor_rmse']:.4f}" in summary
    assert "2,400 train (240 of them held out for early stopping), 600 test" in summary


def test_the_best_reachable_is_said_where_known(film_run, films):
    floor = films.floor_rmse(split(1200)[1])
    np.testing.assert_allclose(film_run.metrics["floor_rmse"], floor)
    assert (
        f"lowest possible  {floor:.4f}" in (film_run.path / "summary.txt").read_text()
    )


def test_search_stops_early_and_refit_takes_the_best_epoch(run):
    table = read_history(run)
    search = table[table["phase"] == "search"]
    best = search["val_rmse"].argmin() + 1
    assert run.metrics["epochs"] == best
    assert len(search) == best + 2
    assert 1 < best < 28
    assert search["epoch"].tolist() == list(range(1, best + 3))
    refit = table.iloc[len(search) :]
    assert refit["phase"].tolist() == ["refit"] * best
    assert refit["epoch"].tolist() == list(range(1, best + 1))
    np.testing.assert_allclose(run.metrics["validation_rmse"], search["val_rmse"].min())
    assert refit["val_rmse"].isna().all()
    assert (table["seconds"] > 0).all()
    assert search["rmse"].iloc[-1] < search["rmse"].iloc[0]


def check_seen(run, ratings, rows):
    """Check that the encoder knows the values of `rows` and no others."""
    for column in ("user", "item"):
        values = {str(value) for value in ratings[column].iloc[rows]}
        assert set(run.encoder.vocabulary(column)) == values


def validation_and_fitting(ratings, seed):
    train_rows, _ = split(len(ratings), seed)
    shuffled = np.random.default_rng((seed, 1)).permutation(train_rows)
    return shuffled[:240], shuffled[240:]


def test_refit_sees_the_validation_rows(run, ratings):
    validation, _ = validation_and_fitting(ratings, seed=3)
    check_seen(run, ratings, split(len(ratings), seed=3)[0])
    error = rmse(errors(run, ratings.iloc[validation]))
    assert error < 0.95 * run.metrics["validation_rmse"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mf"},
        {"model": "deepfm", "features": ["user", "item"], "dropout": 0.3},
        {"histories": True},
        {"members": 2, "optimizer": "lazy_adam"},
        {"task": "binary", "positive_threshold": 4.0},
        {"task": "implicit", "positive_threshold": 4.0, "loss": "bpr"},
    ],
    ids=str,
)
def test_both_phases_share_a_trace(
    changes, make_config, tmp_path, monkeypatch, backend
):
    """With the same result as that of a new model for the second phase."""
    traces, train_step = [], SplitStep.train_step

    @functools.wraps(train_step)
    def counted(model, *arguments):
        traces.append(1)
        return train_step(model, *arguments)

    monkeypatch.setattr(SplitStep, "train_step", counted)
    found, counts = [], []
    for name, choose in (
        ("shared", fitting.restarted),
        ("apart", lambda trained, new: new),
    ):
        monkeypatch.setattr(trainer, "restarted", choose)
        run = train(make_config(**changes), tmp_path / name)
        found.append((weights(run.path), read_history(run).drop(columns="seconds")))
        counts.append(len(traces))
        traces.clear()
    if backend == "tensorflow":
        assert counts == [1, 2]
    (first, history), (second, expected) = found
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(history, expected, rtol=1e-4)


def test_phases_with_other_bounds_share_none(ratings, make_config, tmp_path):
    """The highest rating is that of a validation row."""
    validation, _ = validation_and_fitting(ratings, seed=0)
    changed = ratings.copy()
    changed["rating"] = changed["rating"].astype(float)
    changed.loc[validation[0], "rating"] = 5.5
    config = make_config(model="mf")
    run = train(config, tmp_path / "run", dataset=changed)
    assert run.model.scaler.max_rating == 5.5
    assert read_history(run)["phase"].unique().tolist() == ["search", "refit"]


def test_values_of_the_validation_rows_alone_are_unknown_in_the_search(
    ratings, make_config, tmp_path, monkeypatch
):
    """The tables of the search have room for them, and the encoder has not."""
    validation, _ = validation_and_fitting(ratings, seed=0)
    changed = ratings.copy()
    changed.loc[validation, "user"] = 1000 + np.arange(len(validation))
    seen, fit = [], trainer.fit

    def recorded(model, examples, *arguments, **options):
        (inputs, *_) = examples.arrays(validation)
        seen.append((model.features[0].vocabulary_size, inputs["user"]))
        return fit(model, examples, *arguments, **options)

    monkeypatch.setattr(trainer, "fit", recorded)
    train(make_config(model="mf"), tmp_path / "run", dataset=changed)
    (room, unknown), (size, known) = seen
    assert room == size == known.max() + 1
    assert (unknown < 1).all()
    assert (known > 0).all()


def test_without_refit_the_best_epoch_is_kept(
    run, ratings, make_config, early, tmp_path
):
    config = make_config(**early, refit=False)
    kept = train(config, tmp_path / "run")
    assert names(kept.path) == FILES
    table, expected = read_history(kept), read_history(run)
    assert table["phase"].unique().tolist() == ["search"]
    np.testing.assert_allclose(
        table["val_rmse"], expected["val_rmse"].iloc[: len(table)], rtol=1e-4
    )
    validation, fitting = validation_and_fitting(ratings, seed=3)
    check_seen(kept, ratings, fitting)
    error = rmse(errors(kept, ratings.iloc[validation]))
    np.testing.assert_allclose(error, table["val_rmse"].min(), rtol=1e-5)
    assert error < table["val_rmse"].iloc[-1] - 1e-4


def test_no_validation_rows(film_run):
    table = read_history(film_run)
    assert table["phase"].tolist() == ["refit", "refit"]
    assert film_run.metrics["validation_rmse"] is None
    assert film_run.metrics["epochs"] == 2
    assert film_run.metrics["rows"] == {"train": 960, "validation": 0, "test": 240}


def test_nothing_comes_from_the_test_rows(run, ratings, make_config, early, tmp_path):
    _, test_rows = split(len(ratings), seed=3)
    changed = ratings.copy()
    changed["rating"] = changed["rating"].astype(float)
    changed.iloc[test_rows, changed.columns.get_loc("rating")] = np.linspace(
        -20, 20, len(test_rows)
    )
    write_csv(changed, tmp_path / "changed.csv")
    config = make_config(**early, data=str(tmp_path / "changed.csv"))
    other = train(config, tmp_path / "run")
    assert other.metrics["rmse"] > 5
    assert other.metrics["epochs"] == run.metrics["epochs"]
    assert_same_history(other, run)
    assert other.encoder.get_config() == run.encoder.get_config()
    for weight, expected in zip(
        other.model.get_weights(), run.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
    scalers = [each.model.scaler.get_config() for each in (other, run)]
    assert scalers[0] | {"name": ""} == scalers[1] | {"name": ""}


def test_values_of_the_test_rows_alone_are_unknown(ratings, make_config, tmp_path):
    train_rows, test_rows = split(len(ratings))
    table = ratings.astype({"user": str, "item": str})
    for column, count in (("user", 30), ("item", 20)):
        new = [f"{column} of the test {i}" for i in range(count)]
        table.iloc[test_rows[:count], table.columns.get_loc(column)] = new
    write_csv(table, tmp_path / "table.csv")
    config = make_config(
        data=str(tmp_path / "table.csv"), max_epochs=1, validation_fraction=0.0
    )
    run = train(config, tmp_path / "run")
    for column in ("user", "item"):
        known = set(table[column].iloc[train_rows])
        assert set(run.encoder.vocabulary(column)) == known
        unknown = int((~table[column].iloc[test_rows].isin(known)).sum())
        assert run.metrics["unknown_in_test"][column] == unknown
        assert unknown >= 20


def test_without_matplotlib(make_config, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    config = make_config(max_epochs=1, validation_fraction=0.0)
    run = train(config, tmp_path / "run")
    assert names(run.path) == FILES - {"history.png"}
    assert (
        (run.path / "summary.txt")
        .read_text()
        .endswith("history.png is missing: it needs `pip install fmlayers[plot]`.\n")
    )


def test_a_finished_run_is_not_replaced_unasked(run, make_config, tmp_path, failing):
    shutil.copytree(run.path, tmp_path / "run")
    before = contents(tmp_path / "run")
    for resume in (False, True):
        with pytest.raises(RunError, match="holds a finished run.*`--overwrite`"):
            failing(make_config(), tmp_path / "run", resume=resume)
    assert contents(tmp_path / "run") == before
    assert names(tmp_path) == {"run"}


def test_overwriting_keeps_the_old_run_until_the_new_one_is_done(
    run, make_config, tmp_path, failing
):
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    before = contents(out)
    config = make_config(max_epochs=2, seed=4)
    with pytest.raises(RuntimeError, match="no memory"):
        failing(config, out, overwrite=True)
    assert contents(out) == before
    assert names(tmp_path) == {"run"}
    # After the search there is something to go on from.
    with pytest.raises(RuntimeError, match="no memory"):
        failing(config, out, 2, overwrite=True)
    assert contents(out) == before
    assert names(tmp_path) == {"run", "run.partial"}
    other = make_config(max_epochs=3, seed=5)
    with pytest.raises(RunError, match=r"max_epochs 2 \(now 3\), seed 4 \(now 5\)\.$"):
        failing(other, out, resume=True, overwrite=True)
    assert contents(out) == before
    # Resumed, it builds one model, the second phase's.
    resumed = failing(config, out, 3, resume=True, overwrite=True)
    assert resumed.metrics["config"]["seed"] == 4
    assert read_history(resumed)["phase"].value_counts()["search"] == 2
    assert names(out) == FILES
    assert names(tmp_path) == {"run"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(
    overwrite, make_config, tmp_path, failing
):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metrics.json").write_text("{}")
    (tmp_path / "notes").write_text("mine")
    for name in ("thesis", "notes"):
        with pytest.raises(RunError, match=f"{name} exists and is not a run"):
            failing(make_config(), tmp_path / name, overwrite=overwrite)
    assert contents(tmp_path / "thesis") == {"metrics.json": b"{}"}
    assert (tmp_path / "notes").read_text() == "mine"
    assert names(tmp_path) == {"thesis", "notes"}


def test_nothing_to_resume(make_config, tmp_path, failing):
    with pytest.raises(
        RunError, match=r"no interrupted run to resume at .*run\.partial"
    ):
        failing(make_config(), tmp_path / "run", resume=True)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("changes", "table", "match"),
    [
        ({"data": "no-such-data"}, None, "does not exist"),
        ({"features": ["user", "colour"]}, None, "Feature 'colour'"),
        ({"split": "u1"}, None, r"shop has no fold 'u1'. It can be split by \['random"),
        ({"test_fraction": 1.5}, None, "`test_fraction` must be"),
        ({"model": "mlp"}, None, "`model` must be one of .*Received: model='mlp'"),
        ({"loss": "mae"}, None, "`loss` must be .*Received: loss='mae'"),
        ({"members": 0}, None, "Received: members=0"),
        ({"l2_of": {"age": 1.0}}, None, "`l2_of` must name features"),
        ({"model": "mf", "features": ["user"]}, None, "must be user and item"),
        ({"dim": 0}, None, "Received: dim=0"),
        ({}, "user,item,rating\n1,1,x\n", r"bad\.csv, line 2: the rating"),
        ({}, "user,item\n1,1\n", r"bad\.csv has no column 'rating'"),
        (
            {},
            "user,item,rating\n" + "".join(f"{i},{i},3\n" for i in range(20)),
            r"at least two values. Received: 14 ratings of 3\.0",
        ),
    ],
)
def test_refused_input_leaves_nothing(changes, table, match, make_config, tmp_path):
    if table is not None:
        changes = changes | {"data": str(tmp_path / "bad.csv")}
        (tmp_path / "bad.csv").write_text(table)
    with pytest.raises(ValueError, match=match):
        train(make_config(**changes), tmp_path / "run")
    assert names(tmp_path) <= {"bad.csv"}


@pytest.fixture(scope="module")
def long_run(make_config, tmp_path_factory):
    """Return a run of many epochs, and the command that does it."""
    options = {"dim": 4, "max_epochs": 16, "patience": 16, "batch_size": 64, "seed": 1}
    config = make_config(**options)
    command = ["train", "--data", config.data]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    out = tmp_path_factory.mktemp("runs") / "long"
    return train(config, out), command


def kill_in(phase, command, partial):
    """Run the command line and kill it once an epoch of `phase` is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fmlayers.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    path = partial / "progress.json"
    while process.poll() is None:
        if path.exists():
            history = json.loads(path.read_text())["history"]
            if any(row["phase"] == phase for row in history):
                break
        time.sleep(0.005)
    process.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output.decode()
    return json.loads(path.read_text())["history"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_run_goes_on_as_if_nothing_had_been(long_run, tmp_path):
    reference, command = long_run
    out, partial = tmp_path / "run", tmp_path / "run.partial"
    command = [*command, "--out", str(out)]
    history = kill_in("search", command, partial)
    assert len(history) < 16
    assert names(tmp_path) == {"run.partial"}
    with pytest.raises(RunError, match="It was interrupted: resume it with"):
        Run(out)
    assert main(command) == 1  # not begun anew unasked

    history = kill_in("refit", [*command, "--resume"], partial)
    assert history[-1]["phase"] == "refit"
    assert len(history) < len(read_history(reference))
    assert names(tmp_path) == {"run.partial"}

    # As if killed while writing.
    (partial / ".progress-x1y2.json").write_text('{"hist')
    (partial / "refit-0099.state.npz").write_bytes(b"\x89HDF")
    assert main([*command, "--resume"]) == 0
    assert names(tmp_path) == {"run"}
    assert names(out) == FILES
    resumed = Run(out)
    assert_same_history(resumed, reference)
    for name in ("rmse", "mae", "validation_rmse"):
        np.testing.assert_allclose(
            resumed.metrics[name], reference.metrics[name], rtol=1e-4
        )
    assert resumed.metrics["epochs"] == reference.metrics["epochs"]


def test_split_rows(films):
    for name, in_test in (("random", 240), ("time", 240)):
        rows = split_rows(films, name)
        assert len(rows.test) == in_test
    times = films.ratings["timestamp"].to_numpy()
    by_time = split_rows(films, "time", test_fraction=0.5)
    assert times[by_time.train].max() <= times[by_time.test].min()
    by_user = split_rows(films, "user")
    users = films.ratings["user"]
    assert set(users.iloc[by_user.train]) == set(users)
    np.testing.assert_array_equal(
        split_rows(films, seed=7).test, split(1200, seed=7)[1]
    )
    with pytest.raises(DataError, match="synthetic has no fold 'u9'"):
        split_rows(films, "u9")


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="`optimizer` must be.*optimizer='sgd'"):
        TrainingConfig(optimizer="sgd")


@pytest.mark.parametrize("setting", [{"hidden_units": [8]}, {"dropout": 0.5}])
def test_hidden_layers_are_of_models_that_have_them(setting):
    with pytest.raises(
        ValueError, match="a setting of the models.*Received: model='fm'"
    ):
        TrainingConfig(model="fm", **setting)
    TrainingConfig(model="deepfm", **setting)


def test_the_other_optimizer(make_config, tmp_path):
    config = make_config(optimizer="lazy_adam", learning_rate=0.03)
    run = train(config, tmp_path / "run")
    assert type(run.model.optimizer) is LazyAdam
    assert run.metrics["rmse"] < run.metrics["mean_predictor_rmse"]


@pytest.mark.slow
def test_xla_trains_as_without(make_config, tmp_path, monkeypatch, backend):
    """Large runs and small ones give the same numbers."""
    plain = train(make_config(), tmp_path / "plain")
    monkeypatch.setattr(execution, "MIN_XLA_NUMBERS", 1)
    compiled = train(make_config(), tmp_path / "compiled")
    if backend == "tensorflow":
        assert (plain.model.jit_compile, compiled.model.jit_compile) == (False, True)
    assert compiled.metrics["epochs"] == plain.metrics["epochs"]
    np.testing.assert_allclose(compiled.metrics["rmse"], plain.metrics["rmse"], 1e-4)


@pytest.mark.parametrize(
    ("rows", "size"),
    [(1, 16), (2_560, 16), (72_000, 512), (10**6, 8192), (10**9, 8192)],
)
def test_default_batch_size(rows, size):
    assert default_batch_size(TrainingConfig(), rows) == max(size, 64)
    for options in ({"optimizer": "lazy_adam"}, {"task": "binary"}):
        assert default_batch_size(TrainingConfig(**options), rows) == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0),
        ("patience", 0),
        ("batch_size", 0),
        ("validation_fraction", 1.0),
        ("validation_fraction", -0.1),
        ("validation_fraction", float("nan")),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("init_stddev", 0.0),
        ("combiner", "max"),
    ],
)
def test_configuration_errors(name, value):
    with pytest.raises(
        ValueError, match=f"`{name}` must be .*Received: {name}={value!r}"
    ):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.06, {}, 0.01, 0.05)),
        (
            {"histories": True, "l2_of": {"day": 0.25, "user_history": 0.3}},
            (
                0.06,
                {"day": 0.25, "user_history": 0.3, "item_history": 0.01},
                0.01,
                0.015,
            ),
        ),
        ({"loss": "bpr", "histories": True}, (0.002, {}, 0.002, 0.1)),
        ({"loss": "bce", "l2": 0.0, "linear_l2": 0.5}, (0.0, {}, 0.5, 0.1)),
        ({"optimizer": "lazy_adam"}, (0.06, {}, 0.01, 0.001)),
        ({"optimizer": "lazy_adam", "learning_rate": 0.5}, (0.06, {}, 0.01, 0.5)),
    ],
)
def test_defaults_follow_what_is_learned(given, expected):
    config = TrainingConfig(**given)
    found = config.l2, config.l2_of, config.linear_l2, config.learning_rate
    assert found == expected


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_learns_from_clicks_to_rank(loss, make_config, tmp_path, rng):
    """Users rate items of one of two kinds: pairs of a kind score above the others."""
    users, items = (x.ravel() for x in np.meshgrid(np.arange(60), np.arange(40)))
    clicked = ((users + items) % 2 == 0) & (rng.random(len(users)) < 0.5)
    pairs = pd.DataFrame({"user": users, "item": items, "rating": 1.0})
    write_csv(pairs[clicked], tmp_path / "clicks.csv")
    config = make_config(
        data=str(tmp_path / "clicks.csv"),
        loss=loss,
        l2=0.0,
        learning_rate=0.3,
        max_epochs=20,
        patience=20,
        batch_size=32,
    )
    run = train(config, tmp_path / "run")
    history = read_history(run)
    search = history[history["phase"] == "search"]
    assert run.metrics["epochs"] == search[f"val_{loss}"].argmin() + 1
    np.testing.assert_allclose(
        run.metrics[f"validation_{loss}"], search[f"val_{loss}"].min()
    )
    assert "scores rank items" in (run.path / "summary.txt").read_text()
    unseen = pairs[~clicked]
    scores = run.predict(unseen)
    alike = ((unseen["user"] + unseen["item"]) % 2 == 0).to_numpy()
    assert (scores[alike][:, None] > scores[~alike][None, :]).mean() > 0.9


@pytest.mark.slow
def test_histories_and_members_make_a_run(make_config, ratings, tmp_path):
    config = make_config(
        histories=True, members=2, features=["user", "item"], max_epochs=2
    )
    run = train(config, tmp_path / "run")
    assert [f.name for f in run.model.features[2:]] == ["user_history", "item_history"]
    assert len(run.model.members) == 2
    # Lists of all training rows after the refit, and of no test row.
    pairs = ratings.iloc[split(len(ratings))[0]][["user", "item"]].drop_duplicates()
    assert run.model.features[2].num_pairs == len(pairs)
    assert run.metrics["rmse"] < run.metrics["mean_predictor_rmse"]
