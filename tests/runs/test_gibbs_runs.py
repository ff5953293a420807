"""Runs whose model is sampled instead of trained."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from checks import check_error
from saved_weights import is_same, weights

from fmlayers import cli
from fmlayers.bayes import backups, workers
from fmlayers.bayes.likelihoods import normal_cdf
from fmlayers.data import write_csv
from fmlayers.models import FactorizationMachine
from fmlayers.runs import Run, RunError, TrainingConfig, sampling, train
from fmlayers.runs.config import SETTINGS
from fmlayers.runs.methods import reads, sampling_is_better
from fmlayers.runs.posterior_samples import PosteriorSamples, interval_coverage
from fmlayers.runs.prediction import predict
from fmlayers.runs.sweep_progress import SweepProgress

GIBBS = {"method": "gibbs", "sweeps": 14, "chains": 2, "dim": 3}
# A value other than the default of each setting that Gibbs sampling does not read.
UNREAD = {
    "negatives": 2,
    "positive_weight": 2.0,
    "members": 2,
    "init_stddev": 0.1,
    "l2": 0.5,
    "l2_of": {"user": 0.5},
    "linear_l2": 0.5,
    "hidden_units": [8],
    "dropout": 0.5,
    "optimizer": "lazy_adam",
    "learning_rate": 0.3,
    "row_wise": True,
    "batch_size": 64,
    "max_epochs": 3,
    "patience": 9,
}


@pytest.fixture(scope="module")
def table(ratings, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "ratings.csv"
    write_csv(ratings, path)
    return path


@pytest.fixture(scope="module")
def sampled(table, tmp_path_factory):
    """Train a run; tests leave it as it is."""
    config = TrainingConfig(data=str(table), **GIBBS)
    return train(config, tmp_path_factory.mktemp("gibbs") / "run")


def test_every_setting_that_sampling_does_not_read_is_refused():
    unread = {n for n, s in SETTINGS.items() if not reads("gibbs", n, s)}
    assert unread == set(UNREAD)


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_a_setting_of_gradient_descent_is_refused(name, capsys):
    value = UNREAD[name]
    check_error(
        f"`{name}` must be left out",
        lambda: TrainingConfig(method="gibbs", **{name: value}),
    )
    if isinstance(value, dict | list):
        return
    # The command refuses the default value, too, since it would have no effect.
    default = getattr(TrainingConfig(), name)
    default = 64 if default is None else default
    option = f"--{name.replace('_', '-')}"
    options = ["--method", "gibbs", option]
    options += [] if isinstance(default, bool) else [f"{default}"]
    assert cli.main(["train", "--out", "nowhere", *options]) == 1
    assert f"`{name}` must be left out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sweeps", "chains"])
def test_a_setting_of_sampling_is_refused_by_gradient_descent(name, capsys):
    check_error(
        f"`{name}` must be left out: it is a setting of the method 'gibbs'. "
        "Received: method='gradient'.",
        lambda: TrainingConfig(**{name: 3}),
    )
    default = f"{SETTINGS[name].default}"
    assert cli.main(["train", "--out", "nowhere", f"--{name}", default]) == 1
    assert f"`{name}` must be left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "mf"},
            "`model` must be 'fm' with the method 'gibbs'.*user and item",
        ),
        ({"model": "deepfm"}, "`model` must be 'fm' with the method 'gibbs'"),
        ({"task": "implicit"}, "`task` must be 'regression' or 'binary' with the"),
        ({"loss": "bpr"}, "`task` must be 'regression' or .*task='implicit'"),
        ({"task": "binary", "weight": "w"}, "`weight` must be left out.*'binary'"),
        ({"scaler": "sigmoid"}, "`scaler` must be 'clip' or 'none'"),
    ],
    ids=str,
)
def test_what_sampling_does_not_support_is_refused(changes, message):
    check_error(message, lambda: TrainingConfig(method="gibbs", **changes))


def test_a_share_to_hold_out_needs_that_rows_are_held_out():
    options = {"method": "gibbs", "validation_fraction": 0.1}
    check_error(
        "`validation_fraction` must be left out.*Hold rows out with `--no-refit`",
        lambda: TrainingConfig.of_options(options),
    )
    assert not TrainingConfig.of_options({**options, "refit": False}).refit


def test_a_configuration_is_read_back():
    config = TrainingConfig(histories=True, **GIBBS)
    assert config.l2_of == {}
    assert TrainingConfig.from_dict(config.to_dict()) == config
    assert TrainingConfig(method="gibbs").dim == 20
    record = TrainingConfig().to_dict()
    del record["method"], record["sweeps"], record["chains"]
    assert TrainingConfig.from_dict(record).method == "gradient"


def test_the_model_is_an_ordinary_one(sampled):
    assert type(sampled.model) is FactorizationMachine
    assert sampled.metrics["model_dim"] == sampled.model.dim == 3 * 2 * (14 - 7)
    assert sampled.metrics["rmse"] < 0.9 * sampled.metrics["mean_predictor_rmse"]
    assert sampled.config.dim == 3
    sampled.check()


def test_the_history_has_a_row_per_sweep(sampled):
    history = sampled.history()
    assert list(history) == ["sweep", "seconds", "alpha", "rmse"]
    assert history["sweep"].tolist() == list(range(1, 15))
    assert history["alpha"].iloc[-1] == pytest.approx(sampled.metrics["alpha"])
    # A precision near that of the errors.
    ratio = history["alpha"].iloc[-1] * history["rmse"].iloc[-1] ** 2
    assert 0.8 < ratio < 1.25


def test_the_summary_is_about_sampling(sampled):
    text = sampled.summary()
    assert "samples: 2 chains of 14 sweeps with dimension 3" in text
    assert "rows: 2,400 train, 600 test" in text
    assert "epoch" not in text
    assert "hint" not in text


def test_the_same_configuration_gives_the_same_model(sampled, table, tmp_path):
    again = train(TrainingConfig(data=str(table), **GIBBS), tmp_path / "run")
    same = {n: again.metrics[n] for n in ("rmse", "mae", "alpha")}
    assert same == {n: sampled.metrics[n] for n in same}
    other = train(TrainingConfig(data=str(table), **GIBBS, seed=1), tmp_path / "other")
    assert other.metrics["rmse"] != sampled.metrics["rmse"]


def test_rows_that_are_held_out_are_evaluated_after_each_sweep(ratings, tmp_path):
    held_out = train(
        TrainingConfig(data=str(_table(ratings, tmp_path)), refit=False, **GIBBS),
        tmp_path / "run",
    )
    assert held_out.metrics["rows"] == {"train": 2400, "validation": 240, "test": 600}
    history = held_out.history()
    assert list(history) == ["sweep", "seconds", "alpha", "rmse", "val_rmse"]
    assert history["val_rmse"].isna().tolist() == [True] * 7 + [False] * 7
    assert held_out.metrics["validation_rmse"] == history["val_rmse"].iloc[-1]
    assert "(240 of them held out), 600 test" in held_out.summary()


def test_rows_of_a_validation_table_are_not_sampled_from(ratings, tmp_path):
    tables = {"ratings": ratings[:2000], "validation": ratings[2000:2500]}
    run = train(TrainingConfig(**GIBBS), tmp_path / "run", dataset=tables)
    assert run.metrics["rows"]["validation"] == 500
    changed = tables["validation"].assign(rating=1.0)
    other = train(
        TrainingConfig(**GIBBS),
        tmp_path / "other",
        dataset={**tables, "validation": changed},
    )
    np.testing.assert_array_equal(run.model.bias, other.model.bias)
    assert run.metrics["validation_rmse"] < other.metrics["validation_rmse"]


@pytest.mark.parametrize("scale", [20.0, 0.001])
def test_the_unit_of_the_ratings_does_not_matter(scale, sampled, ratings, tmp_path):
    changed = ratings.assign(rating=100.0 + scale * ratings["rating"])
    config = TrainingConfig(data=str(_table(changed, tmp_path)), **GIBBS)
    run = train(config, tmp_path / "run")
    expected = scale * sampled.metrics["rmse"]
    assert run.metrics["rmse"] == pytest.approx(expected, rel=0.01)
    assert run.metrics["alpha"] == pytest.approx(
        sampled.metrics["alpha"] / scale**2, rel=0.02
    )
    assert run.model.scaler.scale == 1.0


def test_a_target_transform_applies(ratings, tmp_path):
    counts = ratings.assign(rating=np.expm1(ratings["rating"]).round())
    path = _table(counts, tmp_path)
    config = TrainingConfig(
        data=str(path), target_transform="log1p", refit=False, **GIBBS
    )
    run = train(config, tmp_path / "run")
    assert run.metrics["rmsle"] < 0.9 * run.metrics["mean_predictor_rmsle"]
    assert run.metrics["validation_rmsle"] == pytest.approx(
        run.metrics["rmsle"], rel=0.2
    )
    assert list(run.history()) == ["sweep", "seconds", "alpha", "rmsle", "val_rmsle"]


def test_labels_are_sampled(table, tmp_path):
    config = TrainingConfig(
        data=str(table), task="binary", positive_threshold=4, refit=False, **GIBBS
    )
    run = train(config, tmp_path / "run")
    metrics = run.metrics
    assert metrics["log_loss"] < metrics["mean_predictor_log_loss"]
    assert metrics["auc"] > 0.6
    assert metrics["calibration_error"] < 0.1
    assert list(run.history()) == ["sweep", "seconds", "alpha", "bce", "val_bce"]
    assert metrics["validation_bce"] == pytest.approx(metrics["log_loss"], rel=0.2)
    assert run.model.scaler is None
    predicted, stddev = run.predict_with_std(run.test_table())
    samples = PosteriorSamples(run)
    inputs = run.inputs(run.test_table())
    drawn = [normal_cdf(predict(model, inputs)) for model in samples.models()]
    np.testing.assert_allclose(np.std(drawn, axis=0), stddev, atol=1e-5)
    np.testing.assert_allclose(np.mean(drawn, axis=0), predicted, atol=0.06)
    assert run.evaluate(k=3).labels
    assert "interval_coverage" not in [p.stem for p in run.plot(tmp_path / "p")[0]]


@pytest.mark.slow
def test_histories_and_side_columns_are_sampled(films, tmp_path):
    run = train(
        TrainingConfig(histories=True, **GIBBS), tmp_path / "run", dataset=films
    )
    names = [feature.name for feature in run.model.features]
    assert names[-2:] == ["user_history", "item_history"]
    assert run.metrics["rmse"] < run.metrics["mean_predictor_rmse"]


def test_rare_values_and_weights_are_sampled(ratings, tmp_path):
    column = np.random.default_rng(0).uniform(0.5, 2.0, len(ratings))
    path = _table(ratings.assign(weight=column), tmp_path)
    config = TrainingConfig(
        data=str(path),
        features=["user", "item"],
        histories=True,
        min_count=25,
        weight="weight",
        **GIBBS,
    )
    run = train(config, tmp_path / "run")
    assert run.metrics["rmse"] < run.metrics["mean_predictor_rmse"]


def test_the_hint_is_for_ratings_of_moderate_size(run):
    assert "--method gibbs" in run.summary()
    config, columns = TrainingConfig(), ["user", "item", "age"]
    assert sampling_is_better(config, columns, 1_000_000)
    assert not sampling_is_better(config, columns, 50_000_000)
    assert not sampling_is_better(config, ["rooms", "area"], 1000)
    for other in ({"model": "deepfm"}, {"task": "binary"}, {"method": "gibbs"}):
        assert not sampling_is_better(TrainingConfig(**other), columns, 1000)


def test_a_run_works_like_any_other(sampled, tmp_path):
    evaluation = sampled.evaluate(k=5)
    assert evaluation.ratings["rmse"] == pytest.approx(sampled.metrics["rmse"])
    user, item = sampled.test_table()[["user", "item"]].iloc[0]
    assert len(sampled.recommend([user], 3)) == 3
    assert len(sampled.similar(item, 3)) == 3
    assert sampled.explain(user, item).text()
    assert sampled.export(tmp_path / "saved").exists()
    again = Run(sampled.path)
    np.testing.assert_array_equal(
        again.predict(again.test_table()), sampled.predict(sampled.test_table())
    )


def test_standard_deviations_are_those_of_the_samples(sampled):
    table = sampled.test_table()
    predicted, stddev = sampled.predict_with_std(table)
    np.testing.assert_array_equal(predicted, sampled.predict(table))
    samples = PosteriorSamples(sampled)
    assert len(samples) == 14
    errors = (table["rating"].to_numpy() - predicted) / stddev
    assert 0.8 < np.mean(errors**2) < 1.2
    # The mean of the samples is the model.
    mean, _ = samples.transformed(sampled.inputs(table))
    low, high = sampled.model.scaler.min_rating, sampled.model.scaler.max_rating
    np.testing.assert_allclose(mean.clip(low, high), predicted, atol=2e-5)


def test_intervals_cover_their_share_of_the_test_rows(sampled):
    table = sampled.test_table()
    moments = PosteriorSamples(sampled).transformed(sampled.inputs(table))
    shares = (0.8, 0.9, 0.95)
    observed = interval_coverage(sampled.config, *moments, table["rating"], shares)
    np.testing.assert_allclose(observed, shares, atol=0.03)


def test_standard_deviations_of_transformed_targets(ratings, tmp_path):
    """They follow the prediction, as the errors of counts do."""
    counts = ratings.assign(rating=np.expm1(ratings["rating"]).round())
    config = TrainingConfig(
        data=str(_table(counts, tmp_path)), target_transform="log1p", **GIBBS
    )
    run = train(config, tmp_path / "run")
    table = run.test_table()
    predicted, stddev = run.predict_with_std(table)
    assert np.corrcoef(predicted, stddev)[0, 1] > 0.9
    moments = PosteriorSamples(run).transformed(run.inputs(table))
    (observed,) = interval_coverage(config, *moments, table["rating"], [0.8])
    assert 0.7 < observed < 0.9


@pytest.mark.slow
def test_samples_with_histories_are_the_model(films, tmp_path):
    run = train(
        TrainingConfig(histories=True, **GIBBS), tmp_path / "run", dataset=films
    )
    inputs = run.inputs(run.test_table())
    mean, _ = PosteriorSamples(run).transformed(inputs)
    scaler = run.model.scaler
    np.testing.assert_allclose(
        mean.clip(scaler.min_rating, scaler.max_rating),
        run.predict(run.test_table()),
        atol=1e-4,
    )


def test_a_run_without_samples_has_no_standard_deviations(run, tmp_path, capsys):
    message = "need the samples of a run: train with `--method gibbs`"
    check_error(message, lambda: run.predict_with_std(run.test_table()))
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item\n1,2\n")
    assert cli.main(["predict", str(run.path), "--data", str(rows), "--std"]) == 1
    assert message in capsys.readouterr().err


def test_the_command_adds_a_column(sampled, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item\n1,2\nnobody,3\n")
    assert cli.main(["predict", str(sampled.path), "--data", str(rows), "--std"]) == 0
    written = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(written) == ["user", "item", "prediction", "std"]
    predicted, stddev = sampled.predict_with_std(sampled.read_rows(rows))
    np.testing.assert_allclose(written["prediction"], predicted, rtol=1e-6)
    np.testing.assert_allclose(written["std"], stddev, rtol=1e-6)
    rows.write_text("user,item,std\n1,2,3\n")
    assert cli.main(["predict", str(sampled.path), "--data", str(rows), "--std"]) == 1
    assert "has a column 'std'" in capsys.readouterr().err


def test_damaged_samples_are_noticed(sampled, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(sampled.path, copy)
    content = bytearray((copy / "samples.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "samples.npz").write_bytes(content)
    with pytest.raises(RunError, match="samples.npz"):
        Run(copy).check()
    with pytest.raises(RunError, match="samples.npz"):
        PosteriorSamples(Run(copy))


def test_pictures_show_the_trace_and_the_coverage(sampled, tmp_path):
    pytest.importorskip("matplotlib")
    written, _ = sampled.plot(tmp_path)
    names = [path.name for path in written]
    assert names[:3] == [
        "sampling_trace.png",
        "predicted_against_true.png",
        "interval_coverage.png",
    ]


def _scores_of_samples(run, user, keys):
    """Return the score of each item by each sample, from pairs."""
    samples = PosteriorSamples(run)
    pairs = pd.DataFrame({"user": [user] * len(keys), "item": keys})
    inputs = run.inputs(pairs)
    return np.array([predict(model, inputs) for model in samples.models()])


def test_upper_bounds_rank_by_mean_and_deviation(sampled):
    users = list(sampled.recommender().users[:3])
    recommender = sampled.recommender(explore="ucb")
    scores, positions = recommender.top_n(users, 5, include_seen=True)
    keys = recommender.catalog.keys
    for user, best, at in zip(users, scores, positions, strict=True):
        drawn = _scores_of_samples(sampled, user, keys)
        bounds = drawn.mean(axis=0) + drawn.std(axis=0)
        np.testing.assert_allclose(best, np.sort(bounds)[::-1][:5], atol=1e-4)
        np.testing.assert_allclose(bounds[at], best, atol=1e-4)


@pytest.mark.slow
def test_each_user_has_a_sample(sampled):
    users = list(sampled.recommender().users[:8])
    recommender = sampled.recommender(explore="thompson", seed=4)
    scores, positions = recommender.top_n(users, 4, include_seen=True)
    chosen = set()
    for user, best, at in zip(users, scores, positions, strict=True):
        drawn = _scores_of_samples(sampled, user, recommender.catalog.keys)
        distances = np.abs(drawn[:, at] - best).max(axis=1)
        chosen.add(int(distances.argmin()))
        assert distances.min() < 1e-4
        np.testing.assert_allclose(
            best, np.sort(drawn[distances.argmin()])[::-1][:4], atol=1e-4
        )
    assert len(chosen) > 2
    again = sampled.recommender(explore="thompson", seed=4)
    np.testing.assert_array_equal(
        again.top_n(users, 4, include_seen=True)[1], positions
    )
    other = sampled.recommender(explore="thompson", seed=5)
    assert (other.top_n(users, 4, include_seen=True)[1] != positions).any()


def test_exploration_leaves_out_seen_and_forbidden_items(sampled):
    recommender = sampled.recommender(explore="ucb")
    user = recommender.users[0]
    allowed = np.arange(len(recommender.catalog)) % 2 == 0
    _, positions = recommender.top_n([user], 200, allowed=allowed)
    seen = set(recommender.rated.padded([user])[0])
    expected = [i for i in np.flatnonzero(allowed) if i not in seen]
    assert sorted(positions[0][positions[0] >= 0]) == expected


def test_exploration_by_the_command(sampled, run, capsys):
    user = sampled.recommender().users[0]
    for method, options in (("ucb", []), ("thompson", ["--seed", "3"])):
        command = ["recommend", str(sampled.path), "--user", user, "--explore", method]
        assert cli.main([*command, *options]) == 0
        assert "Recommendations for user" in capsys.readouterr().out
    assert cli.main([*command[:-1], "ucb", "--seed", "3"]) == 1
    assert "`--seed` must be used with" in capsys.readouterr().err
    command = ["recommend", str(run.path), "--user", user, "--explore", "ucb"]
    assert cli.main(command) == 1
    assert "train with `--method gibbs`" in capsys.readouterr().err
    command = ["recommend", str(sampled.path), "--liked", "3", "--explore", "ucb"]
    assert cli.main(command) == 1
    assert "must be used without `--liked`" in capsys.readouterr().err


def _is_same(one, other):
    arrays = [dict(np.load(run.path / "samples.npz")) for run in (one, other)]
    for name, values in arrays[0].items():
        np.testing.assert_array_equal(arrays[1][name], values)
    same = weights(one.path), weights(other.path)
    columns = [c for c in one.history() if c != "seconds"]
    pd.testing.assert_frame_equal(one.history()[columns], other.history()[columns])
    return is_same(*same)


def test_an_interrupted_run_is_resumed(sampled, table, tmp_path, monkeypatch):
    config = TrainingConfig(data=str(table), **GIBBS)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(backups, "MIN_SECONDS", 0.0)
        patch.setattr(backups, "MIN_RATIO", 0.0)
        show = SweepProgress.__call__

        def interrupt(self, row):
            show(self, row)
            if row["sweep"] == 9:
                raise KeyboardInterrupt

        patch.setattr(SweepProgress, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, out)
    sweeps = []
    monkeypatch.setattr(
        SweepProgress, "__call__", lambda _, row: sweeps.append(row["sweep"])
    )
    run = train(config, out, resume=True)
    assert sweeps == list(range(9, 15))
    assert _is_same(run, sampled)
    assert not (out / "backup").exists()
    assert not (out / "progress.json").exists()


def test_damaged_progress_errors(table, tmp_path, monkeypatch):
    def interrupt(_, row):
        raise KeyboardInterrupt

    monkeypatch.setattr(SweepProgress, "__call__", interrupt)
    config = TrainingConfig(data=str(table), **GIBBS)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    progress = tmp_path / "run.partial" / "progress.json"
    progress.write_text('{"history": [{"sweep": 4}]}')
    with pytest.raises(RunError, match="progress.json is not the progress of a run"):
        train(config, tmp_path / "run", resume=True)


TRAIN = """
import sys
from fmlayers import cli
from fmlayers.bayes import backups, workers
from fmlayers.bayes.likelihoods import normal_cdf
from fmlayers.bayes import backups
backups.MIN_SECONDS = backups.MIN_RATIO = 0.0
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_is_resumed_to_the_same_samples(sampled, table, tmp_path):
    out = tmp_path / "run"
    progress = tmp_path / "run.partial" / "progress.json"
    command = ["train", "--data", str(table), "--out", str(out)]
    for name, value in GIBBS.items():
        command += [f"--{name}", str(value)]
    for sweeps in (3, 8):
        resume = ["--resume"] if sweeps > 3 else []
        process = subprocess.Popen([sys.executable, "-c", TRAIN, *command, *resume])
        deadline = time.monotonic() + 120
        while _sweeps(progress) < sweeps:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    assert cli.main([*command, "--resume"]) == 0
    assert _is_same(Run(out), sampled)


@pytest.mark.slow
def test_worker_processes_give_the_same_samples(sampled, table, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "MIN_PARALLEL_WORK", 1)
    monkeypatch.setattr(sampling, "_cores", lambda: 2)
    started = []
    start = workers.Workers.__init__
    monkeypatch.setattr(
        workers.Workers,
        "__init__",
        lambda self, *args: (started.append(args[1]), start(self, *args))[1],
    )
    run = train(TrainingConfig(data=str(table), **GIBBS), tmp_path / "run")
    assert started == [2]
    assert _is_same(run, sampled)


def _sweeps(progress):
    try:
        return len(json.loads(progress.read_text())["history"])
    except (OSError, ValueError):  # not there yet
        return 0


def _table(ratings: pd.DataFrame, folder):
    path = folder / "data.csv"
    write_csv(ratings, path)
    return path
