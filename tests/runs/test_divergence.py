"""Training that diverges stops with an error, and no finished run has NaN."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

from fmlayers._json_files import read_json, write_json
from fmlayers._keras_files import save_model
from fmlayers.cli import main
from fmlayers.data import DataError, write_csv
from fmlayers.runs import Run, RunError, train
from fmlayers.runs.checkpoint import Checkpoint, Progress
from fmlayers.runs.folder import DivergenceError


@pytest.fixture
def scaled(ratings, tmp_path):
    """Return a file of the ratings times a factor."""

    def write(factor):
        path = tmp_path / "scaled.csv"
        write_csv(ratings.assign(rating=ratings["rating"] * factor), path)
        return str(path)

    return write


RATES = {"learning_rate": 1e30, "scaler": "none"}


@pytest.mark.parametrize(
    "changes",
    [
        RATES,
        {"learning_rate": 1e30},
        pytest.param({**RATES, "validation_fraction": 0.0}, marks=pytest.mark.slow),
        pytest.param({**RATES, "refit": False}, marks=pytest.mark.slow),
        pytest.param({**RATES, "model": "mf"}, marks=pytest.mark.slow),
        pytest.param({**RATES, "members": 2}, marks=pytest.mark.slow),
        pytest.param({**RATES, "optimizer": "lazy_adam"}, marks=pytest.mark.slow),
        pytest.param(
            {**RATES, "loss": "bpr", "scaler": "clip"}, marks=pytest.mark.slow
        ),
        pytest.param(
            {**RATES, "loss": "bce", "scaler": "clip"}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_a_rate_that_is_too_high_error(changes, make_config, tmp_path):
    message = (
        r"^Training diverged in epoch \d of the phase '(search|refit)': .*(nan|NaN|inf)"
        r".*Lower `learning_rate`"
    )
    with pytest.raises(DivergenceError, match=message):
        train(make_config(**changes), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factor", [1e20, -1e20, 1e25, 6e37])
def test_ratings_that_are_too_large_error(factor, scaled, make_config, tmp_path):
    config = make_config(data=scaled(factor))
    with pytest.raises(DivergenceError, match="scale the ratings"):
        train(config, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"scaled.csv"}


def test_ratings_beyond_float32_error(scaled, make_config, tmp_path):
    config = make_config(data=scaled(1e60))
    with pytest.raises(DataError, match=r"finite in float32. .*Scale them down"):
        train(config, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"scaled.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("rating", [1e30, 1e200])
def test_a_held_out_rating_that_is_too_large_error(
    rating, make_config, ratings, tmp_path
):
    order = np.random.default_rng(1).permutation(len(ratings))
    shuffled = np.random.default_rng((1, 1)).permutation(order[:2400])
    table = ratings.astype({"rating": float})
    table.iloc[shuffled[0], table.columns.get_loc("rating")] = rating
    write_csv(table, tmp_path / "shop.csv")
    config = make_config(seed=1, data=str(tmp_path / "shop.csv"))
    with pytest.raises(DivergenceError, match=r"epoch 1 .*'search': val_.* is inf"):
        train(config, tmp_path / "run")


def test_a_test_rating_that_is_too_large_error(make_config, ratings, tmp_path):
    order = np.random.default_rng(0).permutation(len(ratings))
    table = ratings.astype({"rating": float})
    table.iloc[order[-1], table.columns.get_loc("rating")] = 1e200
    write_csv(table, tmp_path / "shop.csv")
    config = make_config(data=str(tmp_path / "shop.csv"), max_epochs=1)
    with pytest.raises(DivergenceError, match="rmse is inf"):
        train(config, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"shop.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_diverges_with_an_error(policy, make_config, tmp_path):
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        with pytest.raises(DivergenceError, match="Training diverged"):
            train(make_config(**RATES), tmp_path / "run")
        assert list(tmp_path.iterdir()) == []
        run = train(make_config(max_epochs=1), tmp_path / "run")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert np.isfinite(run.metrics["rmse"])


def fitted(tmp_path, spoil):
    """Fit a model for three epochs and spoil it at the end of the second."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adagrad(), loss="mse")
    progress = Progress()

    def at_the_end(epoch, logs):
        if epoch == 1:
            spoil(model, logs)

    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=at_the_end),
        Checkpoint(tmp_path, progress, "refit"),
    ]
    x = np.ones((8, 2), "float32")
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["weight", "optimizer", "metric"])
def test_the_epoch_that_diverged_is_not_saved(place, value, tmp_path):
    def spoil(model, logs):
        if place == "metric":
            logs["loss"] = value
            return
        variables = model.weights if place == "weight" else model.optimizer.variables
        broken = np.array(variables[-1])
        broken.flat[0] = value
        variables[-1].assign(broken)

    with pytest.raises(DivergenceError, match="in epoch 2 of the phase 'refit'"):
        fitted(tmp_path, spoil)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"progress.json", "refit-0001.weights.h5"}
    assert len(Progress.read(tmp_path).history) == 1


def test_a_run_of_0_1_0_that_diverged_is_not_resumed(make_config, tmp_path):
    """That version saved the epochs, and JSON with NaN."""
    progress = Progress(
        [{"phase": "search", "epoch": 1, "seconds": 1.0, "loss": float("nan")}],
        {"search": "search-0001.weights.h5"},
    )
    content = vars(progress)
    del content["digests"], content["shares_graph"]
    (tmp_path / "progress.json").write_text(json.dumps(content))
    with pytest.raises(DivergenceError, match="epoch 1 .*loss is nan"):
        Progress.read(tmp_path)


def test_a_finished_run_of_0_1_0_that_diverged_is_refused(run, tmp_path):
    metrics = {**run.metrics, "rmse": float("nan")}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "model.keras").write_bytes((run.path / "model.keras").read_bytes())
    with pytest.raises(
        RunError, match=r"metrics\.json .*'rmse' must be a finite number"
    ):
        Run(tmp_path)


@pytest.fixture
def spoiled(film_run, tmp_path):
    """Return the folder of a run without digests, all of whose weights are equal."""

    def spoil(value):
        metrics = {k: v for k, v in film_run.metrics.items() if k != "files"}
        for name in ("users.csv", "items.csv"):
            (tmp_path / name).write_bytes((film_run.path / name).read_bytes())
        model = keras.models.load_model(film_run.path / "model.keras")
        for weight in model.trainable_variables:
            weight.assign(np.full(weight.shape, value))
        save_model(model, tmp_path / "model.keras")
        write_json(tmp_path / "metrics.json", metrics)
        return tmp_path

    return spoil


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_with_weights_that_are_not_finite_is_refused(value, spoiled):
    with pytest.raises(DivergenceError, match=r"model\.keras has weights that are NaN"):
        _ = Run(spoiled(value)).model


def test_scores_that_overflow_error(spoiled, films, tmp_path, monkeypatch, capsys):
    """The weights are finite, and the scores are not."""
    from fmlayers.data import sources

    monkeypatch.setattr(sources, "synthetic", lambda: films)
    folder = str(spoiled(1e30))
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    write_csv(films.ratings[["user", "item"]].iloc[:5], rows)
    commands = [
        ["predict", folder, "--data", str(rows), "--out", str(out)],
        ["evaluate", folder],
        ["recommend", folder, "--user", "1"],
        ["recommend", folder, "--users", "all", "--csv", str(out)],
        ["recommend", folder, "--liked", "1"],
        ["similar", folder, "--item", "1"],
        ["explain", folder, "--user", "1", "--item", "2"],
    ]
    for command in commands:
        assert main(command) == 1, command
        error = capsys.readouterr().err
        assert "finite" in error, command
        assert "Traceback" not in error
    assert not out.exists()


def test_the_command_ends_with_1(make_config, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--data", make_config().data, "--out", str(out)]
    command += ["--learning-rate", "1e30", "--scaler", "none", "--max-epochs", "2"]
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "fmlayers: Training diverged in epoch 1 of the phase 'search'"
    )
    assert list(tmp_path.iterdir()) == []
    # Nothing is in the way of the next attempt.
    assert main([*command[:5], "--max-epochs", "1"]) == 0
    assert all(map(np.isfinite, pd.read_csv(out / "history.csv")["loss"]))
    assert read_json(out / "metrics.json")["rmse"] > 0
