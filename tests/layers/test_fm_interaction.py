import keras
import numpy as np
import pytest
from checks import check_error, check_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from fmlayers import FMInteraction


def pairwise(weights, inputs, mask=None, reduce="sum"):
    """The naive double loop over pairs of fields."""
    batch, fields, dim = inputs.shape
    output = np.zeros((batch, dim))
    for b in range(batch):
        for i in range(fields):
            for j in range(i + 1, fields):
                if mask is None or (mask[b, i] and mask[b, j]):
                    output[b] += inputs[b, i].astype(float) * inputs[b, j]
    return output.sum(axis=1, keepdims=True) if reduce == "sum" else output


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(3, 5, 4)).astype("float32")


@pytest.mark.parametrize("reduce", ["sum", "none"])
def test_layer(reduce, vectors, tmp_path):
    check_layer(
        lambda **kwargs: FMInteraction(reduce, **kwargs),
        {"inputs": vectors},
        lambda weights, inputs: pairwise(weights, inputs, reduce=reduce),
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("fields", [1, 2, 31, 32, 33, 64, 70])
def test_layer_of_many_fields(fields, rng, backend, tmp_path):
    if backend != "tensorflow":
        pytest.skip("it alone sums up many fields in parts")
    check_layer(
        FMInteraction,
        {"inputs": rng.normal(size=(2, fields, 1)).astype("float32")},
        lambda weights, inputs: pairwise(weights, inputs),
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives(training, backend):
    if backend != "tensorflow":
        pytest.skip("its training form alone has a gradient of its own")
    import tensorflow as tf

    layer = FMInteraction(dtype="float64")
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 34, 3)))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(layer(x, training=training) ** 2)
        z = tf.reduce_sum(inner.gradient(y, x) ** 2)
    found = outer.gradient(z, x).numpy()

    # y = sum p^2, dy/dx_i = 2 p (s - x_i) =: g_i, and so on by hand.
    values = x.numpy()
    s = values.sum(axis=1, keepdims=True)
    p = pairwise(None, values)[:, :, None]
    rest = s - values
    g = 2 * p * rest
    along = (g * rest).sum(axis=(1, 2), keepdims=True)
    expected = 4 * along * rest + 4 * p * (g.sum(axis=1, keepdims=True) - g)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("reduce", ["sum", "none"])
def test_masked_fields_take_part_in_no_pair(reduce, vectors, tmp_path):
    mask = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0] * 5], "bool")
    check_layer(
        lambda **kwargs: FMInteraction(reduce, **kwargs),
        {"inputs": vectors, "mask": mask},
        lambda weights, inputs, mask: pairwise(weights, inputs, mask, reduce),
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


def test_keras_mask_is_respected_and_ends_here(vectors):
    masked = vectors.copy()
    masked[0, 2] = masked[1, :] = 0.0
    inputs = keras.Input((5, 4))
    hidden = keras.layers.Masking()(inputs)
    # Scaling after the mask was made: only the mask can leave the fields out.
    hidden = keras.layers.Rescaling(1.0, offset=1.0)(hidden)
    output = FMInteraction()(hidden)
    model = keras.Model(inputs, output)
    mask = np.any(masked != 0.0, axis=-1)
    expected = pairwise(None, masked + 1.0, mask)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(masked)), expected, rtol=1e-5, atol=1e-5
    )
    assert FMInteraction().compute_mask(vectors, mask) is None


def test_one_field_gives_zero(rng):
    x = rng.normal(size=(4, 1, 8)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(FMInteraction()(x)), 0.0)


@pytest.mark.parametrize(
    ("policy", "unit"), [("mixed_float16", 2.0**-11), ("mixed_bfloat16", 2.0**-8)]
)
def test_cancelling_pairs_lose_only_the_rounding_of_the_inputs(policy, unit, rng):
    # A sum of fields near zero leaves -1/2 sum of squares, minus a tiny square:
    # then shift so that the two large sums nearly cancel instead.
    x = rng.normal(size=(16, 64, 8))
    x += (np.sqrt((x**2).sum(axis=1) / 64.0**2) - x.mean(axis=1))[:, None]
    exact = pairwise(None, x)
    assert np.abs(exact).max() < 0.05 * (x**2).sum(axis=(1, 2)).min()
    output = ops.convert_to_numpy(FMInteraction(dtype=policy)(x.astype("float32")))
    # First order in the rounding: |d y| <= unit * sum_i |x_i| |S - x_i|.
    rest = np.abs(x.sum(axis=1, keepdims=True) - x)
    bound = unit * (np.abs(x) * rest).sum(axis=(1, 2))[:, None]
    assert (np.abs(output - exact) <= 1.05 * bound + 1e-4).all()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**32 - 1)
)
def test_square_of_sum_is_the_pairwise_sum(batch, fields, dim, seed):
    x = np.random.default_rng(seed).normal(size=(batch, fields, dim)).astype("float32")
    output = ops.convert_to_numpy(FMInteraction("none")(x))
    expected = pairwise(None, x, reduce="none")
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_errors():
    check_error("`reduce` must be", lambda: FMInteraction("mean"))
    check_error(
        r"shape \(batch, fields, dim\)", lambda: FMInteraction()(np.ones((2, 3)))
    )
