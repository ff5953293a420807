import keras
import ml_dtypes
import numpy as np
import pytest
from checks import check_error, check_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from pair_sums import (
    EPSILON,
    assert_gradient_within_bound,
    assert_value_within_bound,
    pairs_in_float64,
    uneven_vectors,
)

from fmlayers import FMInteraction
from fmlayers._training.mode import with_xla


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def uneven(seed, fields):
    """Fields of very different size: large ones, ties, cancelling sums, zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=0.1, size=(24, fields, 3))
    x[:6] *= 10.0 ** rng.integers(-9, 10, size=(6, fields, 3))
    x[6:12, rng.integers(fields)] *= 1e6
    x[12:18] = rng.choice([-1e5, 1e5, 3e-4, 0.0], size=(6, fields, 3))
    x[18:, -1] = -x[18:, :-1].sum(axis=1)
    return x.astype("float32")


def compiled(layer, backend):
    """Return the layer's call as one compiled program, as in training."""
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x: layer(x, training=True), jit_compile=True)
    if backend == "jax":
        import jax

        return jax.jit(lambda x: layer(x, training=True))
    return lambda x: layer(x, training=True)


def in_program(program, layer, backend):
    if program == "compiled":
        return compiled(layer, backend)
    if program == "training":
        return lambda x: layer(x, training=True)
    return layer


def gradient_of(function, x, backend):
    """Return the gradient of the sum of a function's results."""
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            variable = tf.Variable(x)
            y = function(variable)
        return ops.convert_to_numpy(tape.gradient(y, variable))
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: ops.sum(function(x)))(x))
    import torch

    variable = torch.tensor(x, requires_grad=True)
    function(variable).sum().backward()
    return variable.grad.numpy()


FIELDS = [2, 3, 10, 16, 17, 33, 70]


@pytest.mark.parametrize("program", ["inference", "training", "compiled"])
@pytest.mark.parametrize("fields", FIELDS)
def test_error_is_bounded_by_the_products_of_the_pairs(fields, program, backend):
    x = uneven(fields, fields)
    for reduce in ("none", "sum"):
        run = in_program(program, FMInteraction(reduce), backend)
        found = ops.convert_to_numpy(run(ops.convert_to_tensor(x)))
        assert_value_within_bound(found, x, reduce)


@pytest.mark.parametrize("program", ["inference", "training", "compiled"])
@pytest.mark.parametrize("fields", [1, *FIELDS])
def test_gradient_is_the_sum_of_the_others(fields, program, backend):
    x = uneven(fields, fields)
    run = in_program(program, FMInteraction(), backend)
    assert_gradient_within_bound(gradient_of(run, x, backend), x)


PROGRAMS = [
    "inference",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("training", "compiled")),
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "reduce", ["sum", pytest.param("none", marks=pytest.mark.slow)]
)
def test_bound_for_fields_of_any_size(reduce, program, backend):
    run = in_program(program, FMInteraction(reduce), backend)

    @settings(max_examples=25, deadline=None)
    @given(uneven_vectors())
    def check(x):
        found = ops.convert_to_numpy(run(ops.convert_to_tensor(x)))
        assert_value_within_bound(found, x, reduce)
        assert_gradient_within_bound(gradient_of(run, x, backend), x)

    check()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("policy", "unit", "largest"),
    [("mixed_float16", 2.0**-11, 3.0), ("mixed_bfloat16", 2.0**-8, 6.0)],
)
def test_bound_for_rounded_inputs(policy, unit, largest, program, backend):
    run = in_program(program, FMInteraction("none", dtype=policy), backend)
    dtype = ml_dtypes.finfo(policy.removeprefix("mixed_")).dtype

    @settings(max_examples=25, deadline=None)
    @given(uneven_vectors(-largest, largest))
    def check(x):
        x = x.astype(dtype).astype("float32")
        found = ops.convert_to_numpy(run(ops.convert_to_tensor(x)))
        assert_value_within_bound(found, x, "none")
        # The gradient leaves in the dtype of the inputs.
        assert_gradient_within_bound(gradient_of(run, x, backend), x, unit)

    check()


def test_large_and_small_fields():
    for large, small, product in ((1e4, 1e-3, 10.0), (1e20, 1e-10, 1e10)):
        for order in ((large, small), (small, large)):
            x = np.array([[[value, 0.0] for value in order]], "float32")
            found = float(ops.convert_to_numpy(FMInteraction()(x))[0, 0])
            np.testing.assert_allclose(found, product, rtol=1e-6)


@pytest.mark.parametrize(
    ("policy", "unit"), [("mixed_float16", 2.0**-11), ("mixed_bfloat16", 2.0**-8)]
)
def test_16_bits_round_the_inputs_and_nothing_else(policy, unit, rng):
    x = rng.normal(size=(16, 64, 8))
    x[:, 3] *= 1e3
    x = x.astype("float32")
    scale = pairs_in_float64(np.abs(x)).sum(axis=1, keepdims=True)
    found = ops.convert_to_numpy(FMInteraction(dtype=policy)(x))
    # Each of a pair's two factors is rounded once.
    bound = 2.0 * unit + unit**2 + (64 + 8) / 2 * EPSILON
    assert (np.abs(found - pairwise(None, x)) <= bound * scale).all()


def test_untelescoped_form_where_it_is_accurate(rng):
    x = rng.normal(size=(9, 12, 4)).astype("float32")
    squares = np.square(x.sum(axis=1)) - np.square(x).sum(axis=1)
    found = ops.convert_to_numpy(FMInteraction("none")(x))
    np.testing.assert_allclose(found, squares / 2, rtol=1e-4, atol=1e-4)


def test_unknown_number_of_fields(rng):
    model = keras.Sequential([keras.Input((None, 4)), FMInteraction()])
    for fields in (1, 2, 7):
        x = rng.normal(size=(3, fields, 4)).astype("float32")
        found = ops.convert_to_numpy(model(x))
        np.testing.assert_allclose(found, pairwise(None, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduce", ["sum", "none"])
def test_list_of_vectors(reduce, vectors):
    layer = FMInteraction(reduce)
    expected = ops.convert_to_numpy(layer(vectors))
    separate = [vectors[:, i] for i in range(vectors.shape[1])]
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(separate)), expected)
    inputs = [keras.Input((4,)) for _ in separate]
    model = keras.Model(inputs, FMInteraction(reduce)(inputs))
    assert model.output_shape == (None, 1 if reduce == "sum" else 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(separate)), expected)
    mask = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0] * 5], "bool")
    masked = ops.convert_to_numpy(layer(vectors, mask=mask))
    for masks in (mask, [mask[:, i] for i in range(5)]):
        found = ops.convert_to_numpy(layer(separate, mask=masks))
        np.testing.assert_array_equal(found, masked)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**32 - 1)
)
def test_square_of_sum_is_the_pairwise_sum(batch, fields, dim, seed):
    x = np.random.default_rng(seed).normal(size=(batch, fields, dim)).astype("float32")
    output = ops.convert_to_numpy(FMInteraction("none")(x))
    expected = pairwise(None, x, reduce="none")
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_errors(vectors):
    layer = FMInteraction()
    check_error("`reduce` must be", lambda: FMInteraction("mean"))
    check_error(r"shape \(batch, fields, dim\)", lambda: layer(np.ones((2, 3))))
    check_error(
        "tensors of the same size", lambda: layer([np.ones((2, 3)), np.ones((2, 4))])
    )
    check_error("list of tensors", lambda: layer([np.ones((2, 3, 1))] * 2))
    for shape in ((3, 5, 1), (3, 5, 4), (3,)):
        check_error(
            r"`mask` must be of shape \(batch, fields\)",
            lambda shape=shape: layer(vectors, mask=np.ones(shape, "bool")),
        )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="traces for XLA")
@pytest.mark.parametrize("fields", [5, 17, 39])
def test_a_step_that_xla_compiles_has_the_same_sums(fields, rng):
    import tensorflow as tf

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(FMInteraction()(x, training=True))
        return total, tape.gradient(total, x)

    x = rng.normal(size=(4, fields, 3)).astype("float32")
    total, gradient = with_xla(step)(tf.constant(x))
    sums = x.sum(axis=1, keepdims=True, dtype="float64")
    expected = (sums[:, 0] ** 2 - (x.astype("float64") ** 2).sum(axis=1)).sum() / 2
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, sums - x, rtol=1e-4, atol=1e-5)
