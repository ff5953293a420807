"""Fits of the Gibbs sampler that take seconds, for tests of their files."""

import numpy as np

import fmlayers
from fmlayers.bayes import GibbsSampler

USERS, ITEMS, ROWS = 12, 8, 120


def inputs_of(rng, users, items, rows):
    """Draws ids, with attributes of users and items and a number."""
    user, item = rng.integers(0, users, rows), rng.integers(1, items + 1, rows)
    return {
        "user": user,
        "item": item,
        "age": user % 4,
        "genres": np.stack([item % 3 + 1, item % 5], axis=1),
        "hour": rng.normal(size=rows).astype("float32"),
    }


def features_of(inputs, users, items):
    """Return features of all kinds that read these inputs."""
    pairs = len(set(zip(inputs["user"].tolist(), inputs["item"].tolist(), strict=True)))
    return [
        fmlayers.Categorical("user", users),
        fmlayers.Categorical("item", items + 1),
        fmlayers.Categorical("age", 4),
        fmlayers.MultiCategorical("genres", 6),
        fmlayers.Numeric("hour", use_bias=True),
        fmlayers.History(
            "history",
            items + 1,
            of="user",
            num_keys=users,
            values="item",
            num_pairs=pairs,
        ),
    ]


def data(seed=0):
    """Returns features of all kinds, with inputs and targets."""
    rng = np.random.default_rng(seed)
    inputs = inputs_of(rng, USERS, ITEMS, ROWS)
    features = features_of(inputs, USERS, ITEMS)
    user = inputs["user"]
    return features, inputs, 3.0 + rng.normal(size=ROWS) + user / USERS


def fit(folder=None, sweeps=12, *, features=None, options=None, **arguments):
    """Returns a fitted sampler, and the sweeps that its callbacks have received."""
    all_features, inputs, targets = data()
    features = all_features[:2] if features is None else features
    sampler = GibbsSampler(features, **{"dim": 2, "chains": 2, **(options or {})})
    if sampler.likelihood == "probit":
        targets = (targets > 3.5).astype(float)
    seen = []
    fitted = {
        "inputs": inputs,
        "targets": targets,
        "burn_in": 3,
        "validation_data": (inputs, targets),
        "callbacks": [],
        **arguments,
    }
    fitted["callbacks"] = [lambda sweep, _: seen.append(sweep), *fitted["callbacks"]]
    return sampler.fit(**fitted, sweeps=sweeps, backup_dir=folder), seen


def assert_equal(one, other):
    inputs = data()[1]
    for found, expected in zip(
        one.predict(inputs, return_std=True),
        other.predict(inputs, return_std=True),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(
        one.to_model().get_weights(), other.to_model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert one.history == other.history
