"""The unit of the targets changes nothing but the unit of the predictions."""

import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error
from keras import ops

import fmlayers
from fmlayers import Categorical, Numeric, RatingScaler
from fmlayers.data import write_csv
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)
from fmlayers.runs import TrainingConfig, train
from fmlayers.runs.unit import REFERENCE_STD, Unit, to_unit_of_data

USER, ITEM = Categorical("user", 5), Categorical("item", 4)
FEATURES = [USER, ITEM, Numeric("age", use_bias=True)]
BATCH = {
    "user": np.array([0, 4, 9], "int32"),
    "item": np.array([1, 3, 0], "int32"),
    "age": np.array([0.5, np.nan, -2.0], "float32"),
}
START = {"embeddings_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=1)}
MODELS = {
    "fm": lambda scaler: FactorizationMachine(FEATURES, 3, scaler, **START),
    "libfm": lambda scaler: LibFM(FEATURES, 3, scaler, **START),
    "deepfm": lambda scaler: DeepFM(
        FEATURES, 3, scaler, batch_normalization=True, **START
    ),
    "mf": lambda scaler: MatrixFactorization(USER, ITEM, 3, scaler=scaler, **START),
    "neumf": lambda scaler: NeuralMatrixFactorization(
        USER, ITEM, 3, scaler=scaler, **START
    ),
    "ensemble": lambda scaler: Ensemble.of(2, lambda: DeepFM(FEATURES, 3, scaler)),
}


@pytest.mark.parametrize("name", MODELS)
def test_rescale_maps_the_score(name):
    model = MODELS[name](None)
    before = ops.convert_to_numpy(model.score(BATCH))
    model.rescale(20.0, -7.0)
    after = ops.convert_to_numpy(model.score(BATCH))
    assert np.ptp(before) > 1e-3
    np.testing.assert_allclose(after, 20.0 * before - 7.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["clip", "none"])
def test_a_model_in_the_unit_of_data_rates_as_before(name, method):
    model = MODELS[name](RatingScaler(-10, 90, method, offset=40.0, scale=20.0))
    before = ops.convert_to_numpy(model(BATCH))
    to_unit_of_data(model)
    after = ops.convert_to_numpy(model(BATCH))
    np.testing.assert_allclose(after, before, rtol=1e-5)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.score(BATCH)), after, rtol=1e-5
    )
    assert (model.scaler.scale, model.scaler.offset) == (1.0, 0.0)


def test_models_that_cannot_be_rescaled_say_so():
    class Mine(fmlayers.ScoringModel):
        pass

    with pytest.raises(NotImplementedError, match="`rescale` is not defined by Mine"):
        Mine(FEATURES).rescale(2.0, 0.0)
    with pytest.raises(NotImplementedError, match="`batch_normalization`"):
        LibFM(FEATURES, 3, batch_normalization=True).rescale(2.0, 0.0)
    plain = MatrixFactorization(USER, ITEM, 3, use_bias=False)
    plain.rescale(2.0, 0.0)
    check_error("`offset` must be 0 without biases", lambda: plain.rescale(2.0, 1.0))
    unscalable = LibFM(
        FEATURES, 3, RatingScaler(0, 9, "clip", scale=3.0), batch_normalization=True
    )
    to_unit_of_data(unscalable)
    assert unscalable.scaler.scale == 3.0


def test_the_unit_of_targets(rng):
    targets = pd.Series(rng.normal(50.0, 20.0, 1000))
    unit = Unit.of(targets)
    np.testing.assert_allclose(unit.mean, targets.mean())
    np.testing.assert_allclose(unit.size, targets.std(ddof=0) / REFERENCE_STD)
    assert Unit.of(pd.Series(np.ones(3))).size == 1.0


MAPS = {
    "shares": lambda r: (r - 1.0) / 4.0,
    "percent": lambda r: 20.0 * r,
    "centered": lambda r: 5.0 * r - 15.0,
    "prices": lambda r: 1e4 * r + 1e5,
}


@pytest.mark.parametrize("scaler", ["clip", "sigmoid"])
def test_a_linear_map_of_the_targets_maps_the_predictions(scaler, ratings, tmp_path):
    """The RMSE of each unit, mapped back, is that of the ratings."""
    found = {}
    for name, change in {"stars": lambda r: r, **MAPS}.items():
        path = tmp_path / f"{name}.csv"
        write_csv(ratings.assign(rating=change(ratings["rating"])), path)
        config = TrainingConfig(
            data=str(path), model="mf", dim=4, max_epochs=3, scaler=scaler
        )
        run = train(config, tmp_path / name)
        found[name] = run.metrics["rmse"] / (change(2.0) - change(1.0))
        np.testing.assert_allclose(
            run.metrics["validation_rmse"] / (change(2.0) - change(1.0)),
            found.get("validation", run.metrics["validation_rmse"]),
            rtol=1e-2,
        )
        found.setdefault("validation", run.metrics["validation_rmse"])
    del found["validation"]
    np.testing.assert_allclose(list(found.values()), found["stars"], rtol=1e-3)
