"""Each table is drawn from its conditional distribution, computed densely here."""

import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.bayes.blocks import find_blocks
from fmlayers.bayes.chain import Chain
from fmlayers.bayes.conditionals import (
    Sums,
    draw_by_gradients,
    draw_dense,
    draw_rows,
    draw_system,
    sums_of_columns,
)
from fmlayers.bayes.designs import field_of
from fmlayers.bayes.priors import Gaussian, Hyperprior
from fmlayers.bayes.products import Products

DIM = 2
ALPHA = 1.7
USERS, ITEMS, EXAMPLES = 6, 5, 60


@pytest.fixture
def problem(rng):
    """A chain over fields of all kinds, and their rows for each example, dense."""
    user = rng.integers(0, USERS, EXAMPLES)
    item = rng.integers(1, ITEMS + 1, EXAMPLES)
    genres = rng.integers(0, 4, (ITEMS + 1, 2))
    pairs = np.unique(np.stack([user, item]), axis=1)
    features = [
        fmlayers.Categorical("user", USERS),
        fmlayers.Categorical("age", 3, mask_zero=True),
        fmlayers.Numeric("income"),
        fmlayers.Categorical("item", ITEMS + 1),
        fmlayers.MultiCategorical("genres", 4),
        fmlayers.History(
            "history",
            ITEMS + 1,
            of="user",
            num_keys=USERS,
            values="item",
            num_pairs=pairs.shape[1],
        ),
        fmlayers.MultiCategorical("tags", 5, combiner="sqrtn", weights="shares"),
        fmlayers.Numeric("hour", use_bias=True),
        fmlayers.Vector("text", 3),
    ]
    inputs = {
        "user": user,
        "age": (np.arange(USERS) % 3)[user],
        "income": rng.normal(size=USERS).astype("float32")[user],
        "item": item,
        "genres": genres[item],
        "tags": rng.integers(0, 5, (EXAMPLES, 2)),
        "shares": rng.uniform(0.5, 2.0, (EXAMPLES, 2)).astype("float32"),
        "hour": rng.normal(size=EXAMPLES).astype("float32"),
        "text": rng.normal(size=(EXAMPLES, 3)).astype("float32"),
    }
    inputs["hour"][:5] = np.nan
    histories = {"history": (pairs[0], pairs[1])}
    fields = {f.name: field_of(f, inputs, histories) for f in features}
    weights = rng.uniform(0.2, 3.0, EXAMPLES)
    targets = rng.normal(size=EXAMPLES)
    chain = Chain(
        find_blocks(features, fields),
        targets,
        weights,
        DIM,
        prior=Hyperprior(),
        warm_up=0,
        rng=np.random.default_rng(1),
    )
    rows = {
        name: field.design.dense()[field.index].astype("float64")
        for name, field in fields.items()
    }
    return chain, rows, targets, weights


def test_the_blocks(problem):
    chain, *_ = problem
    names = [list(block.designs) for block in chain.blocks]
    assert names == [
        ["user", "age", "income", "history"],
        ["item", "genres"],
        ["tags"],
        ["hour"],
        ["text"],
    ]
    has_keys = [block.keys is not None for block in chain.blocks]
    assert has_keys == [True, True, True, False, False]


def table_of(chain, name):
    return ops.convert_to_numpy(chain.tables[name]).astype("float64")


def densely(problem, name, alpha, prior):
    """Returns the precision matrix and the mean of a table, given all others."""
    chain, rows, targets, weights = problem
    t = {other: z @ table_of(chain, other) for other, z in rows.items()}
    others = sum(each[:, 1:] for other, each in t.items() if other != name)
    q = np.concatenate([np.ones((EXAMPLES, 1)), others], axis=1)
    h = (rows[name][:, :, None] * q[:, None, :]).reshape(EXAMPLES, -1)
    without = dict(t)
    without[name] = np.zeros_like(t[name])
    score = chain.bias + sum(each[:, 0] for each in without.values())
    names = list(without)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            score = score + np.sum(without[one][:, 1:] * without[other][:, 1:], axis=1)
    size = rows[name].shape[1]
    precision = alpha * (h.T * weights) @ h + np.kron(np.eye(size), prior.precision)
    shift = alpha * h.T @ (weights * (targets - score))
    shift = shift + np.tile(prior.precision @ prior.mean, size)
    return precision, np.linalg.solve(precision, shift)


@pytest.fixture
def prior(rng):
    root = rng.normal(size=(DIM + 1, DIM + 1))
    return Gaussian(rng.normal(size=DIM + 1), np.eye(DIM + 1) + root @ root.T)


def sums_for(chain, name, row_noise):
    """Returns the sums for a field, as the chain computes them."""
    i = next(i for i, b in enumerate(chain.blocks) if name in b.designs)
    block = chain.blocks[i]
    squares, products, noise = chain.examples.key_sums(
        i, chain.parts, chain.residuals, [row_noise]
    )
    return chain.sums_given(block, name, Sums(squares, products, noise[0]))


def drawer(problem, name, prior):
    """Returns a function from noise of rows and of the table to a draw."""
    chain, *_ = problem
    block = next(b for b in chain.blocks if name in b.designs)
    if block.keys is None:
        i = chain.blocks.index(block)
        squares, products = chain.examples.row_sums(i, chain.parts, chain.residuals)
        return lambda _, x: draw_system(squares, products, ALPHA, prior, x)[0]
    design = block.designs[name]
    z = Products(design)

    def draw(row_noise, noise):
        sums = sums_for(chain, name, row_noise)
        if name == "history":
            start = chain.tables[name]
            return draw_by_gradients(start, sums, z, ALPHA, prior, noise, 1e-4)[0]
        if design.is_one_hot:
            return draw_rows(sums_of_columns(sums, z), ALPHA, prior, noise)[0]
        return draw_dense(sums, design, ALPHA, prior, noise)[0]

    return draw


NAMES = [
    *("user", "age", "income", "history", "item", "genres", "tags", "hour", "text")
]


@pytest.mark.parametrize("name", NAMES)
def test_mean_and_covariance(name, problem, prior):
    """A draw is linear in the noise, so that unit noise shows its covariance."""
    _, rows, *_ = problem
    precision, mean = densely(problem, name, ALPHA, prior)
    draw = drawer(problem, name, prior)
    shape = (rows[name].shape[1], DIM + 1)
    no_rows, no_table = np.zeros(EXAMPLES, "float32"), np.zeros(shape, "float32")

    def drawn(row_noise, noise):
        return ops.convert_to_numpy(draw(row_noise, noise)).astype("float64").ravel()

    center = drawn(no_rows, no_table)
    np.testing.assert_allclose(center, mean, rtol=1e-3, atol=1e-3)
    units = [
        drawn(no_rows, e.reshape(shape)) for e in np.eye(no_table.size, dtype="f4")
    ]
    if name == "history":
        units += [drawn(e, no_table) for e in np.eye(EXAMPLES, dtype="f4")]
    roots = np.stack(units, axis=1) - center[:, None]
    expected = np.linalg.inv(precision)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(roots @ roots.T, expected, atol=2e-3 * scale)


def test_residuals_follow_the_draws(problem):
    chain, rows, targets, _ = problem
    for _ in range(3):
        chain.sweep()
    t = [z @ table_of(chain, name) for name, z in rows.items()]
    score = chain.bias + sum(each[:, 0] for each in t)
    total = sum(each[:, 1:] for each in t)
    squares = sum(each[:, 1:] ** 2 for each in t)
    score += 0.5 * np.sum(total**2 - squares, axis=1)
    residuals = ops.convert_to_numpy(chain.residuals)[:-1]
    scale = np.abs(score).max()
    np.testing.assert_allclose(residuals, targets - score, atol=1e-4 * scale)
