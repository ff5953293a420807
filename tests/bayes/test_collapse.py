import numpy as np
import pandas as pd
import pytest
from keras import ops

import fmlayers
from fmlayers.bayes import GibbsSampler
from fmlayers.data import Encoder

USERS, ITEMS = 12, 8


def fit(rng, features, **options):
    """Returns a sampler of random ratings, and inputs with new pairs of known ids."""
    user, item = (x.ravel() for x in np.indices((USERS, ITEMS)))
    chosen = rng.permutation(len(user))
    user, item = user[chosen], 1 + item[chosen]
    inputs = {
        "user": user,
        "age": 1 + user % 3,
        "item": item,
        "genres": np.stack([item % 3 + 1, item % 5], axis=1),
        "day": rng.integers(0, 4, len(user)),
        "hour": rng.normal(size=len(user)).astype("float32"),
    }
    train = {name: x[:70] for name, x in inputs.items()}
    sampler = GibbsSampler(features, 2, chains=1, **options)
    sampler.fit(train, rng.normal(size=70), sweeps=12, burn_in=8)
    return sampler, {name: x[70:] for name, x in inputs.items()}


def features_of(*, mask_zero=False):
    return [
        fmlayers.Categorical("age", 4),
        fmlayers.Categorical("user", USERS, mask_zero=mask_zero),
        fmlayers.Categorical("item", ITEMS + 1),
        fmlayers.MultiCategorical("genres", 6),
        fmlayers.Categorical("day", 4),
        fmlayers.Numeric("hour"),
    ]


def histories():
    return [
        fmlayers.History(
            "history",
            ITEMS + 1,
            of="user",
            num_keys=USERS,
            values="item",
            num_pairs=70,
        )
    ]


def scores(model, inputs):
    return ops.convert_to_numpy(model.score(inputs))[:, 0]


@pytest.mark.parametrize("mask_zero", [False, True])
def test_known_keys_have_the_same_scores(mask_zero, rng):
    sampler, new = fit(rng, features_of(mask_zero=mask_zero) + histories())
    model = sampler.to_model(collapse=True)
    names = [feature.name for feature in model.features]
    assert names == ["user", "item", "day", "hour"]
    assert 0 in new["user"]
    inputs = {name: new[name] for name in names}
    np.testing.assert_allclose(
        scores(model, inputs), scores(sampler.to_model(), new), atol=1e-5
    )
    assert sampler.to_model(4, collapse=True).dim == 4


def test_an_unknown_key_has_the_mean_of_the_other_fields(rng):
    sampler, new = fit(rng, features_of())
    count = len(new["user"])
    unknown = {**new, "user": np.full(count, -1)}
    found = scores(sampler.to_model(collapse=True), unknown)
    model = sampler.to_model()
    each = [
        scores(model, {**unknown, "age": np.full(count, 1 + user % 3)})
        for user in range(USERS)
    ]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)


def test_keys_alone_stay_as_they_are(rng):
    sampler, new = fit(rng, [fmlayers.Categorical("user", 12, mask_zero=True)])
    model = sampler.to_model(collapse=True)
    assert model.features == sampler.features
    np.testing.assert_array_equal(scores(model, new), scores(sampler.to_model(), new))


def test_the_encoder_has_the_columns_that_are_left(rng):
    table = pd.DataFrame(
        {
            "user": rng.permutation(np.arange(60) % 10),
            "item": rng.permutation(np.arange(60) % 6),
        }
    )
    table["age"] = 20 + table["user"] % 3
    table["genres"] = np.where(table["item"] % 2, "Drama|War", "Comedy")
    table["hour"] = rng.normal(size=60)
    kinds = {
        "user": "categorical",
        "age": "numeric",
        "item": "categorical",
        "genres": "multi_categorical",
        "hour": "numeric",
    }
    encoder = Encoder(kinds).fit(table)
    sampler = GibbsSampler(encoder.features, 2, chains=1)
    sampler.fit(encoder.transform(table), rng.normal(size=60), sweeps=6, burn_in=3)
    model = sampler.to_model(collapse=True, encoder=encoder)
    assert list(model.encoder.columns) == ["user", "item", "hour"]
    assert sampler.to_model(encoder=encoder).encoder is encoder
    rows = table[["user", "item", "hour"]]
    inputs = model.encoder.transform(rows)
    for name, x in inputs.items():
        np.testing.assert_array_equal(x, encoder.transform(table)[name])
    np.testing.assert_allclose(
        model.predict(inputs, verbose=0)[:, 0],
        sampler.predict(encoder.transform(table)),
        atol=1e-5,
    )
