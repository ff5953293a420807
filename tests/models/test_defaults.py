"""The default L2 of the models, for ratings and implicit feedback."""

import inspect
import re

import keras
import numpy as np
import pytest

from fmlayers import Categorical, RatingScaler
from fmlayers.data import random_split, synthetic
from fmlayers.models import (
    FactorizationMachine,
    MatrixFactorization,
    NeuralMatrixFactorization,
)
from fmlayers.optimizers import Adagrad


@pytest.mark.parametrize(
    "model", [FactorizationMachine, MatrixFactorization, NeuralMatrixFactorization]
)
def test_all_models_have_the_same_l2_and_say_so(model):
    """`LibFM` and `DeepFM` pass their arguments to `FactorizationMachine`."""
    for name, value in {"l2": 0.01, "linear_l2": 0.005}.items():
        parameter = inspect.signature(model).parameters.get(name)
        if parameter is not None:
            assert parameter.default == value
            (documented,) = re.findall(
                rf"^        {name}: .*?Defaults\s+to ([\d.]*\d)",
                model.__doc__,
                re.S | re.M,
            )
            assert float(documented) == value


@pytest.mark.slow
@pytest.mark.parametrize("clicks", [False, True])
def test_the_l2_does_no_harm(clicks):
    """Better than the best L2 of the other task, and close to the best one."""
    data = synthetic(num_ratings=20_000)
    split = random_split(len(data.ratings), test_fraction=0.2, seed=0)
    ids = {name: data.ratings[name].to_numpy() for name in ("user", "item")}
    ratings = data.ratings["rating"].to_numpy("float32")
    target = (ratings >= 4).astype("float32") if clicks else ratings
    features = [Categorical("user", 601), Categorical("item", 401)]
    of_ratings = {"l2": 0.06, "linear_l2": 0.01}
    of_clicks = {"l2": 0.002, "linear_l2": 0.002}
    right, wrong = (of_clicks, of_ratings) if clicks else (of_ratings, of_clicks)
    errors = []
    for l2 in ({}, right, wrong):
        keras.utils.set_random_seed(0)
        scaler = None if clicks else RatingScaler(1, 5)
        model = FactorizationMachine(features, 8, scaler, **l2)
        loss = keras.losses.BinaryCrossentropy(from_logits=True) if clicks else "mse"
        model.compile(Adagrad(), loss=loss, metrics=[loss])
        history = model.fit(
            {name: x[split.train] for name, x in ids.items()},
            target[split.train],
            batch_size=128,
            epochs=10,
            validation_data=(
                {name: x[split.test] for name, x in ids.items()},
                target[split.test],
            ),
            verbose=0,
        ).history
        (metric,) = (n for n in history if n.startswith("val_") and n != "val_loss")
        errors.append(np.min(history[metric]))
    assert errors[0] < min(1.05 * errors[1], errors[2])
