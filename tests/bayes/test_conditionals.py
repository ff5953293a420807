"""Each table is drawn from its conditional distribution, computed densely here."""

import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.bayes import conditionals, draws
from fmlayers.bayes.blocks import find_blocks
from fmlayers.bayes.chain import Chain
from fmlayers.bayes.conditionals import Sums
from fmlayers.bayes.designs import field_of, own_values_of
from fmlayers.bayes.draws import Draws
from fmlayers.bayes.examples import Examples
from fmlayers.bayes.priors import Gaussian, Hyperprior
from fmlayers.bayes.without_own import split_blocks

DIM = 2
ALPHA = 1.7
USERS, ITEMS, EXAMPLES = 6, 5, 60


@pytest.fixture
def max_dense():
    return 17  # so that the history and the tags are drawn by gradients


@pytest.fixture
def exclude_own():
    return False


@pytest.fixture
def problem(rng, max_dense, exclude_own, monkeypatch):
    """A chain over fields of all kinds, and their rows for each example, dense."""
    monkeypatch.setattr(draws, "MAX_DENSE", max_dense)
    monkeypatch.setattr(conditionals, "TOLERANCE", 1e-4)
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
    blocks = find_blocks(features, fields)
    if exclude_own:
        own = own_values_of(features, inputs)
        blocks = split_blocks(blocks, features, own)
    chain = Chain(
        Examples(blocks, weights),
        Draws(blocks, DIM),
        targets,
        prior=Hyperprior(),
        warm_up=0,
        rng=np.random.default_rng(1),
    )
    rows = {
        name: field.design.dense()[field.index].astype("float64")
        for name, field in fields.items()
    }
    if exclude_own:
        rows["history"] = histories_without_own(user, item)
    return chain, rows, targets, weights


def histories_without_own(users, items):
    """Returns the other items of the user, dense, for each example."""
    rows = np.zeros((len(users), ITEMS + 2))
    for n, (user, item) in enumerate(zip(users, items, strict=True)):
        rest = set(items[users == user]) - {item}
        for other in rest:
            rows[n, other] = 1 / np.sqrt(len(rest))
    return rows


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


def drawer(problem, name, prior):
    """Returns a function from noise of rows and of the table to a draw."""
    chain, *_ = problem
    i = next(i for i, b in enumerate(chain.blocks) if name in b.designs)
    state = i, chain.parts, chain.residuals
    if chain.blocks[i].keys is None:
        sums = chain.examples.row_sums(*state)
        return lambda _, x: chain.draws.draw_system(name, *sums, ALPHA, prior, x)
    if chain.blocks[i].by_example:

        def draw_by_example(row_noise, noise):
            terms = chain.examples.terms(*state, row_noise)
            table, _ = chain.draws.draw(
                name, chain.tables[name], terms, [], ALPHA, prior, noise
            )
            return table

        return draw_by_example
    fields = chain.draws.fields(chain.tables)
    rest = [fields[other] for other in chain.blocks[i].designs if other != name]

    def draw(row_noise, noise):
        squares, products, noises = chain.examples.key_sums(*state, [row_noise])
        sums = Sums(squares, products, noises[0])
        table, field = chain.draws.draw(
            name, chain.tables[name], sums, rest, ALPHA, prior, noise
        )
        expected = chain.draws.fields({**chain.tables, name: table})[name]
        both = (ops.convert_to_numpy(x) for x in (field, expected))
        np.testing.assert_allclose(*both, atol=1e-5)
        return table

    return draw


NAMES = [
    *("user", "age", "income", "history", "item", "genres", "tags", "hour", "text")
]


@pytest.mark.parametrize(
    ("name", "max_dense", "exclude_own"),
    [
        *((name, 17, False) for name in NAMES),
        ("history", 700, False),
        ("tags", 700, False),
        ("user", 17, True),
        ("history", 17, True),
        ("text", 17, True),
    ],
)
def test_mean_and_covariance(name, problem, prior):
    """A draw is linear in the noise, so that unit noise shows its covariance."""
    chain, rows, *_ = problem
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
    if name in chain.draws.by_gradients:
        units += [drawn(e, no_table) for e in np.eye(EXAMPLES, dtype="f4")]
    roots = np.stack(units, axis=1) - center[:, None]
    expected = np.linalg.inv(precision)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(roots @ roots.T, expected, atol=2e-3 * scale)


@pytest.mark.parametrize("exclude_own", [False, True])
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
