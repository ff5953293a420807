import keras
import numpy as np
import pytest

import fmlayers
from fmlayers.data import Encoder, synthetic
from fmlayers.models import FactorizationMachine

SIZES = {"user": 30, "item": 20, "genres": 9}


@pytest.fixture(scope="session")
def on_tensorflow():
    """Skip on backends that do not export, before other fixtures do."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exports are TensorFlow's")


@pytest.fixture(scope="session")
def every_kind():
    """Return features of every kind."""
    return [
        fmlayers.Categorical("user", SIZES["user"], mask_zero=True),
        fmlayers.Categorical("item", SIZES["item"]),
        fmlayers.MultiCategorical("genres", SIZES["genres"], combiner="sqrtn"),
        fmlayers.Numeric("age", use_bias=True),
        fmlayers.History(
            *("rated", SIZES["item"]),
            of="user",
            num_keys=SIZES["user"],
            values="item",
            num_pairs=4,
        ),
    ]


@pytest.fixture(scope="session")
def films():
    return synthetic(num_users=30, num_items=25, num_ratings=300)


@pytest.fixture(scope="session")
def encoder(films):
    """Return an encoder of columns of users, of items and of lists."""
    columns = {
        "user": "categorical",
        "age": "numeric",
        "item": "categorical",
        "genres": "multi_categorical",
    }
    return Encoder(columns).fit(films.table())


@pytest.fixture(scope="session")
def machine(encoder, shaken):
    """Return a model with an encoder and weights that matter."""
    return shaken(
        FactorizationMachine(
            encoder.features, 3, fmlayers.RatingScaler(1, 5), encoder=encoder
        )
    )


@pytest.fixture(scope="session")
def shaken():
    """Give a model weights that no two rows have in common; returns it."""

    def shake(model, seed=0):
        rng = np.random.default_rng(seed)
        for weight in model.trainable_variables:
            weight.assign(rng.normal(scale=0.3, size=weight.shape))
        for weight in model.non_trainable_variables:
            if keras.backend.is_float_dtype(weight.dtype):  # moving averages
                weight.assign(rng.uniform(0.5, 1.5, size=weight.shape))
        return model

    return shake
