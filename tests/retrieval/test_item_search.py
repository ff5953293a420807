import itertools

import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, MultiCategorical, Numeric
from fmlayers.models import (
    DeepFM,
    FactorizationMachine,
    LibFM,
    NeuralMatrixFactorization,
)
from fmlayers.retrieval import TopN, item_search, rerank, retrieve, score_all

NUM_ITEMS = 17
FEATURES = [
    Categorical("user", 9),
    Numeric("age"),
    Categorical("item", NUM_ITEMS),
    MultiCategorical("genres", 6),
]
EXCLUDE = np.array([[3, 4], [-1, -1], [16, 0], [5, 5], [9, -1]])
ALLOWED = np.arange(NUM_ITEMS) % 4 != 1


def deepfm():
    return DeepFM(FEATURES, 4, hidden_units=[6])


def normalized():
    return LibFM(FEATURES, 4, batch_normalization=True)


def neumf():
    return NeuralMatrixFactorization(FEATURES[0], FEATURES[2], 4, hidden_units=[6])


@pytest.fixture
def make(rng):
    """Make a model of random weights, and the two sides of its inputs."""
    catalog = {
        "item": np.arange(NUM_ITEMS),
        "genres": rng.integers(0, 6, (NUM_ITEMS, 3)),
    }
    queries = {"user": np.arange(5), "age": rng.normal(size=5).astype("float32")}

    def build(kind):
        model = kind()
        for weight in model.trainable_weights:
            weight.assign(rng.normal(size=weight.shape))
        names = {feature.name for feature in model.features}
        return model, *(
            {name: x for name, x in side.items() if name in names}
            for side in (queries, catalog)
        )

    return build


def expected_lists(model, queries, catalog, k, exclude=None, allowed=None):
    scores = np.full((5, k), -np.inf, "float32")
    positions = np.full((5, k), -1)
    for row in range(5):
        one = {n: np.repeat(x[row : row + 1], NUM_ITEMS, 0) for n, x in queries.items()}
        own = ops.convert_to_numpy(model.score(one | catalog))[:, 0]
        left = set(range(NUM_ITEMS))
        if exclude is not None:
            left -= set(exclude[row])
        if allowed is not None:
            left &= set(np.flatnonzero(allowed))
        for place, item in enumerate(sorted(left, key=lambda i: (-own[i], i))[:k]):
            scores[row, place], positions[row, place] = own[item], item
    return scores, positions


def check(found, expected):
    assert [x.dtype for x in found] == [np.float32, np.int32]
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


def machine():
    return FactorizationMachine(FEATURES, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        (deepfm, 1),  # of which each block is a loop's turn, and slow
        *itertools.product((deepfm, neumf, normalized, machine), (40, 65_536)),
    ],
)
def test_any_model_equals_scoring_every_pair(kind, pairs, make, monkeypatch):
    model, queries, catalog = make(kind)
    monkeypatch.setattr(item_search, "MAX_PAIRS", pairs)
    for find, k in ((score_all, 3), (retrieve, 20)):
        found = find(
            *(model, queries, catalog, k),
            exclude=EXCLUDE,
            allowed=ALLOWED,
            batch_size=2,
        )
        check(found, expected_lists(model, queries, catalog, k, EXCLUDE, ALLOWED))
    check(
        score_all(model, queries, catalog, 4),
        expected_lists(model, queries, catalog, 4),
    )


def test_the_product_is_taken_where_it_is_exact(make, monkeypatch):
    model, queries, catalog = make(machine)
    expected = expected_lists(model, queries, catalog, 4, EXCLUDE, ALLOWED)

    def pairwise(inputs):
        raise AssertionError("scored pair by pair")

    monkeypatch.setattr(model, "score", pairwise)
    for candidates in (None, 4, 2):  # which changes nothing
        found = retrieve(
            *(model, queries, catalog, 4),
            exclude=EXCLUDE,
            allowed=ALLOWED,
            candidates=candidates,
        )
        check(found, expected)


def test_candidates_are_the_factorization_machine_s(make):
    model, queries, catalog = make(deepfm)
    options = {"exclude": EXCLUDE, "allowed": ALLOWED}
    whole = expected_lists(model, queries, catalog, 4, EXCLUDE, ALLOWED)
    found = retrieve(model, queries, catalog, 4, candidates=NUM_ITEMS, **options)
    check(found, whole)
    top = TopN(model, ["item", "genres"], NUM_ITEMS, 4).index(catalog)
    chosen = ops.convert_to_numpy(top(queries, **options)[1])
    others = [sorted(set(range(NUM_ITEMS)) - set(row)) for row in chosen]
    found = retrieve(model, queries, catalog, 4, candidates=4, **options)
    check(found, expected_lists(model, queries, catalog, 4, others))
    assert (found[1] != whole[1]).any()


def test_rerank(make):
    model, queries, catalog = make(neumf)
    candidates = np.array(
        [[7, 3, -1], [16, 0, 15], [-1, -1, -1], [2, 4, 1], [9, -1, 8]]
    )
    others = [set(range(NUM_ITEMS)) - set(row) for row in candidates]
    for k in (1, 2, 5):
        found = rerank(model, queries, catalog, candidates, k, batch_size=2)
        check(found, expected_lists(model, queries, catalog, k, others))


def test_equal_scores_are_ranked_by_position(make):
    model, queries, catalog = make(deepfm)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    _, positions = score_all(model, queries, catalog, 4)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3]] * 5)
    _, positions = rerank(model, queries, catalog, [[9, -1, 4, 16]] * 5, 4)
    np.testing.assert_array_equal(positions, [[4, 9, 16, -1]] * 5)


def test_nan_is_no_score(make):
    model, queries, catalog = make(neumf)
    table = ops.convert_to_numpy(model.gmf_factors.tables["item"].value).copy()
    table[3] = np.nan
    model.gmf_factors.tables["item"].assign(table)
    _, positions = score_all(model, queries, catalog, NUM_ITEMS)
    assert 3 not in positions
    np.testing.assert_array_equal(positions[:, -1], -1)


def test_no_queries(make):
    for kind in (deepfm, lambda: FactorizationMachine(FEATURES, 4)):
        model, queries, catalog = make(kind)
        none = {name: x[:0] for name, x in queries.items()}
        scores, positions = retrieve(model, none, catalog, 4)
        assert scores.shape == positions.shape == (0, 4)


def test_errors(make):
    model, queries, catalog = make(deepfm)
    both = (queries, catalog)
    check_error(
        "`candidates` must be at least `k`. Received: candidates=3, k=4",
        lambda: retrieve(model, *both, 4, candidates=3),
    )
    for name, wrong in (("k", 0), ("batch_size", 0)):
        options = {name: wrong}
        for find in (retrieve, score_all):
            check_error(
                f"`{name}` must be a positive integer",
                lambda find=find, options=options: find(model, *both, **options),
            )
        check_error(
            f"`{name}` must be a positive integer",
            lambda options=options: rerank(model, *both, [[1]] * 5, **options),
        )
    model, queries, catalog = make(neumf)
    check_error(
        "`model` must be a `ScoringModel` with a `decomposition`",
        lambda: retrieve(model, queries, catalog, 4, candidates=5),
    )
