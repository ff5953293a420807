"""Histories that exclude the value of the example itself."""

import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.bayes import GibbsSampler
from fmlayers.bayes.designs import field_of
from fmlayers.bayes.without_own import DesignWithoutOwn, ProductsWithoutOwn

USERS, ITEMS = 12, 15


def history(num_pairs, combiner="sqrtn"):
    return fmlayers.History(
        "history",
        ITEMS,
        of="user",
        num_keys=USERS,
        values="item",
        num_pairs=num_pairs,
        combiner=combiner,
    )


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_products(combiner, rng):
    """The lists of user 1 and 3 are empty without the example; item 9 is in none."""
    keys, values = np.array([[0, 0, 0, 1, 2, 2, 3], [3, 4, 5, 3, 4, 7, 6]])
    users, items = np.array([2, 0, 0, 1, 3, 2, 0]), np.array([4, 5, 5, 3, 9, 7, 3])
    feature = history(len(keys), combiner)
    field = field_of(feature, {"user": users}, {"history": (keys, values)})
    design = DesignWithoutOwn.of(feature, field.design, field.index, items)
    dense = np.zeros((len(users), ITEMS + 1))
    divisors = {"mean": len, "sum": lambda _: 1, "sqrtn": lambda x: len(x) ** 0.5}
    for row, user, item in zip(dense, users, items, strict=True):
        rest = sorted(set(values[keys == user]) - {item})
        if rest:
            row[rest] = 1 / divisors[combiner](rest)
    products = ProductsWithoutOwn.of(design)
    x, y = rng.normal(size=(ITEMS + 1, 3)), rng.normal(size=(len(users), 3))
    for result, expected in (
        (products.forth(ops.convert_to_tensor(x, "float32"), len(users)), dense @ x),
        (products.back(ops.convert_to_tensor(y, "float32"), ITEMS + 1), dense.T @ y),
        (
            products.back_squared(ops.convert_to_tensor(y, "float32"), ITEMS + 1),
            (dense**2).T @ y,
        ),
    ):
        np.testing.assert_allclose(ops.convert_to_numpy(result), expected, atol=1e-5)


def test_the_model_has_the_scores_of_the_training_rows(rng):
    """The model excludes the values of the examples in its histories, too."""
    inputs = {"user": rng.integers(0, USERS, 90), "item": rng.integers(1, ITEMS, 90)}
    num_pairs = len(np.unique(np.stack(list(inputs.values())), axis=1).T)
    features = [
        fmlayers.Categorical("user", USERS),
        fmlayers.Categorical("item", ITEMS),
        history(num_pairs),
    ]
    targets = rng.normal(size=90)
    differences = []
    for exclude_own in (False, True):
        sampler = GibbsSampler(features, 2, chains=2, exclude_own=exclude_own)
        sampler.fit(inputs, targets, sweeps=12)
        predicted = sampler.to_model().predict(inputs, verbose=0)[:, 0]
        rmse = np.sqrt(np.mean((predicted - targets) ** 2))
        differences.append(abs(rmse - sampler.history[-1]["rmse"]))
    assert differences[1] < 1e-5 < 1e-3 < differences[0]
