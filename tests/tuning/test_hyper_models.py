"""The `HyperModel`s with the tuners of KerasTuner."""

import keras
import keras_tuner
import numpy as np
import pytest

import fmlayers
from fmlayers import tuning
from fmlayers.models import (
    DeepFM,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

USER, FILM = fmlayers.Categorical("user", 30), fmlayers.Categorical("film", 20)
FEATURES = [USER, FILM, fmlayers.MultiCategorical("genres", 6)]
RMSE = keras_tuner.Objective("val_rmse", "min")
OPTIONS = {"bounds": (1, 5), "mean": 3.5}
OF_FIELDS = {
    "fm": (tuning.HyperFactorizationMachine, FactorizationMachine),
    "libfm": (tuning.HyperLibFM, LibFM),
    "deepfm": (tuning.HyperDeepFM, DeepFM),
}
OF_USER_AND_ITEM = {
    "mf": (tuning.HyperMatrixFactorization, MatrixFactorization),
    "neumf": (tuning.HyperNeuralMatrixFactorization, NeuralMatrixFactorization),
}


def hyper_model(name, **options):
    if name in OF_FIELDS:
        return OF_FIELDS[name][0](FEATURES, **OPTIONS, **options)
    return OF_USER_AND_ITEM[name][0](USER, FILM, **OPTIONS, **options)


def every_model():
    return tuning.HyperChoice({n: hyper_model(n) for n in OF_USER_AND_ITEM | OF_FIELDS})


def small(*scopes):
    """Return hyperparameters that limit a space to small models."""
    hp = keras_tuner.HyperParameters()
    for scope in scopes or [""]:
        hp.Int(f"{scope}dim", 2, 4, default=2)
        hp.Fixed(f"{scope}batch_size", 64)
    return hp


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    rows = {
        "user": rng.integers(0, 30, 256),
        "film": rng.integers(0, 20, 256),
        "genres": rng.integers(0, 6, (256, 2)),
    }
    ratings = rng.integers(1, 6, 256).astype("float32")
    half = {name: x[:128] for name, x in rows.items()}
    rest = {name: x[128:] for name, x in rows.items()}
    return (half, ratings[:128]), (rest, ratings[128:])


def search(tuner, batches, **options):
    (x, y), validation = batches
    tuner.search(x, y, validation_data=validation, verbose=0, **options)
    return list(tuner.oracle.trials.values())


def values(trials):
    return [trial.hyperparameters.values for trial in trials]


def names(trials):
    return {name for actual in values(trials) for name in actual}


def check_score(model, tuner, validation):
    """Check that the best model predicts what its trial was scored by."""
    x, y = validation
    actual = np.sqrt(np.mean((model.predict(x, verbose=0)[:, 0] - y) ** 2))
    best = tuner.oracle.get_best_trials()[0]
    np.testing.assert_allclose(actual, best.score, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OF_FIELDS, *OF_USER_AND_ITEM])
def test_each_model_is_searched(name, batches, tmp_path):
    kind = (OF_FIELDS | OF_USER_AND_ITEM)[name][1]
    tuner = keras_tuner.RandomSearch(
        hyper_model(name),
        objective=RMSE,
        max_trials=1,
        seed=0,
        hyperparameters=small(),
        directory=tmp_path,
    )
    trials = search(tuner, batches, epochs=1)
    assert [trial.status for trial in trials] == ["COMPLETED"]
    (model,) = tuner.get_best_models()
    assert type(model) is kind
    check_score(model, tuner, batches[1])
    expected = {"dim", "l2", "init_stddev", "scaler", "optimizer", "batch_size"}
    expected |= {f"learning_rate/{o}" for o in {v["optimizer"] for v in values(trials)}}
    expected |= {"linear_l2"} if name != "neumf" else set()
    expected |= {"combiner"} if name in OF_FIELDS else set()
    expected |= {"hidden_units", "dropout"} if name in ("deepfm", "neumf") else set()
    assert names(trials) == expected
    assert {v["batch_size"] for v in values(trials)} == {64}
    assert {v["dim"] for v in values(trials)} <= {2, 3, 4}


@pytest.mark.slow
def test_features_of_any_name_are_searched(batches, tmp_path):
    odd = {"user": "$ the user/", "film": "film: 日本"}
    batches = tuple(({odd[n]: x[n] for n in odd}, y) for x, y in batches)
    features = [fmlayers.Categorical(odd["user"], 30)]
    features += [fmlayers.Categorical(odd["film"], 20)]
    tuner = keras_tuner.RandomSearch(
        tuning.HyperDeepFM(features, **OPTIONS, by_field=True),
        objective=RMSE,
        max_trials=1,
        seed=0,
        hyperparameters=small(),
        directory=tmp_path,
    )
    trials = search(tuner, batches, epochs=1)
    assert [trial.status for trial in trials] == ["COMPLETED"]
    assert {f"l2/{name}" for name in odd.values()} <= names(trials)
    (model,) = tuner.get_best_models()
    check_score(model, tuner, batches[1])


@pytest.mark.slow
def test_hyperband_sets_the_epochs(batches, tmp_path):
    tuner = keras_tuner.Hyperband(
        hyper_model("fm"),
        objective=RMSE,
        max_epochs=2,
        factor=2,
        seed=0,
        hyperparameters=small(),
        directory=tmp_path,
    )
    trials = search(tuner, batches)
    assert all(trial.status == "COMPLETED" for trial in trials)
    assert "epochs" not in names(trials)
    assert {t.hyperparameters.values["tuner/epochs"] for t in trials} == {1, 2}


def test_epochs_are_searched_by_default(batches, tmp_path):
    hp = small()
    hp.Fixed("epochs", 2)
    tuner = keras_tuner.BayesianOptimization(
        hyper_model("mf"),
        objective=RMSE,
        max_trials=1,
        hyperparameters=hp,
        directory=tmp_path,
    )
    (trial,) = search(tuner, batches)
    assert len(trial.metrics.metrics["val_rmse"].get_history()) == 1
    assert trial.hyperparameters.values["epochs"] == 2


@pytest.mark.slow
def test_one_of_several_models_is_chosen(batches, tmp_path):
    tuner = keras_tuner.RandomSearch(
        every_model(),
        objective=RMSE,
        max_trials=3,
        seed=1,
        hyperparameters=small(*(f"{name}/" for name in OF_USER_AND_ITEM | OF_FIELDS)),
        directory=tmp_path,
    )
    trials = search(tuner, batches, epochs=1)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3
    chosen = values(trials)
    assert len({actual["model"] for actual in chosen}) > 1
    for actual in chosen:
        name = actual["model"]
        scoped = {n for n in actual if n != "model"}
        assert {n.split("/")[0] for n in scoped if "/" in n} >= {name}
        assert (f"{name}/dropout" in actual) == (name in ("deepfm", "neumf"))
        assert actual[f"{name}/dim"] <= 4
        assert actual[f"{name}/batch_size"] == 64
    (model,) = tuner.get_best_models()
    best = tuner.get_best_hyperparameters()[0].values["model"]
    assert type(model) is (OF_FIELDS | OF_USER_AND_ITEM)[best][1]


def test_ready_batches_keep_their_size(batches):
    (x, y), _ = batches
    hypermodel = hyper_model("fm")
    hp = small()
    model = hypermodel.build(hp)
    formed = fmlayers.data.ShuffledBatches(
        {name: x[name] for name in ("user", "film", "genres")}, y, 32, seed=0
    )
    history = hypermodel.fit(hp, model, formed, epochs=1, verbose=0)
    assert len(history.history["rmse"]) == 1


def test_ratings_start_at_their_mean():
    model = hyper_model("fm").build(small())
    batch = {"user": [1], "film": [2], "genres": [[0, 0]]}
    batch = {name: np.array(x) for name, x in batch.items()}
    np.testing.assert_allclose(model(batch), 3.5, atol=0.01)


def test_each_feature_may_have_its_own_l2():
    hp = small()
    model = hyper_model("fm", by_field=True).build(hp)
    assert model.factors.l2 == {"user": 0.06, "film": 0.06, "genres": 0.06}
    assert {"l2/user", "l2/film", "l2/genres"} < {p.name for p in hp.space}


def test_fixed_arguments_are_not_searched():
    encoder = fmlayers.data.Encoder({"user": "categorical"})
    scaler = fmlayers.RatingScaler(0, 1)
    hypermodel = tuning.HyperFactorizationMachine(
        FEATURES, scaler=scaler, encoder=encoder, l2=0.5, metrics=["mae"]
    )
    model = hypermodel.build(keras_tuner.HyperParameters())
    assert model.scaler is scaler
    assert model.encoder is encoder
    assert model.factors.l2 == 0.5


def test_no_models_error():
    with pytest.raises(ValueError, match="`hypermodels` must have at least one entry"):
        tuning.HyperChoice({})


def test_a_model_builds_in_a_loaded_space():
    """The hyperparameters in a trial's file build the same model again."""
    hp = small()
    hypermodel = hyper_model("deepfm")
    model = hypermodel.build(hp)
    again = keras_tuner.HyperParameters.from_config(hp.get_config())
    assert hypermodel.build(again).get_config()["dim"] == model.dim
    assert again.get_config() == hp.get_config()
    assert keras.Model in type(model).__mro__
