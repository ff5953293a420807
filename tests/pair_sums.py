"""Bounds that `FMInteraction` states, checked against float64."""

import numpy as np
from hypothesis import strategies as st

EPSILON = 2.0**-23


def pairs_in_float64(x):
    """Returns the sum of the products of all pairs of fields, `(batch, dim)`."""
    i, j = np.triu_indices(x.shape[1], k=1)
    x = x.astype("float64")
    return (x[:, i] * x[:, j]).sum(axis=1)


def assert_value_within_bound(found, x, reduce):
    exact, scale = pairs_in_float64(x), pairs_in_float64(np.abs(x))
    _, terms, dim = x.shape
    if reduce == "sum":
        exact, scale = (a.sum(axis=1, keepdims=True) for a in (exact, scale))
        terms += dim
    assert found.shape == exact.shape
    assert (np.abs(found - exact) <= terms / 2 * EPSILON * scale).all()


def assert_gradient_within_bound(found, x, unit=0.0):
    """Checks the gradient of the sum of all products, rounded once more to `unit`."""
    assert found.shape == x.shape
    fields = x.shape[1]
    for i in range(fields):
        others = np.delete(x.astype("float64"), i, axis=1)
        exact, scale = others.sum(axis=1), np.abs(others).sum(axis=1)
        bound = (fields + 10) / 2 * EPSILON * scale
        bound += unit * (np.abs(exact) + bound)
        assert (np.abs(found[:, i] - exact) <= bound).all(), i


def uneven_vectors(low=-6.0, high=6.0):
    """Draws `(4, fields, dim)`, each field of a size of 10^low to 10^high.

    The shapes are few, for a graph or a program is compiled for each.
    """
    seeds = st.integers(0, 2**32 - 1)

    def of_shape(shape):
        exponents = st.lists(st.floats(low, high), min_size=shape[0], max_size=shape[0])
        return st.builds(_scaled, st.just(shape), exponents, seeds)

    shapes = st.tuples(st.sampled_from([2, 3, 17, 40]), st.sampled_from([1, 16]))
    return shapes.flatmap(of_shape)


def _scaled(shape, exponents, seed):
    x = np.random.default_rng(seed).normal(size=(4, *shape))
    return (x * 10.0 ** np.array(exponents)[:, None]).astype("float32")
