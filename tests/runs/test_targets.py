"""Each task trains from a table with its kind of target, or names the remedy."""

import numpy as np
import pandas as pd
import pytest
from checks import check_error

from fmlayers.cli import main
from fmlayers.data import DataError, read_ratings, write_csv
from fmlayers.metrics import auc, log_loss
from fmlayers.runs import Run, TrainingConfig, train

COLORS = np.array(["red", "green", "blue"])


@pytest.fixture(scope="module")
def clicks():
    """A table without users and items, whose label depends on a pair of columns."""
    rng = np.random.default_rng(0)
    color, size = COLORS[rng.integers(3, size=2000)], rng.normal(size=2000)
    logit = 2.0 * np.where(color == "red", size, -size) - 1.0
    label = rng.random(2000) < 1.0 / (1.0 + np.exp(-logit))
    return pd.DataFrame({"clicked": label.astype(int), "color": color, "size": size})


def saved(table, folder, name="clicks.csv"):
    write_csv(table, folder / name)
    return str(folder / name)


@pytest.fixture(scope="module")
def label_run(clicks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    config = TrainingConfig(
        data=saved(clicks, folder), task="binary", target="clicked", dim=4, max_epochs=5
    )
    return train(config, folder / "run")


def test_a_label_is_predicted_by_a_probability(label_run, clicks):
    assert label_run.config.loss == "bce"
    assert label_run.config.to_dict()["task"] == "binary"
    table = label_run.test_table()
    p = label_run.predict(table)
    labels = table["rating"].to_numpy()
    metrics = label_run.metrics
    assert set(labels) == {0.0, 1.0}
    np.testing.assert_allclose(metrics["auc"], auc(labels, p), rtol=1e-6)
    np.testing.assert_allclose(metrics["log_loss"], log_loss(labels, p), rtol=1e-6)
    assert metrics["auc"] > 0.8  # 0.87 for the true probabilities
    assert metrics["log_loss"] < metrics["mean_predictor_log_loss"] - 0.1
    assert metrics["calibration_error"] < 0.1
    assert "PR-AUC" in label_run.summary()


def test_a_run_without_users_evaluates_explains_and_draws(label_run, tmp_path):
    evaluation = label_run.evaluate()
    assert evaluation.top_n == evaluation.ratings == {}
    assert evaluation.labels["auc"] == label_run.metrics["auc"]
    assert "calibration error" in evaluation.text()
    assert "top 25" not in evaluation.text()
    assert "color" in label_run.explain_fields().text()
    names = {path.name for path in label_run.plot(tmp_path)[0]}
    assert {"predicted_labels.png", "learning_curves.png"} <= names
    assert "predicted_against_true.png" not in names


@pytest.mark.parametrize(
    "ask",
    [
        lambda run: run.recommend([1]),
        lambda run: run.recommender(),
        lambda run: run.similar("red"),
        lambda run: run.explain(1, 2),
    ],
)
def test_what_needs_users_and_items_says_so(ask, label_run):
    with pytest.raises(ValueError, match="users|items"):
        ask(label_run)


def test_the_command_predicts_probabilities(label_run, clicks, tmp_path, capsys):
    rows = saved(clicks.drop(columns="clicked").head(7), tmp_path, "rows.csv")
    out = tmp_path / "out.csv"
    assert (
        main(["predict", str(label_run.path), "--data", rows, "--out", str(out)]) == 0
    )
    expected = label_run.predict(clicks.head(7))
    np.testing.assert_allclose(pd.read_csv(out)["prediction"], expected, rtol=1e-5)
    assert main(["evaluate", str(label_run.path)]) == 0
    assert "log loss" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
def test_an_export_answers_probabilities(label_run, clicks, tmp_path, backend):
    if backend != "tensorflow":
        pytest.skip("exports are TensorFlow's")
    import tensorflow as tf

    path = label_run.export(tmp_path / "served")
    serve = tf.saved_model.load(str(path)).signatures["serve_raw"]
    rows = clicks.head(5)
    outputs = serve(
        color=tf.constant(rows["color"]), size=tf.constant(rows["size"], tf.float32)
    )
    np.testing.assert_allclose(
        outputs["probability"][:, 0], label_run.predict(rows), atol=1e-6
    )


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["0", "1", "1"], None),
        (["-1", "1", "1"], "the label is 1 for clicked 1 and 0 for -1"),
        (["1", "2", "2"], "the label is 1 for clicked 2 and 0 for 1"),
        (["no", "yes", "yes"], "the label is 1 for clicked 'yes' and 0 for 'no'"),
        (["False", "True", "True"], "1 for clicked 'True' and 0 for 'False'"),
    ],
)
def test_labels_may_be_any_two_values(cells, sentence, tmp_path):
    path = saved(pd.DataFrame({"clicked": cells, "x": [1, 2, 3]}), tmp_path)
    data = read_ratings(path, rating="clicked", is_label=True, needs_pairs=False)
    assert data.ratings["rating"].tolist() == [0.0, 1.0, 1.0]
    assert not data.has_pairs
    if sentence is None:
        assert data.repairs == ()
    else:
        assert sentence in data.repairs[0]


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        (["0", "1", "2"], "must have two values. Received: 3 values, 0.0, 1.0, 2.0"),
        (["1", "1", "1"], "Received: 1 values"),
        (["a", "b", "c"], "Received: 3 values, a, b, c. Predict a number"),
        (["0", "1", ""], r"clicks.csv, line 4: the label in column 'clicked' is miss"),
    ],
)
def test_other_targets_are_no_labels(cells, match, tmp_path):
    path = saved(pd.DataFrame({"clicked": cells, "x": [1, 2, 3]}), tmp_path)
    with pytest.raises(DataError, match=match):
        read_ratings(path, rating="clicked", is_label=True, needs_pairs=False)


def test_users_and_items_that_are_named_must_be_there(clicks, tmp_path):
    path = saved(clicks, tmp_path)
    for role, name in (("user", "who"), ("item", "what")):
        with pytest.raises(DataError, match=f"no column '{name}'"):
            read_ratings(path, rating="clicked", needs_pairs=False, **{role: name})
    with pytest.raises(DataError, match="no column 'user'"):
        read_ratings(path, rating="clicked")


def test_a_threshold_turns_ratings_into_labels(make_config, tmp_path):
    config = make_config(task="binary", positive_threshold=4, max_epochs=1)
    run = train(config, tmp_path / "run")
    loaded, raw = run.dataset().ratings, pd.read_csv(config.data)
    np.testing.assert_array_equal(loaded["rating"], raw["rating"] >= 4)
    evaluation = run.evaluate(k=5)
    assert evaluation.relevant == "test items with a rating of at least 0.5"
    assert 0.5 < evaluation.labels["auc"] < 1.0
    assert Run(run.path).config == config
    for threshold in (0, 6):
        with pytest.raises(DataError, match="targets on both sides"):
            train(
                make_config(task="binary", positive_threshold=threshold), tmp_path / "x"
            )


def test_ratings_without_a_threshold_are_no_labels(make_config, tmp_path):
    with pytest.raises(DataError, match="5 values, 1.0, 2.0, .*`positive_threshold`"):
        train(make_config(task="binary"), tmp_path / "run")
    with pytest.raises(DataError, match="5 values from 1 to 5. Choose the positives"):
        train(make_config(task="binary", data="synthetic"), tmp_path / "run")


def test_implicit_feedback_trains_on_the_positives_alone(make_config, tmp_path):
    config = make_config(task="implicit", positive_threshold=5, max_epochs=1)
    assert config.loss == "bpr"
    run = train(config, tmp_path / "run")
    train_rows = run.split(run.dataset()).train
    positives = (run.dataset().ratings["rating"].iloc[train_rows] >= 5).sum()
    assert run.metrics["rows"]["train"] == positives
    assert run.evaluate(k=5).relevant == "test items with a rating of at least 5"


def test_a_label_is_not_taken_for_implicit_feedback(clicks, tmp_path):
    table = clicks.rename(columns={"color": "user"}).assign(item=range(len(clicks)))
    options = {"data": saved(table, tmp_path), "target": "clicked", "loss": "bce"}
    with pytest.raises(DataError, match="is a label, 0 or 1. Predict it with the task"):
        train(TrainingConfig(**options), tmp_path / "run")
    options["data"] = saved(table.drop(columns="item"), tmp_path)
    with pytest.raises(DataError, match="no column 'item'"):
        train(TrainingConfig(**options), tmp_path / "run")


def test_task_and_loss_agree():
    assert TrainingConfig(loss="bpr").task == TrainingConfig(loss="bce").task
    assert TrainingConfig(loss="bpr").task == "implicit"
    assert TrainingConfig().task == TrainingConfig(loss="mse").task == "regression"
    for task, loss in (("regression", "mse"), ("binary", "bce"), ("implicit", "bpr")):
        assert TrainingConfig(task=task).loss == loss
    check_error(
        "`loss` must be bce for the task 'binary'. Received: loss='mse'",
        lambda: TrainingConfig(task="binary", loss="mse"),
    )
    check_error(
        "`positive_threshold` must be left out for the task 'regression'",
        lambda: TrainingConfig(positive_threshold=4),
    )
    check_error("`task` must be", lambda: TrainingConfig(task="clicks"))


def test_the_records_of_version_0_1_mean_the_same():
    record = {"loss": "bce", "rating": "stars"}
    config = TrainingConfig.from_dict(record)
    assert (config.task, config.target) == ("implicit", "stars")
    assert TrainingConfig.from_dict({"loss": "mse"}).on_duplicate == "last"
    assert TrainingConfig(loss="mse").on_duplicate == "keep"


REPEATED = "user,item,rating,hour\na,x,1,1\nb,x,2,1\na,x,3,2\na,y,4,1\na,x,5,3\n"


@pytest.mark.parametrize(
    ("how", "ratings", "sentence"),
    [
        ("keep", [1, 2, 3, 4, 5], "kept 2 of 5 rows that repeat a user and an item"),
        ("last", [2, 4, 5], "dropped 2 of 5 rows, each replaced by a later row"),
        ("mean", [2, 4, 3], "whose rating is the mean of theirs"),
        ("sum", [2, 4, 9], "whose rating is the sum of theirs"),
        ("count", [1, 1, 3], "whose rating is the count of theirs"),
    ],
)
def test_repeated_rows(how, ratings, sentence, tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text(REPEATED)
    data = read_ratings(path, on_duplicate=how)
    assert data.ratings["rating"].tolist() == ratings
    assert sentence in data.repairs[0]
    if how != "keep":
        assert data.ratings["hour"].tolist() == [1, 1, 3]
