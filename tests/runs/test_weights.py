from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error

from fmlayers.data import DataError, Dataset, infer_columns, read_ratings, write_csv
from fmlayers.metrics import auc, calibration_error, log_loss, mae, pr_auc, rmse
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.examples import Examples
from fmlayers.runs.fitting import compiled_model
from fmlayers.runs.model import build_model
from fmlayers.runs.targets import with_targets

ROWS = np.arange(600)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(4)
    user, item = rng.integers(0, 30, 600), rng.integers(0, 20, 600)
    stars = np.clip(np.round(3 + (user % 3) - (item % 4) + rng.normal(size=600)), 1, 5)
    return pd.DataFrame(
        {
            "user": [f"u{key}" for key in user],
            "item": [f"i{key}" for key in item],
            "rating": stars,
            "cost": rng.choice([0.0, 1.0, 2.0, 3.0], 600),
            "two": 2.0,
        }
    ).drop_duplicates(["user", "item"], ignore_index=True)


@pytest.fixture(scope="module")
def path(table, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "shop.csv"
    write_csv(table, file)
    return file


def config_of(path, **changes):
    small = {
        "data": str(path) or "synthetic",
        "features": ("user", "item"),
        "dim": 4,
        "max_epochs": 2,
        "batch_size": 64,
    }
    return TrainingConfig(**small | changes)


TASKS = {
    "regression": {},
    "binary": {"task": "binary", "positive_threshold": 3.5},
    "bpr": {"task": "implicit", "on_duplicate": "keep"},
    "bce": {"task": "implicit", "loss": "bce", "on_duplicate": "keep"},
    "members": {"members": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_equal_weights_change_nothing(task, path, tmp_path):
    settings = TASKS[task]
    plain = train(config_of(path, **settings), tmp_path / "plain")
    weighted = train(config_of(path, weight="two", **settings), tmp_path / "weighted")
    for a, b in zip(
        plain.model.get_weights(), weighted.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for name, value in plain.metrics.items():
        if isinstance(value, float) and name != "seconds":
            np.testing.assert_allclose(value, weighted.metrics[name], rtol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_and_the_metric_are_weighted_means(task, table, path):
    """An integer weight equals repeated rows; see the first step of training."""
    config = config_of(path, weight="cost", **TASKS[task])
    data = with_targets(
        read_ratings(path, rating=config.target, weight="cost", on_duplicate="keep"),
        config,
    )
    rows = np.arange(len(table))
    examples = Examples(config, infer_columns(data, ["user", "item"]), data, rows, rows)
    model = compiled_model(config, examples, 64)
    batches = examples.batches(len(rows))
    inputs, targets, weights = batches[0]
    np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-5)
    scores = keras.ops.convert_to_numpy(model(inputs))
    of_rows = repeated_loss(task, config, targets, scores[:, 0])
    expected = np.average(of_rows, weights=weights)
    evaluated = model.evaluate(
        inputs,
        targets,
        sample_weight=weights,
        batch_size=len(weights),
        verbose=0,
        return_dict=True,
    )
    metric = next(value for name, value in evaluated.items() if name != "loss")
    root = "regression" in task or task == "members"
    np.testing.assert_allclose(
        metric, np.sqrt(expected) if root else expected, rtol=1e-4
    )


def repeated_loss(task, config, targets, scores):
    """Return the loss of each row, in float64."""
    y, s = targets.astype(np.float64), scores.astype(np.float64)
    if config.loss == "mse":
        return (y - s) ** 2
    if config.loss == "bce":
        return np.logaddexp(0.0, s) - y * s
    groups = s.reshape(-1, 1 + config.negatives)
    losses = np.logaddexp(0.0, groups[:, 1:] - groups[:, :1]).mean(axis=1)
    return np.repeat(losses, 1 + config.negatives)


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_an_integer_weight_starts_the_bias_like_repeated_rows(task, table, path):
    config = config_of(path, weight="cost", **TASKS[task])
    data = with_targets(read_ratings(path, weight="cost", on_duplicate="keep"), config)
    columns = infer_columns(data, ["user", "item"])
    encoder = Examples(config, columns, data, np.arange(len(table))).encoder
    rows = data.table()
    twice = rows.loc[rows.index.repeat(rows["cost"].astype(int))]
    plain = replace(config, weight=None)
    biases = [
        float(keras.ops.convert_to_numpy(model.rating(model.bias))[0])
        for model in (
            build_model(config, encoder, rows),
            build_model(plain, encoder, twice),
        )
    ]
    np.testing.assert_allclose(biases[0], biases[1], rtol=1e-5)
    assert biases[0] != float(rows["rating"].mean())


@pytest.mark.slow
def test_the_metrics_of_a_run_are_those_of_scikit_learn(table, path, tmp_path):
    sklearn = pytest.importorskip("sklearn.metrics")
    run = train(config_of(path, weight="cost"), tmp_path / "stars")
    test = run.test_table()
    predicted, w = run.predict(test), test["cost"].to_numpy()
    y = test["rating"]
    squared = sklearn.mean_squared_error(y, predicted, sample_weight=w)
    absolute = sklearn.mean_absolute_error(y, predicted, sample_weight=w)
    np.testing.assert_allclose(run.metrics["rmse"], np.sqrt(squared))
    np.testing.assert_allclose(run.metrics["mae"], absolute)
    assert run.evaluate().ratings["rmse"] == run.metrics["rmse"]
    assert "weights: cost, from 0 to 3" in run.summary()

    binary = config_of(path, weight="cost", **TASKS["binary"])
    run = train(binary, tmp_path / "labels")
    test = run.test_table()
    p, w, y = run.predict(test), test["cost"].to_numpy(), test["rating"]
    expected = {
        "log_loss": sklearn.log_loss(y, p.astype(np.float64), sample_weight=w),
        "auc": sklearn.roc_auc_score(y, p, sample_weight=w),
        "pr_auc": sklearn.average_precision_score(y, p, sample_weight=w),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(run.metrics[name], value, rtol=1e-6)
    assert run.metrics["auc"] != auc(y, p)
    write = run.plot(tmp_path / "pictures")[0]
    assert any(file.name == "predicted_labels.png" for file in write)


def test_integer_weights_are_repeated_rows_in_all_metrics(rng):
    y, p = rng.integers(0, 2, 200), rng.random(200)
    w = rng.integers(0, 4, 200)
    rows = np.repeat(np.arange(200), w)
    for metric in (rmse, mae, log_loss, auc, pr_auc, calibration_error):
        weighted = metric(y, p, w)
        np.testing.assert_allclose(weighted, metric(y[rows], p[rows]), atol=1e-12)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "-1",
            r"bad.csv, line 3: the weight in column 'w' must be a finite number of "
            r"at least 0, read '-1'",
        ),
        ("inf", "line 3: the weight in column 'w' must be"),
        ("much", "line 3: the weight in column 'w' .* read 'much'"),
        ("", "line 3: the weight in column 'w' .* read an empty cell"),
    ],
)
def test_bad_weights_are_refused_with_their_line(cell, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(f"user,item,rating,w\na,x,1,1\nb,y,2,{cell}\nc,z,3,1\n")
    with pytest.raises(DataError, match=message):
        read_ratings(path, weight="w")


def test_weights_of_zero_are_refused(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("user,item,rating,w\na,x,1,0\nb,y,2,0\n")
    with pytest.raises(DataError, match="must not all be 0"):
        read_ratings(path, weight="w")
    rows = ["user,item,rating,w"]
    rows += [f"a{i},x{i},{i % 5},{int(i == 0)}" for i in range(40)]
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match="must not all be 0 in the training rows"):
        train(config_of(path, weight="w"), tmp_path / "run")


def test_the_column_of_weights_is_no_feature(path, table):
    data = read_ratings(path, weight="cost")
    assert "cost" not in infer_columns(data)
    assert "cost" in infer_columns(read_ratings(path))
    with pytest.raises(ValueError, match="must not contain 'cost', the weights"):
        infer_columns(data, ["user", "cost"])
    with pytest.raises(DataError, match="has no column 'absent' for `weight`"):
        read_ratings(path, weight="absent")
    with pytest.raises(ValueError, match="must be different"):
        read_ratings(path, weight="rating")
    with pytest.raises(DataError, match="Row 2: the weight in column 'w' must be"):
        Dataset(
            "shop", table.assign(w=[1.0, -1.0, *[1.0] * (len(table) - 2)]), weight="w"
        )


def test_other_weights_are_other_data(path, table):
    data = read_ratings(path, weight="cost")
    changed = Dataset("shop", data.ratings.assign(cost=1.0), weight="cost")
    assert data.fingerprint() != changed.fingerprint()
    same = Dataset("shop", data.ratings, weight="cost")
    assert data.fingerprint() == same.fingerprint()


def test_the_weight_of_a_label_is_for_labels():
    check_error(
        "`positive_weight` must be left out for the task 'regression'",
        lambda: TrainingConfig(positive_weight=3.0),
    )
    check_error(
        "`positive_weight` must be positive",
        lambda: TrainingConfig(task="binary", positive_weight=0.0),
    )


def test_weights_of_tables_in_memory(table, tmp_path):
    data = Dataset("shop", table, weight="cost")
    with pytest.raises(DataError, match="must be named in the configuration, too"):
        train(config_of(""), tmp_path / "run", dataset=data)
    config = config_of("", weight="cost", max_epochs=1)
    of_dataset = train(config, tmp_path / "one", dataset=data)
    of_frame = train(config, tmp_path / "two", dataset=table)
    assert of_dataset.metrics["rmse"] == of_frame.metrics["rmse"]


def test_a_weight_per_item_stays_with_the_rows(table, tmp_path):
    per_item = table.assign(cost=table["item"].str[1:].astype(float) % 3)
    config = config_of("", weight="cost", max_epochs=1, on_duplicate="keep")
    run = train(config, tmp_path / "run", dataset=per_item)
    assert "weights: cost, from 0 to 2" in run.summary()
    assert "cost" not in run.encoder.columns
