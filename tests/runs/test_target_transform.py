import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, RatingScaler
from fmlayers.data import DataError, synthetic, write_csv
from fmlayers.metrics import rmsle
from fmlayers.models import FactorizationMachine
from fmlayers.retrieval import TopN, fold_in
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.targets import transform_hint

USER, ITEM = Categorical("user", 9), Categorical("item", 7)


@pytest.fixture(scope="module")
def counts():
    """Plays with a long tail, and their logarithms as another target."""
    table = synthetic(num_users=60, num_items=40, num_ratings=1500).ratings
    noise = np.random.default_rng(0).normal(size=len(table))
    plays = np.floor(np.exp(1.2 * table["rating"].to_numpy() - 1.5 + 0.3 * noise))
    return table[["user", "item"]].assign(plays=plays, logarithm=np.log1p(plays))


@pytest.fixture(scope="module")
def config(counts, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "plays.csv"
    write_csv(counts, path)

    def make(**changes):
        small = {"data": str(path), "features": ("user", "item"), "target": "plays"}
        small |= {"dim": 4, "max_epochs": 3, "batch_size": 128}
        return TrainingConfig(**small | changes)

    return make


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "log1p"
    return train(config(target_transform="log1p"), out)


def test_training_is_that_on_the_logarithms(run, config, tmp_path):
    plain = train(config(target="logarithm"), tmp_path / "logarithms")
    names = {"rmsle": "rmse", "validation_rmsle": "validation_rmse"}
    for name, of_logarithm in names.items():
        expected = plain.metrics[of_logarithm]
        np.testing.assert_allclose(run.metrics[name], expected, rtol=1e-4)
    rows = plain.test_table()
    np.testing.assert_allclose(
        np.log1p(run.predict(rows)), plain.predict(rows), rtol=1e-4, atol=1e-4
    )


def test_predictions_and_metrics_are_in_the_unit_of_the_target(run):
    rows = run.test_table()
    predicted, targets = run.predict(rows), rows["rating"]
    errors = predicted - targets
    np.testing.assert_allclose(run.metrics["rmse"], np.sqrt(np.mean(errors**2)))
    np.testing.assert_allclose(run.metrics["mae"], np.mean(np.abs(errors)))
    np.testing.assert_allclose(run.metrics["rmsle"], rmsle(targets, predicted))
    assert predicted.max() > 20.0
    assert predicted.min() >= 0.0
    assert "RMSLE" in run.summary()
    assert "RMSLE" in run.evaluate(k=5).text()
    assert "val_rmsle" in run.history()


def test_the_score_is_the_logarithm(run):
    model = run.model
    assert (model.scaler.scale, model.scaler.offset) == (1.0, 0.0)
    assert model.scaler.transform == "log1p"
    inputs = run.inputs(run.test_table())
    low, high = model.scaler.bounds
    scores = np.clip(ops.convert_to_numpy(model.score(inputs)), low, high)
    ratings = ops.convert_to_numpy(model(inputs))
    np.testing.assert_allclose(np.log1p(ratings), scores, rtol=1e-4, atol=1e-5)
    row = run.test_table().iloc[0]
    report = run.explain(row["user"], row["item"])
    total = report.parts.bias + report.parts.matrix.sum() + report.parts.rest[0]
    expected = np.expm1(np.clip(total, low, high))
    np.testing.assert_allclose(report.rating, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"scaler": "sigmoid"}, {"scaler": "none", "members": 2}]
)
def test_every_scaler_and_ensembles_learn_it(settings, run, config, tmp_path):
    other = train(config(target_transform="log1p", **settings), tmp_path / "run")
    assert other.metrics["rmsle"] < 0.9 * other.metrics["mean_predictor_rmsle"]
    assert run.metrics["rmsle"] < 0.9 * run.metrics["mean_predictor_rmsle"]


def test_what_cannot_be_transformed_is_refused(config, counts, tmp_path):
    path = tmp_path / "below.csv"
    write_csv(counts.assign(plays=counts["plays"] - 1.0), path)
    with pytest.raises(DataError, match=r"must be at least 0 .* Received: -1"):
        train(config(data=str(path), target_transform="log1p"), tmp_path / "run")
    check_error(
        "`target_transform` must be left out for the task 'binary'",
        lambda: TrainingConfig(task="binary", target_transform="log1p"),
    )
    check_error(
        "`target_transform` must be", lambda: TrainingConfig(target_transform="sqrt")
    )


def test_a_long_tail_is_pointed_out(rng):
    long = {
        "prices": rng.lognormal(4.0, 1.0, 3000),
        "plays": rng.negative_binomial(0.5, 0.02, 3000),
        "sales": np.floor(rng.pareto(1.2, 3000)),
    }
    short = {
        "stars": rng.choice([1, 2, 3, 4, 5], 3000, p=[0.06, 0.11, 0.27, 0.34, 0.22]),
        "shares": rng.random(3000),
        "scores": rng.normal(0.0, 5.0, 3000),
        "labels": rng.random(3000) < 0.02,
        "a mistyped star": np.append(rng.choice([1, 2, 3, 4, 5], 3000), 1e6),
        "one number": np.full(3000, 7.0),
        "logarithms": np.log1p(long["prices"]),
    }
    config = TrainingConfig()
    for name, values in long.items():
        (line,) = transform_hint(config, pd.Series(values, dtype=float))
        assert "--target-transform log1p" in line, name
        assert f"highest {values.max():g}" in line
    for name, values in short.items():
        assert not transform_hint(config, pd.Series(values, dtype=float)), name
    transformed = TrainingConfig(target_transform="log1p")
    assert not transform_hint(transformed, pd.Series(long["prices"]))
    labels = TrainingConfig(task="binary")
    assert not transform_hint(labels, pd.Series(long["prices"]))


def test_the_hint_is_printed_before_training(config, tmp_path, capfd):
    run = train(config(max_epochs=1), tmp_path / "run")
    assert "--target-transform log1p" in capfd.readouterr().err
    assert "--target-transform log1p" in run.summary()


def test_a_new_user_is_folded_in_on_the_logarithms(rng):
    def top_of(scaler):
        model = FactorizationMachine([USER, ITEM], 3, scaler)
        for weight in model.trainable_weights:
            weight.assign(np.random.default_rng(5).normal(size=weight.shape))
        return TopN(model, ["item"], 7).index({"item": np.arange(7)})

    positions, plays = np.array([1, 4, 6]), np.array([0.0, 12.0, 300.0])
    of_counts = RatingScaler(0, 1000, "clip", transform="log1p")
    of_logarithms = RatingScaler(0, np.log1p(1000), "clip")
    for ratings in (plays, None):
        known = [positions, ratings]
        logarithms = [positions, None if ratings is None else np.log1p(ratings)]
        for a, b in zip(
            fold_in(top_of(of_counts), *known),
            fold_in(top_of(of_logarithms), *logarithms),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    check_error(
        "`ratings` must be at least 0",
        lambda: fold_in(top_of(of_counts), positions, [-1.0, 2.0, 3.0]),
    )


@pytest.mark.slow
def test_exports_predict_in_the_unit_of_the_target(run, tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exports need TensorFlow")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    rows = run.test_table()
    inputs = {name: x.astype("int64") for name, x in run.inputs(rows).items()}
    expected = run.predict(rows)
    saved = tf.saved_model.load(str(run.export(tmp_path / "saved", "saved_model")))
    serve = saved.signatures.get("encoded", saved.signatures["serving_default"])
    names = set(serve.structured_input_signature[1])
    if names == set(inputs):
        found = serve(**{name: tf.constant(x) for name, x in inputs.items()})
    else:
        texts = {n: tf.constant(rows[n].astype(str).tolist()) for n in names}
        found = serve(**texts)
    np.testing.assert_allclose(np.ravel(found["rating"]), expected, rtol=1e-4)
    lite = run.export(tmp_path / "model.tflite", "litert")
    runner = Interpreter(model_path=str(lite)).get_signature_runner()
    found = runner(**inputs)
    np.testing.assert_allclose(np.ravel(found["rating"]), expected, rtol=1e-4)
    session = onnxruntime.InferenceSession(run.export(tmp_path / "m.onnx", "onnx"))
    outputs = [output.name for output in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, inputs), strict=True))
    np.testing.assert_allclose(np.ravel(found["rating"]), expected, rtol=1e-4)
