import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, History, MultiCategorical, Numeric, RatingScaler
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
)
from fmlayers.retrieval import TopN, fold_in

NUM_ITEMS = 19
USER, ITEM = Categorical("user", 5), Categorical("item", NUM_ITEMS)
FEATURES = [USER, Numeric("age"), ITEM, MultiCategorical("genres", 6)]
KNOWN = {"age": np.array([0.7], "float32")}
LIKED = np.array([3, 7, 0, 11])


def fm(scaler="none", kind=FactorizationMachine, **options):
    return kind(FEATURES, 3, RatingScaler(1, 5, scaler), **options)


def mf(**options):
    return MatrixFactorization(USER, ITEM, 3, scaler=RatingScaler(1, 5), **options)


@pytest.fixture
def make(rng):
    """Make a `TopN` of a model of random weights."""
    catalog = {
        "item": np.arange(NUM_ITEMS),
        "genres": rng.integers(0, 6, (NUM_ITEMS, 2)),
    }

    def build(model):
        for weight in model.trainable_weights:
            weight.assign(rng.normal(size=weight.shape))
        names = [name for name in catalog if name in {f.name for f in model.features}]
        top = TopN(model, names, NUM_ITEMS)
        return top.index({name: catalog[name] for name in names})

    return build


def scores_of(top, sides):
    """Return the raw score of every item."""
    scores, positions = (ops.convert_to_numpy(x)[0] for x in top.rank(*sides, k=19))
    return scores[np.argsort(positions)]


def test_finds_a_planted_user(make):
    """Enough exact ratings and no L2: the user's own weights come back."""
    for top, known in ((make(fm()), KNOWN), (make(mf()), {})):
        model = top.model
        user = {"user": np.array([2]), **known}
        expected = [ops.convert_to_numpy(x) for x in model.decompose(user, list(user))]
        positions = np.arange(0, NUM_ITEMS, 2)
        ratings = top.ratings(scores_of(top, expected)[positions])
        found = fold_in(
            *(top, positions, ops.convert_to_numpy(ratings), known),
            l2=0.0,
            linear_l2=0.0,
        )
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == np.float32
            assert x.shape == y.shape
            np.testing.assert_allclose(x, y, rtol=2e-2, atol=2e-2)
        np.testing.assert_allclose(
            scores_of(top, found), scores_of(top, expected), rtol=1e-2, atol=2e-2
        )


def loss_of(model, items, known, w, p, ratings, l2, linear_l2):
    """Plants the user in the model and loops over the ratings."""
    for layer, value in ((model.factors, p), (model.linear, [w])):
        table = ops.convert_to_numpy(layer.tables["user"].value).copy()
        table[4] = value
        layer.tables["user"].assign(table)
    count = len(ratings)
    age = np.repeat(known["age"], count)
    score = model.score({**items, "age": age, "user": np.full(count, 4)})
    score = ops.convert_to_numpy(score).astype("float64")[:, 0]
    if model.scaler.method == "sigmoid":
        score = 1.0 + 4.0 / (1.0 + np.exp(-score))
    squares = np.sum((ratings - score) ** 2)
    return squares + count * (linear_l2 * w**2 + l2 * np.sum(np.square(p)))


@pytest.mark.parametrize("scaler", ["none", "clip", "sigmoid"])
@pytest.mark.parametrize("known", [KNOWN, {"age": np.array([np.nan], "float32")}])
def test_minimises_what_training_does(scaler, known, make):
    top = make(fm(scaler))
    model = top.model
    genres = np.arange(2 * NUM_ITEMS).reshape(NUM_ITEMS, 2) % 6
    top.index({"item": np.arange(NUM_ITEMS), "genres": genres})
    items = {"item": LIKED, "genres": genres[LIKED]}
    ratings = np.array([5.0, 2.0, 3.5, 4.0])
    constant, vector = fold_in(top, LIKED, ratings, known, l2=0.3, linear_l2=0.1)
    rest_constant, rest = (
        ops.convert_to_numpy(x).astype("float64")
        for x in model.decompose(known, ["age"])
    )
    p = (vector - rest)[0]
    w = float((constant - rest_constant)[0, 0] - p @ rest[0])

    def loss(w, p):
        return loss_of(model, items, known, w, p, ratings, 0.3, 0.1)

    least = loss(w, p)
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 0.02:
        assert loss(w + step[0], p + step[1:]) > least
    # The minimum, not a point near it: both sides rise alike.
    for step in np.eye(4) * 0.05:
        above = loss(w + step[0], p + step[1:]) - least
        below = loss(w - step[0], p - step[1:]) - least
        assert abs(above - below) < 0.1 * (above + below)


def test_defaults_are_the_model_s(make):
    l2, linear_l2 = {"user": 0.4, "item": 0.1}, {"user": 0.2}
    top = make(fm("clip", l2=l2, linear_l2=linear_l2))
    expected = fold_in(top, LIKED, [5.0] * 4, KNOWN, l2=0.4, linear_l2=0.2)
    found = fold_in(top, LIKED, inputs=KNOWN)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    other = fold_in(top, LIKED, inputs=KNOWN, l2=0.1)
    assert np.abs(other[1] - expected[1]).max() > 1e-3
    top = make(fm("clip", l2=0.3, linear_l2=0.05))
    expected = fold_in(top, LIKED, l2=0.3, linear_l2=0.05)
    np.testing.assert_array_equal(fold_in(top, LIKED)[1], expected[1])


def test_liked_films_rise(make):
    top = make(fm("clip"))
    nobody = scores_of(top, (np.zeros((1, 1)), np.zeros((1, 3))))
    somebody = scores_of(top, fold_in(top, LIKED, fit_bias=False))
    error = np.abs(5.0 - somebody[LIKED]).sum()
    assert error < np.abs(5.0 - nobody[LIKED]).sum()


def test_without_the_bias(make):
    """What all films share then has to be said by the vector."""
    top = make(fm())
    constant, vector = fold_in(top, LIKED, inputs=KNOWN, fit_bias=False)
    rest_constant, rest = (
        ops.convert_to_numpy(x) for x in top.model.decompose(KNOWN, ["age"])
    )
    np.testing.assert_allclose(
        constant, rest_constant + (vector - rest) @ rest.T, rtol=1e-4, atol=1e-5
    )
    assert np.abs(vector - fold_in(top, LIKED, inputs=KNOWN)[1]).max() > 1e-3
    # A model without biases has none to fit.
    top = make(mf(use_bias=False))
    np.testing.assert_array_equal(fold_in(top, LIKED)[0], 0.0)


def test_an_ensemble_is_folded_in_as_one(make):
    top = make(Ensemble([fm(), fm()]))
    constant, vector = fold_in(top, LIKED, [5, 1, 3, 2], KNOWN, l2=1e-6)
    assert vector.shape == (1, 6)
    found = scores_of(top, (constant, vector))[LIKED]
    np.testing.assert_allclose(found, [5, 1, 3, 2], atol=0.01)


def test_fields_of_the_user_s_own_entry_are_left_out(make):
    history = History("seen", 19, of="user", num_keys=5, values="item", num_pairs=2)
    model = FactorizationMachine([USER, ITEM, history], 3, RatingScaler(1, 5, "none"))
    for layer in (model.factors, model.linear):
        layer.set_history("seen", [1, 1], [4, 5])
    top = make(model)
    found = fold_in(top, LIKED, inputs={"user": np.array([1])})
    expected = fold_in(top, LIKED)
    np.testing.assert_array_equal(found[1], expected[1])


def test_errors(make):
    top = make(fm())
    for wrong in ([], [[1]], [19], [-1], [0.5]):
        check_error(
            "`positions` must be integers of shape .*, at least one, from 0 to 18",
            lambda wrong=wrong: fold_in(top, wrong),
        )
    for wrong in ([1.0], [1.0, np.nan]):
        check_error(
            "`ratings` must be finite numbers, one per position, 2 in all",
            lambda wrong=wrong: fold_in(top, [1, 2], wrong),
        )
    for name in ("l2", "linear_l2"):
        options = {name: -1.0}
        check_error("at least 0", lambda options=options: fold_in(top, [1], **options))
    check_error(
        "`user_feature` must be one of \\['user', 'age'\\]",
        lambda: fold_in(top, [1], user_feature="item"),
    )
    two = {"age": np.zeros(2, "float32")}
    check_error("one row. Received: 2 rows", lambda: fold_in(top, [1], inputs=two))
    check_error("entry 'age'", lambda: fold_in(top, [1], inputs={}))
    check_error(
        "with an exact decomposition. Received: a model of type DeepFM",
        lambda: fold_in(make(fm(kind=DeepFM)), [1]),
    )
    check_error(
        "`ratings` must not be None",
        lambda: fold_in(make(FactorizationMachine(FEATURES, 3)), [1]),
    )
    positive = LibFM(FEATURES, 3, positive=True)
    assert isinstance(positive.scaler, keras.layers.Activation)
    check_error(
        "whose scaler is a `RatingScaler`", lambda: fold_in(make(positive), [1], [2.0])
    )
