"""Retrieval by item features of every kind."""

import numpy as np
import pytest

import fmlayers
from fmlayers.models import DeepFM, FactorizationMachine
from fmlayers.retrieval import retrieve

FEATURES = [
    fmlayers.Categorical("user", 6),
    fmlayers.Vector("mood", 2),
    fmlayers.Categorical("item", 9),
    fmlayers.MultiCategorical("genres", 5, weights="shares"),
    fmlayers.Vector("text", 3, use_bias=True),
]


@pytest.mark.parametrize("cls", [FactorizationMachine, DeepFM])
def test_weighted_values_and_vectors(cls, rng):
    model = cls(FEATURES, 4)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    items = {
        "item": np.arange(9, dtype="int32"),
        "genres": rng.integers(0, 5, (9, 3)).astype("int32"),
        "shares": rng.random((9, 3)).astype("float32"),
        "text": rng.normal(size=(9, 3)).astype("float32"),
    }
    items["text"][4] = np.nan
    queries = {
        "user": np.arange(6, dtype="int32"),
        "mood": rng.normal(size=(6, 2)).astype("float32"),
    }
    scores, positions = (np.asarray(x) for x in retrieve(model, queries, items, k=9))
    pairs = {name: np.repeat(x, 9, axis=0) for name, x in queries.items()}
    pairs |= {name: np.tile(x, (6, *[1] * (x.ndim - 1))) for name, x in items.items()}
    expected = np.asarray(model.predict(pairs, verbose=0)).reshape(6, 9)
    np.testing.assert_array_equal(positions, np.argsort(-expected, axis=1))
    np.testing.assert_allclose(
        scores, -np.sort(-expected, axis=1), rtol=1e-4, atol=1e-5
    )
