"""The chain has the posterior distribution as its stationary one."""

import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.bayes import examples
from fmlayers.bayes.blocks import find_blocks
from fmlayers.bayes.chain import Chain
from fmlayers.bayes.designs import field_of
from fmlayers.bayes.draws import Draws
from fmlayers.bayes.examples import Examples
from fmlayers.bayes.likelihoods import LIKELIHOODS
from fmlayers.bayes.priors import Hyperprior, draw_normal_wishart

# Proper, and without heavy tails, so that moments exist and mix.
PRIOR = Hyperprior(scale=8.0, degrees=6.0, shape=6.0, rate=3.0, bias_precision=2.0)
DIM = 1


def small_problem(rng, size=12):
    features = [
        fmlayers.Categorical("user", 3),
        fmlayers.Categorical("item", 3),
        fmlayers.MultiCategorical("genres", 3),
        fmlayers.Numeric("hour"),
    ]
    item = rng.integers(0, 3, size)
    genres = np.array([[1, 2], [2, 0], [0, 0]])
    inputs = {
        "user": rng.integers(0, 3, size),
        "item": item,
        "genres": genres[item],
        "hour": rng.normal(size=size).astype("float32"),
    }
    fields = {f.name: field_of(f, inputs, {}) for f in features}
    return features, fields


def draw_from_prior(chain, rng):
    """Draws all unknowns of a chain from their prior distribution."""
    if chain.likelihood is LIKELIHOODS["normal"]:
        chain.alpha = rng.gamma(PRIOR.shape) / PRIOR.rate
    chain.bias = rng.standard_normal() / np.sqrt(PRIOR.bias_precision)
    for name, table in chain.tables.items():
        shape = tuple(table.shape)
        prior = draw_normal_wishart(np.zeros((0, shape[1])), PRIOR, rng)
        noise = np.linalg.solve(prior.root.T, rng.standard_normal(shape).T).T
        rows = (prior.mean + noise).astype("float32")
        chain.tables[name] = ops.convert_to_tensor(rows)


def draw_targets(chain, rng):
    """Draws targets given all unknowns."""
    chain.refresh()
    noise = rng.standard_normal(chain.examples.count) / np.sqrt(chain.alpha)
    targets = chain.scores() + noise
    is_binary = chain.likelihood is LIKELIHOODS["probit"]
    chain.set_targets(targets > 0 if is_binary else targets)


def figures(chain):
    tables = {name: ops.convert_to_numpy(x) for name, x in chain.tables.items()}
    user, item, genres = tables["user"], tables["item"], tables["genres"]
    return [
        np.log(chain.alpha),
        chain.bias,
        chain.bias**2,
        user[0, 0],
        user[:, 1:].var(),
        np.log1p(np.sum(item[:, 1:] ** 2)),
        user[0, 1:] @ item[1, 1:],
        item[1, 0] * genres[2, 0],
        genres[1, 1:] @ user[1, 1:],
        np.log1p(np.sum(tables["hour"] ** 2)),
        np.sum(tables["hour"][0, 1:] * item[2, 1:]),
    ]


def make_chain(rng, size=12, likelihood="normal", fields=None):
    features, all_fields = small_problem(np.random.default_rng(3), size)
    blocks = find_blocks(features[:fields], all_fields)
    shared = Examples(blocks, np.ones(size)), Draws(blocks, DIM)
    return Chain(
        *shared,
        np.arange(size) % 2,
        prior=PRIOR,
        warm_up=0,
        rng=rng,
        likelihood=likelihood,
    )


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["normal", "probit"])
def test_joint_distribution(likelihood, backend):
    """Sweeps and new targets in turn leave the joint distribution as it is.

    Geweke, J. (2004). Getting it Right: Joint Distribution Tests of Posterior
    Simulators. JASA 99(467).
    """
    if backend != "tensorflow":
        pytest.skip("the conditionals are compared on each backend")
    rng = np.random.default_rng(5)
    chain = make_chain(rng, likelihood=likelihood)
    independent = []
    for _ in range(4000):
        draw_from_prior(chain, rng)
        independent.append(figures(chain))
    successive = []
    for _ in range(40):
        draw_from_prior(chain, rng)
        run = []
        for _ in range(25):
            draw_targets(chain, rng)
            chain.sweep()
            run.append(figures(chain))
        successive.append(np.mean(run, axis=0))
    a, b = np.array(independent), np.array(successive)
    if likelihood == "probit":
        assert (a[:, 0] == 0.0).all()
        assert (b[:, 0] == 0.0).all()
        a, b = a[:, 1:], b[:, 1:]
    error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0, ddof=1) / len(b))
    z = (a.mean(axis=0) - b.mean(axis=0)) / error
    assert np.abs(z).max() < 4.0, z.round(1)


# Among this many draws, a rank has DRAWS + 1 equally likely values. The chi-square
# distribution with DRAWS degrees of freedom exceeds the bound with probability 1e-4.
DRAWS, CHI_SQUARE = 4, 23.51
SWEEPS = 2400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "thinning"), [("normal", 2), ("probit", 6)], ids=["normal", "probit"]
)
def test_ranks_are_uniform(likelihood, thinning, backend):
    """A draw from the prior has a uniform rank among draws from its posterior.

    Talts, S., Betancourt, M., Simpson, D., Vehtari, A. and Gelman, A. (2018).
    Validating Bayesian Inference Algorithms with Simulation-Based Calibration.
    """
    if backend != "tensorflow":
        pytest.skip("the conditionals are compared on each backend")
    rng = np.random.default_rng(7)
    chain = make_chain(rng, likelihood=likelihood, fields=2)
    ranks = []
    for _ in range(SWEEPS // ((DRAWS + 1) * thinning)):
        draw_from_prior(chain, rng)
        draw_targets(chain, rng)
        # The truth is a draw from the posterior, so the chain starts there. The first
        # draws, which depend on it, are not used.
        truth, draws = identified(chain), []
        for _ in range(DRAWS + 1):
            for _ in range(thinning):
                chain.sweep()
            draws.append(identified(chain))
        ranks.append(np.sum(np.array(draws[1:]) < truth, axis=0))
    expected = len(ranks) / (DRAWS + 1)
    counts = [np.bincount(each, minlength=DRAWS + 1) for each in np.transpose(ranks)]
    statistics = np.sum((np.array(counts) - expected) ** 2, axis=1) / expected
    assert statistics.max() < CHI_SQUARE, counts


def identified(chain):
    """Returns figures that the targets determine, and the spread of a table."""
    scores = chain.scores()
    users = ops.convert_to_numpy(chain.tables["user"])
    figures = [*scores[:4], scores.mean(), scores.var(), users.var()]
    if chain.likelihood is LIKELIHOODS["normal"]:
        figures.append(chain.alpha)
    return figures


def test_slices_add_up(monkeypatch):
    """Small chunks and slices give the same sums and residuals."""
    chains = []
    for chunk, size in ((64, 2048), (2, 3)):
        monkeypatch.setattr(examples, "CHUNK", chunk)
        monkeypatch.setattr(examples, "SLICE", size)
        chain = make_chain(np.random.default_rng(0), 50)
        chain.set_targets(np.random.default_rng(2).normal(size=50))
        for _ in range(2):
            chain.sweep()
        chains.append(chain)
    one, other = chains
    for name, table in one.tables.items():
        np.testing.assert_allclose(
            ops.convert_to_numpy(table),
            ops.convert_to_numpy(other.tables[name]),
            rtol=1e-3,
            atol=1e-4,
        )
    np.testing.assert_allclose(
        ops.convert_to_numpy(one.residuals)[:-1],
        ops.convert_to_numpy(other.residuals)[:-1],
        atol=1e-3,
    )
