"""`Vector`, a dense vector per example as a field."""

import keras
import numpy as np
import pytest
from checks import check_error, check_layer
from keras import ops

import fmlayers
from fmlayers import (
    Categorical,
    FeatureEmbedding,
    FMInteraction,
    MultiCategorical,
    Numeric,
    Vector,
)
from fmlayers.models import FactorizationMachine

USER = Categorical("user", 4)
BATCH = {
    "user": np.array([1, 0, 3, 2], "int32"),
    # Ordinary, zero, missing, partly missing.
    "text": np.array(
        [[0.5, -2.0, 1.0], [0, 0, 0], [np.nan] * 3, [1.0, np.nan, 2.0]], "float32"
    ),
}


def numpy(x):
    return ops.convert_to_numpy(x).copy()


def built(features, dim=2, **kwargs):
    layer = FeatureEmbedding(features, dim, **kwargs)
    layer.build()
    return layer


def reference(use_bias, squares=None):
    def embed(weights, inputs):
        user, matrix, bias = [*weights, np.zeros(2)][:3]
        batch = len(inputs["user"])
        output = np.zeros((batch, 2, 2))
        output[:, 0] = user[inputs["user"]]
        for b, x in enumerate(inputs["text"]):
            if np.isnan(x).any():
                continue
            for i in range(3):
                output[b, 1] += x[i] * matrix[i]
            output[b, 1] += bias
            if squares is not None:
                squares.append(np.sum(matrix**2) + np.sum(bias**2))
        return output

    return embed


@pytest.mark.slow
@pytest.mark.parametrize("use_bias", [False, True])
def test_layer(use_bias, tmp_path):
    def penalty(weights, inputs):
        squares = []
        reference(use_bias, squares)(weights, inputs)
        return 0.5 * sum(squares) / max(len(inputs["user"]), 1)

    features = [USER, Vector("text", 3, use_bias=use_bias)]
    check_layer(
        lambda **kwargs: FeatureEmbedding(features, 2, l2={"text": 0.5}, **kwargs),
        {"inputs": BATCH},
        reference(use_bias),
        penalty=penalty,
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("use_bias", [False, True])
def test_values(use_bias, rng):
    layer = built([USER, Vector("text", 3, use_bias=use_bias)], l2=1.0)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    squares = []
    expected = reference(use_bias, squares)(layer.get_weights(), BATCH)
    np.testing.assert_allclose(numpy(layer(BATCH)), expected, rtol=1e-5, atol=1e-6)
    loss = numpy(layer.losses[1])
    np.testing.assert_allclose(loss, sum(squares) / 4, rtol=1e-5)


def test_a_vector_of_one_number_is_a_number(rng):
    x = np.array([0.5, np.nan, -2.0], "float32")
    vector = built([Vector("x", 1, use_bias=True)], l2=1.0)
    number = built([Numeric("x", use_bias=True)], l2=1.0)
    a, b = rng.normal(size=(2, 2))
    number.vectors["x"].assign(a)
    number.biases["x"].assign(b)
    vector.set_weights([a[None], b])
    found, expected = vector({"x": x[:, None]}), number({"x": x})
    np.testing.assert_allclose(numpy(found), numpy(expected), rtol=1e-6)
    np.testing.assert_allclose(numpy(vector.losses[0]), numpy(number.losses[0]))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool"])
def test_every_type_of_number(dtype, rng):
    layer = built([Vector("x", 3)])
    x = np.array([[1, 0, 1], [0, 1, 1]])
    expected = x @ numpy(layer.vectors["x"])
    found = numpy(layer({"x": x.astype(dtype)}))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_functional_model_trains_and_loads(tmp_path):
    features = [USER, Vector("text", 3)]
    inputs = {feature.name: feature.keras_input() for feature in features}
    assert inputs["text"].shape == (None, 3)
    vectors = FeatureEmbedding(features, 2)(inputs)
    model = keras.Model(inputs, FMInteraction()(vectors))
    model.compile(fmlayers.optimizers.LazyAdam(0.1), loss="mse")
    model.fit(BATCH, np.ones(4), epochs=3, verbose=0)
    expected = model.predict(BATCH, verbose=0)
    assert np.isfinite(expected).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(BATCH, verbose=0), expected, rtol=1e-6)


def test_a_missing_vector_has_no_gradient():
    layer = built([Vector("text", 3, use_bias=True)])
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    before = [numpy(w) for w in layer.weights]
    model.compile("sgd", loss="mse")
    model.train_on_batch({"text": BATCH["text"][2:]}, np.ones((2, 1)))
    for weight, expected in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), expected)


def test_a_model_of_vectors(rng, tmp_path):
    rows = rng.normal(size=(4, 2)).astype("float32")
    features = [USER, Vector("text", 3, use_bias=True)]
    model = FactorizationMachine(
        features,
        2,
        embeddings_initializer={"text": rows},
        trainable={"text": False},
    )
    np.testing.assert_array_equal(numpy(model.factors.vectors["text"]), rows[:3])
    np.testing.assert_array_equal(numpy(model.factors.biases["text"]), rows[3])
    assert model.blank_example()["text"].shape == (1, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.features == features
    np.testing.assert_array_equal(numpy(loaded(BATCH)), numpy(model(BATCH)))
    assert not loaded.factors.vectors["text"].trainable
    parts = fmlayers.explain.explain(model, BATCH)
    total = parts.bias + parts.matrix.sum(axis=(1, 2))
    np.testing.assert_allclose(total, parts.score, rtol=1e-5, atol=1e-6)


ADVICE = "For a dense vector per example, use `Vector`"


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (Categorical("x", 9), np.ones((4, 3)), rf"shape \(4, 3\). {ADVICE}"),
        (Categorical("x", 9), np.ones((4, 3), "float16"), ADVICE),
        (Categorical("x", 9), np.ones((4, 3), int), "use `MultiCategorical`"),
        (
            MultiCategorical("x", 9),
            np.ones((4, 3)),
            f"other ids. {ADVICE}. Received: dt",
        ),
        (Numeric("x"), np.ones((4, 3)), ADVICE),
        (
            Vector("x", 3),
            np.ones((4, 2)),
            r"shape \(batch, 3\). Received: shape \(4, 2\)",
        ),
        (Vector("x", 3), np.ones(4), r"\(batch, 3\).*use `Numeric`"),
        (Vector("x", 1), np.ones(4), r"\(batch, 1\)"),
        (Vector("x", 3), np.ones((4, 3, 1)), r"\(batch, 3\)"),
        (Vector("x", 3), np.full((4, 3), "a"), "must be numbers"),
        (Vector("x", 3), [[1.0, 2.0, 3.0]], r"convert it with `np.array"),
        (Vector("x", 3), None, "of type NoneType"),
    ],
)
def test_bad_entries_error(feature, value, message):
    layer = FeatureEmbedding([feature], 2)
    check_error(message, lambda: layer({"x": value}))


def test_an_id_that_is_a_float_is_not_a_vector():
    layer = FeatureEmbedding([Categorical("x", 9)], 2)
    with pytest.raises(ValueError, match="only up to 2") as error:
        layer({"x": np.ones(4, "float32")})
    assert "Vector" not in str(error.value)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "3"])
def test_a_bad_size_error(size):
    message = "`size` must be a positive integer. .* for feature 'x'"
    check_error(message, lambda: Vector("x", size))


def test_a_bad_bias_error():
    check_error("`use_bias` must be True or", lambda: Vector("x", 3, use_bias="no"))
