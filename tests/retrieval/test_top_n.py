import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import (
    Categorical,
    History,
    MultiCategorical,
    Numeric,
    RatingScaler,
)
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)
from fmlayers.retrieval import TopN

NUM_ITEMS = 23
USER, ITEM = Categorical("user", 9, mask_zero=True), Categorical("item", NUM_ITEMS)
# Fields of all kinds on either side, two of them in one table.
FEATURES = [
    MultiCategorical("genres", 6),
    USER,
    Numeric("age", use_bias=True),
    ITEM,
    MultiCategorical("likes", 6, table="genres", combiner="sum"),
    Numeric("year"),
    Categorical("sex", 3, mask_zero=True),
]
ITEM_FEATURES = ["item", "genres", "year"]


@pytest.fixture
def catalog(rng):
    return {
        "item": np.arange(NUM_ITEMS),
        "genres": rng.integers(0, 6, (NUM_ITEMS, 3)),
        "year": np.where(rng.random(NUM_ITEMS) < 0.2, np.nan, rng.normal(size=23)),
    }


@pytest.fixture
def queries(rng):
    return {
        "user": np.array([1, 8, -1, 0, 3]),
        "age": np.array([0.3, np.nan, -1.0, np.nan, 2.0], "float32"),
        "likes": rng.integers(0, 6, (5, 2)),
        "sex": np.array([1, 2, 0, 0, 99]),
    }


def fm(kind=FactorizationMachine, **options):
    return kind(FEATURES, 4, RatingScaler(1, 5, "clip"), **options)


def with_history():
    features = [
        *(USER, ITEM),
        History("seen", NUM_ITEMS, of="user", num_keys=9, values="item", num_pairs=6),
        History(
            "seen_by", 9, of="item", num_keys=NUM_ITEMS, values="user", num_pairs=6
        ),
    ]
    model = FactorizationMachine(features, 4)
    users, items = [1, 1, 1, 8, 8, 3], [5, 6, 22, 1, 5, 9]
    model.factors.set_history("seen", users, items)
    model.factors.set_history("seen_by", items, users)
    model.linear.set_history("seen", users, items)
    model.linear.set_history("seen_by", items, users)
    return model


MODELS = {
    "fm": fm,
    "libfm": lambda: fm(LibFM),
    "mf": lambda: MatrixFactorization(USER, ITEM, 4),
    "mf without bias": lambda: MatrixFactorization(USER, ITEM, 4, use_bias=False),
    "ensemble": lambda: Ensemble([fm(), fm()]),
    "ensemble without bias": lambda: Ensemble(
        [MatrixFactorization(USER, ITEM, 4, use_bias=False) for _ in range(3)]
    ),
}


def randomize(model, rng, draw=None):
    draw = draw or (lambda shape: rng.normal(size=shape))
    for weight in model.trainable_weights:
        weight.assign(draw(tuple(weight.shape)))
    return model


def sides_of(model, catalog, queries):
    """Return what of the two the model reads."""
    names = {name for feature in model.features for name in feature.inputs}
    return [{n: x for n, x in d.items() if n in names} for d in (catalog, queries)]


def index(model, catalog, k=5, **options):
    names = [f.name for f in model.features if set(f.inputs) <= set(catalog)]
    return TopN(model, names, NUM_ITEMS, k, **options).index(catalog)


def all_scores(model, catalog, queries):
    """Return `model.score` of every pair, one query at a time."""
    rows = []
    for row in range(len(queries["user"])):
        one = {n: np.repeat(x[row : row + 1], NUM_ITEMS, 0) for n, x in queries.items()}
        rows.append(ops.convert_to_numpy(model.score(one | catalog))[:, 0])
    return np.array(rows)


def best(scores, k, exclude=None, allowed=None):
    """Return the k best by a plain loop; of equal ones the first."""
    values = np.full((len(scores), k), -np.inf, "float32")
    positions = np.full((len(scores), k), -1)
    for row, own in enumerate(scores):
        left = [
            item
            for item in range(NUM_ITEMS)
            if (exclude is None or item not in exclude[row])
            and (allowed is None or allowed[item])
        ]
        for place, item in enumerate(sorted(left, key=lambda i: (-own[i], i))[:k]):
            values[row, place], positions[row, place] = own[item], item
    return values, positions


def check(found, expected):
    scores, positions = (ops.convert_to_numpy(x) for x in found)
    assert positions.dtype == np.int32
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(positions, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4, atol=1e-5)


EXCLUDE = np.array([[3, 4, -1], [-1, -1, -1], [22, 0, 1], [5, 5, 5], [9, -1, 500]])
ALLOWED = np.arange(NUM_ITEMS) % 3 != 1


@pytest.mark.parametrize("block_size", [1, 7, NUM_ITEMS, 100])
@pytest.mark.parametrize("name", MODELS)
def test_equals_scoring_every_pair(name, block_size, catalog, queries, rng):
    model = randomize(MODELS[name](), rng)
    catalog, queries = sides_of(model, catalog, queries)
    top = index(model, catalog, block_size=block_size)
    assert top.is_exact
    scores = all_scores(model, catalog, queries)
    check(top(queries), best(scores, 5))
    check(top(queries, exclude=EXCLUDE), best(scores, 5, EXCLUDE))
    check(top(queries, allowed=ALLOWED), best(scores, 5, None, ALLOWED))
    check(top(queries, EXCLUDE, ALLOWED, k=2), best(scores, 2, EXCLUDE, ALLOWED))


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 7, NUM_ITEMS, 100])
def test_of_equal_scores_the_first_comes_first(block_size, catalog, queries, rng):
    """Whole numbers make sums exact in any order, and many scores the same."""
    model = randomize(fm(), rng, lambda shape: rng.integers(-1, 2, shape))
    catalog["year"] = rng.integers(-1, 2, NUM_ITEMS).astype("float32")
    catalog["genres"] = catalog["genres"][:, :1]
    queries["age"] = np.array([1.0, np.nan, -1.0, 0.0, 1.0], "float32")
    scores = all_scores(model, catalog, queries)
    assert max(len(row) - len(set(row)) for row in scores) > 5
    for k in (3, 10, NUM_ITEMS):
        top = index(model, catalog, k, block_size=block_size)
        for exclude in (None, EXCLUDE):
            found = [ops.convert_to_numpy(x) for x in top(queries, exclude)]
            expected = best(scores, k, exclude)
            np.testing.assert_array_equal(found[1], expected[1])
            np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("block_size", [7, 100])
def test_fewer_items_than_places(block_size, catalog, queries, rng):
    model = randomize(fm(), rng)
    top = index(model, catalog, 30, block_size=block_size)
    scores = all_scores(model, catalog, queries)
    check(top(queries), best(scores, 30))
    allowed = np.arange(NUM_ITEMS) == 5
    found = top(queries, EXCLUDE, allowed, k=3)
    check(found, best(scores, 3, EXCLUDE, allowed))
    assert (ops.convert_to_numpy(found[1])[3] == -1).all()  # 5 itself is excluded
    nobody = top(queries, allowed=np.zeros(NUM_ITEMS, bool), k=3)
    check(nobody, best(scores, 3, None, np.zeros(NUM_ITEMS, bool)))


def test_histories_leave_out_items_that_are_not_in_them(rng):
    model = randomize(with_history(), rng)
    catalog = {"item": np.arange(NUM_ITEMS)}
    queries = {"user": np.array([1, 8, -1, 0, 3])}
    exclude = np.array(
        [[5, 6, 22], [1, 5, -1], [-1, -1, -1], [-1, -1, -1], [9, -1, -1]]
    )
    top = index(model, catalog, k=20, block_size=7)
    assert top.item_features == ["item", "seen_by"]
    assert top.query_features == ["user", "seen"]
    expected = best(all_scores(model, catalog, queries), 20, exclude)
    check(top(queries, exclude=exclude), expected)
    # An entry of the other side would change the lists that the query's side pools.
    check(top(queries | {"item": np.array([5] * 5)}, exclude=exclude), expected)


def test_a_row_sees_itself_alone(catalog, queries, rng):
    top = index(randomize(fm(), rng), catalog)
    together = [ops.convert_to_numpy(x) for x in top(queries, EXCLUDE)]
    for row in range(5):
        one = {name: x[row : row + 1] for name, x in queries.items()}
        check(top(one, EXCLUDE[row : row + 1]), [x[row : row + 1] for x in together])


def test_no_queries(catalog, queries, rng):
    top = index(randomize(fm(), rng), catalog, block_size=7)
    scores, positions = top({name: x[:0] for name, x in queries.items()})
    assert tuple(scores.shape) == tuple(positions.shape) == (0, 5)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("block_size", [7, 100])
def test_predicts_compiled(jit_compile, block_size, catalog, queries, rng, backend):
    if backend == "torch" and jit_compile:
        pytest.skip("Keras compiles for PyTorch on request alone, and warns of it")
    top = index(randomize(fm(), rng), catalog, block_size=block_size)
    top.jit_compile = jit_compile
    scores, positions = top.predict(queries, batch_size=2, verbose=0)
    check((scores, positions), [ops.convert_to_numpy(x) for x in top(queries)])


def test_blocks_are_no_larger_than_asked(catalog, queries, rng, monkeypatch):
    from fmlayers.retrieval import top_n

    widths = []

    def merge(best, scores, start, exclude, real=top_n.merge):
        widths.append(scores.shape[1])
        return real(best, scores, start, exclude)

    monkeypatch.setattr(top_n, "merge", merge)
    index(randomize(fm(), rng), catalog, block_size=4)(queries)
    assert set(widths) == {5, 4}  # each with a column of no item


def test_is_a_layer_of_a_functional_model(catalog, queries, rng):
    top = index(randomize(fm(), rng), catalog)
    inputs = {f.name: f.keras_input() for f in FEATURES if f.name in queries}
    scores, positions = top(inputs)
    assert scores.shape == positions.shape == (None, 5)
    assert (scores.dtype, positions.dtype) == ("float32", "int32")
    shorter, _ = top(inputs, k=2)
    assert shorter.shape == (None, 2)
    found = keras.Model(inputs, [scores, positions])(queries)
    check(found, [ops.convert_to_numpy(x) for x in top(queries)])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, catalog, queries, rng):
    model = randomize(fm(dtype=policy), rng)
    top = index(model, catalog, dtype=policy)
    assert top.item_vectors.dtype == "float32"
    catalog["year"] = catalog["year"].astype("float32")
    check(top(queries), best(all_scores(model, catalog, queries), 5))


def test_a_query_that_is_nan_gets_nothing(catalog, queries, rng):
    model = randomize(fm(), rng)
    top = index(model, catalog)
    expected = [ops.convert_to_numpy(x).copy() for x in top(queries)]
    expected[0][0], expected[1][0] = -np.inf, -1
    table = ops.convert_to_numpy(model.factors.tables["user"].value).copy()
    table[1] = np.nan
    model.factors.tables["user"].assign(table)
    check(top(queries), expected)


def test_before_index_there_is_nothing(queries, rng):
    top = TopN(randomize(fm(), rng), ITEM_FEATURES, NUM_ITEMS)
    assert (ops.convert_to_numpy(top(queries)[1]) == -1).all()
    assert (ops.convert_to_numpy(top.similar([3])[1]) == -1).all()


def test_index_follows_the_model(catalog, queries, rng):
    model = randomize(fm(), rng)
    top = index(model, catalog)
    randomize(model, rng)
    assert top.index(catalog, batch_size=4) is top
    check(top(queries), best(all_scores(model, catalog, queries), 5))


def test_rank_takes_sides(catalog, queries, rng):
    model = randomize(fm(), rng)
    top = index(model, catalog)
    sides = model.decompose(queries, ["user", "age", "likes", "sex"])
    expected = [ops.convert_to_numpy(x) for x in top(queries, EXCLUDE, ALLOWED)]
    check(top.rank(*sides, EXCLUDE, ALLOWED), expected)


@pytest.mark.parametrize("block_size", [7, 100])
def test_similar(block_size, catalog, rng):
    model = randomize(fm(), rng)
    top = index(model, catalog, block_size=block_size)
    _, s = (ops.convert_to_numpy(x) for x in model.decompose(catalog, ITEM_FEATURES))
    expected = np.full((3, NUM_ITEMS), 0.0)
    for row, i in enumerate((4, 0, 22)):
        for j in range(NUM_ITEMS):
            expected[row, j] = s[i] @ s[j] / np.sqrt((s[i] @ s[i]) * (s[j] @ s[j]))
    check(top.similar(np.array([4, 0, 22]), k=6), best(expected, 6, [[4], [0], [22]]))


def test_a_zero_vector_is_like_nothing(rng):
    model = randomize(MatrixFactorization(USER, ITEM, 4), rng)
    table = ops.convert_to_numpy(model.factors.tables["item"].value).copy()
    table[7] = 0.0
    model.factors.tables["item"].assign(table)
    top = index(model, {"item": np.arange(NUM_ITEMS)}, k=NUM_ITEMS)
    cosines, positions = (ops.convert_to_numpy(x) for x in top.similar([7, 3]))
    np.testing.assert_array_equal(cosines[0, :-1], 0.0)
    np.testing.assert_array_equal(positions[0], [*(i for i in range(23) if i != 7), -1])
    assert cosines[1][positions[1] == 7] == 0.0


def test_says_what_is_exact(catalog, queries, rng):
    class Louder(FactorizationMachine):
        def score(self, inputs, training=None):
            return super().score(inputs, training) + 1.0

    class StillExact(Louder):
        decomposition = "exact"

    for model, exact in (
        (fm(Louder), False),
        (fm(StillExact), True),
        (fm(DeepFM), False),
        (Ensemble([fm(DeepFM)]), False),
    ):
        assert TopN(model, ITEM_FEATURES, NUM_ITEMS).is_exact is exact
    # The scores of a model that is not are its factorization machine's.
    model = randomize(fm(DeepFM), rng)
    plain = fm()
    for part in ("factors", "linear"):
        getattr(plain, part).set_weights(getattr(model, part).get_weights())
    plain.bias.assign(model.bias)
    expected = best(all_scores(plain, catalog, queries), 5)
    check(index(model, catalog)(queries), expected)


LOAD = """
import keras, numpy as np, fmlayers
top = keras.models.load_model("top.keras")
scores, positions = top(dict(np.load("queries.npz")))
np.savez(
    "found.npz",
    scores=keras.ops.convert_to_numpy(scores),
    positions=keras.ops.convert_to_numpy(positions),
)
assert top.model.optimizer.learning_rate == 0.25
"""


@pytest.mark.slow
def test_saves_and_loads_in_a_fresh_process(catalog, queries, rng, tmp_path):
    model = randomize(fm(), rng)
    model.compile(keras.optimizers.SGD(0.25), loss="mse")
    top = index(model, catalog, k=7, block_size=10)
    top.save(tmp_path / "top.keras")
    np.savez(tmp_path / "queries.npz", **queries)
    subprocess.run([sys.executable, "-c", LOAD], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    for name, expected in zip(("scores", "positions"), top(queries), strict=True):
        np.testing.assert_array_equal(found[name], ops.convert_to_numpy(expected))


def test_config_has_every_argument():
    top = TopN(fm(), ITEM_FEATURES, NUM_ITEMS, 4, block_size=3)
    config = top.get_config()
    arguments = set(inspect.signature(TopN.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    clone = TopN.from_config(config)
    assert clone.get_config() == config
    assert (clone.k, clone.block_size) == (4, 3)
    top.build()  # twice is once
    assert len([w for w in top.weights if "item_vectors" in w.path]) == 1


def test_trains_no_item_vectors():
    model = fm()
    top = TopN(model, ITEM_FEATURES, NUM_ITEMS)
    assert len(top.trainable_weights) == len(model.trainable_weights)


def test_errors(catalog, rng):
    model = fm()
    for name in ("num_items", "k", "block_size"):
        for wrong in (0, 2.0, True):
            options = {"num_items": NUM_ITEMS, name: wrong}
            check_error(
                f"`{name}` must be a positive integer",
                lambda options=options: TopN(model, ITEM_FEATURES, **options),
            )
    for names in ([], ["item", "title"], [f.name for f in FEATURES]):
        check_error(
            "`item_features` must contain some of",
            lambda names=names: TopN(model, names, NUM_ITEMS),
        )
    neural = NeuralMatrixFactorization(USER, ITEM, 4)
    for sideless in (neural, Ensemble([neural])):
        check_error(
            "Use `score_all` for any other",
            lambda sideless=sideless: TopN(sideless, ["item"], NUM_ITEMS),
        )
    top = TopN(model, ITEM_FEATURES, NUM_ITEMS)
    check_error("must have 23 rows", lambda: top.index({"item": np.arange(3)}))
    check_error(
        "must have 23 rows", lambda: top.index(catalog | {"year": np.arange(22.0)})
    )
    check_error("`k` must be", lambda: top.similar([1], k=0))
    table = rng.normal(size=(24, 4))
    table[7:9] = np.nan
    model.factors.tables["item"].assign(table)
    check_error("Received: 2 of 23 .* in row 7", lambda: top.index(catalog))


def test_the_batch_of_a_symbolic_call_is_the_queries_own():
    features = [
        Categorical("item", 5),
        MultiCategorical("liked", 6),
        Categorical("user", 5),
    ]
    model = FactorizationMachine(features, 2)
    top = TopN(model, ["item"], num_items=5, k=2)
    liked = tuple(keras.KerasTensor((n,), dtype="int32") for n in (None, 4))
    inputs = {
        "day": keras.KerasTensor((9,), dtype="int32"),  # which nobody reads
        "liked": liked,
        "user": keras.KerasTensor((3,), dtype="int32"),
    }
    assert [x.shape for x in top(inputs)] == [(3, 2), (3, 2)]
