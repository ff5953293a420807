"""`MultiCategorical` with one weight per id."""

import keras
import numpy as np
import pytest
from checks import by_feature, check_error, check_layer
from keras import ops

import fmlayers
from fmlayers import Categorical, FeatureEmbedding, FMInteraction, MultiCategorical
from fmlayers.models import FactorizationMachine

COMBINERS = ("mean", "sum", "sqrtn")
USER = Categorical("user", 4)
BATCH = {
    "user": np.array([1, 0, 3, 2, 1], "int32"),
    # Ordinary, a weight of 0, no ids, unknown ids, weights that cancel.
    "genres": np.array(
        [[1, 3, 2], [2, 1, 0], [0, 0, 0], [9, -1, 3], [1, 2, 0]], "int32"
    ),
    "shares": np.array(
        [
            [0.5, 2.0, 1.5],
            [0.0, 3.0, 7.0],
            [1.0, 1.0, 1.0],
            [0.5, -1.0, 2.0],
            [1, -1, 0],
        ],
        "float32",
    ),
}


def numpy(x):
    return ops.convert_to_numpy(x)


def genres(combiner="mean", **kwargs):
    return MultiCategorical("genres", 5, combiner=combiner, weights="shares", **kwargs)


def reference(combiner, policy="unknown", squares=None):
    def embed(weights, inputs):
        features = [USER, genres()]
        user, table = by_feature(weights, features, unknown=policy == "unknown")
        batch = len(inputs["user"])
        output = np.zeros((batch, 2, user.shape[1]))
        output[:, 0] = user[inputs["user"]]
        for b in range(batch):
            total, plain, square, norm, root = 0.0, 0.0, 0.0, 0.0, 0.0
            for i, w in zip(inputs["genres"][b], inputs["shares"][b], strict=True):
                known = 0 <= i < 5
                if i == 0 or (not known and policy == "zero"):
                    continue
                row = table[i if known else 5]
                total = total + w * row
                square += abs(w) * np.sum(row**2)
                plain, norm, root = plain + w, norm + abs(w), root + w**2
            by = {"mean": plain, "sum": 1.0, "sqrtn": np.sqrt(root)}[combiner]
            if by:
                output[b, 1] = total / by
            by = {"mean": norm, "sum": 1.0, "sqrtn": np.sqrt(root)}[combiner]
            if squares is not None:
                squares.append(square / by if by else 0.0)
        return output

    return embed


@pytest.mark.slow
@pytest.mark.parametrize("combiner", COMBINERS)
def test_layer(combiner, tmp_path):
    def penalty(weights, inputs):
        squares = []
        reference(combiner, squares=squares)(weights, inputs)
        return 0.5 * sum(squares) / max(len(squares), 1)

    # Where weights cancel, the mean jumps, so its gradient has no differences.
    rows = slice(0, 4 if combiner == "mean" else 5)
    check_layer(
        lambda **kwargs: FeatureEmbedding(
            [USER, genres(combiner)], 3, l2={"genres": 0.5}, **kwargs
        ),
        {"inputs": {name: x[rows] for name, x in BATCH.items()}},
        reference(combiner),
        penalty=penalty,
        mixed_output_dtype=None,
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("policy", ["unknown", "zero"])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_values(combiner, policy, rng):
    layer = FeatureEmbedding([USER, genres(combiner)], 3, out_of_range=policy)
    layer.build()
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    expected = reference(combiner, policy)(layer.get_weights(), BATCH)
    np.testing.assert_allclose(numpy(layer(BATCH)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_weights_of_1_change_nothing(combiner, rng):
    plain = FeatureEmbedding(
        [MultiCategorical("genres", 5, combiner=combiner)], 3, l2=1.0
    )
    weighted = FeatureEmbedding([genres(combiner)], 3, l2=1.0)
    for layer in (plain, weighted):
        layer.build()
    plain.set_weights([rng.normal(size=w.shape) for w in plain.weights])
    weighted.set_weights(plain.get_weights())
    batch = {**BATCH, "shares": np.ones((5, 3), "int32")}
    np.testing.assert_allclose(
        numpy(weighted(batch)), numpy(plain(batch)), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        numpy(weighted.losses[0]), numpy(plain.losses[0]), rtol=1e-6
    )


@pytest.mark.parametrize("combiner", ["mean", "sum"])
def test_a_weight_counts_as_that_many_ids(combiner, rng):
    ids = np.array([[1, 2], [3, 0]], "int32")
    weighted = FeatureEmbedding([genres(combiner)], 3, l2=1.0)
    plain = FeatureEmbedding(
        [MultiCategorical("genres", 5, combiner=combiner)], 3, l2=1.0
    )
    for layer in (plain, weighted):
        layer.build()
    plain.set_weights([rng.normal(size=w.shape) for w in plain.weights])
    weighted.set_weights(plain.get_weights())
    found = weighted({"genres": ids, "shares": np.array([[3.0, 1.0], [2.0, 5.0]])})
    repeated = np.array([[1, 1, 1, 2], [3, 3, 0, 0]], "int32")
    np.testing.assert_allclose(
        numpy(found), numpy(plain({"genres": repeated})), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        numpy(weighted.losses[0]), numpy(plain.losses[0]), rtol=1e-5
    )


def forms(backend):
    """Returns the ids and the weights in every form but the padded one."""
    ids, weights = BATCH["genres"], BATCH["shares"]
    present = ids != 0
    splits = np.append(0, np.cumsum(present.sum(axis=1))).astype("int32")
    pair = {"genres": (ids[present], splits), "shares": (weights[present], splits)}
    found = {"pair": pair}
    if backend == "tensorflow":
        import tensorflow as tf

        found["ragged"] = {
            name: tf.RaggedTensor.from_row_splits(*x) for name, x in pair.items()
        }
        found["sparse"] = {name: x.to_sparse() for name, x in found["ragged"].items()}
        found["mixed"] = {**found["ragged"], "shares": pair["shares"]}
    return found


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("form", ["pair", "ragged", "sparse", "mixed"])
def test_every_form_equals_the_padded_one(form, combiner, rng):
    inputs = forms(keras.backend.backend()).get(form)
    if inputs is None:
        pytest.skip("only TensorFlow has this form")
    layer = FeatureEmbedding([USER, genres(combiner)], 3, l2=1.0)
    layer.build()
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    expected = numpy(layer(BATCH)), [numpy(loss) for loss in layer.losses]
    found = numpy(layer({**BATCH, **inputs}))
    np.testing.assert_allclose(found, expected[0], rtol=1e-5, atol=1e-6)
    losses = [numpy(loss) for loss in layer.losses]
    np.testing.assert_allclose(losses, expected[1], rtol=1e-5)


def test_a_functional_model_and_training(rng, tmp_path):
    features = [USER, genres()]
    inputs = {k: x for f in features for k, x in f.keras_inputs().items()}
    assert list(inputs) == ["user", "genres", "shares"]
    assert features[1].keras_input().dtype.startswith("int")
    vectors = FeatureEmbedding(features, 3, embeddings_initializer="normal")(inputs)
    model = keras.Model(inputs, FMInteraction()(vectors))
    model.compile(fmlayers.optimizers.Adagrad(0.1), loss="mse")
    model.fit(BATCH, np.ones(5), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(BATCH, verbose=0), model.predict(BATCH, verbose=0), rtol=1e-6
    )


def test_a_nan_weight_reaches_its_row_alone():
    layer = FeatureEmbedding([USER, genres()], 3)
    shares = BATCH["shares"].copy()
    shares[0, 1] = np.nan
    shares[1, 2] = np.nan  # of the padding
    is_nan = np.isnan(numpy(layer({**BATCH, "shares": shares}))).any(axis=(1, 2))
    assert is_nan.tolist() == [True, False, False, False, False]


def test_a_model_reads_the_entry():
    model = FactorizationMachine([USER, genres()], 3)
    assert set(model.blank_example()) == {"user", "genres", "shares"}
    assert model.features_within(["genres", "shares"]) == ["genres"]
    assert model.features_within(["genres"]) == []
    selected = fmlayers.select_inputs(model.features, {**BATCH, "day": 1})
    assert list(selected) == ["user", "genres", "shares"]


SPLITS = np.array([0, 3, 5, 5, 8, 10], "int32")
FLAT = np.ones(10, "float32")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (None, "must have an entry 'shares'"),
        (np.ones((5, 2)), r"Weights of entry 'shares'.*\(5, 2\).*\(5, 3\) of the ids"),
        (np.ones(5), r"entry 'shares', which feature 'genres' reads, must be of shape"),
        (np.ones((5, 3), object), "must be numbers"),
        ((FLAT, SPLITS), r"shape of the ids.*shapes \[\(10,\), \(6,\)\]"),
    ],
)
def test_bad_weights_error(shares, message):
    layer = FeatureEmbedding([USER, genres()], 3)
    batch = {**BATCH, "shares": shares}
    if shares is None:
        del batch["shares"]
    check_error(message, lambda: layer(batch))


@pytest.mark.parametrize(
    "shares", [(FLAT[:9], SPLITS), (FLAT, np.array([0, 2, 5, 5, 8, 10], "int32"))]
)
def test_weights_of_other_rows_error(shares):
    layer = FeatureEmbedding([USER, genres()], 3)
    batch = {**BATCH, "genres": (np.ones(10, "int32"), SPLITS), "shares": shares}
    check_error("same row splits", lambda: layer(batch))


@pytest.mark.parametrize("weights", ["", "genres", 3])
def test_a_bad_name_error(weights):
    check_error(
        "`weights` must be None or the name of another entry",
        lambda: MultiCategorical("genres", 5, weights=weights),
    )
