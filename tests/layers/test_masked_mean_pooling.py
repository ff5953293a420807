import keras
import numpy as np
import pytest
from checks import Probe, check_error, check_layer
from keras import ops

from fmlayers import MaskedMeanPooling


def pool(variables, inputs, mask=None, combiner="mean", factors=None):
    """Loops over rows and values."""
    batch, length, dim = inputs.shape
    output = np.zeros((batch, dim))
    factors = np.ones((batch, length)) if factors is None else factors
    for b in range(batch):
        total, square = 0.0, 0.0
        for i in range(length):
            if mask is None or mask[b, i]:
                output[b] += factors[b, i] * inputs[b, i].astype(float)
                total += factors[b, i]
                square += factors[b, i] ** 2
        divisor = {"mean": total, "sum": 1.0, "sqrtn": np.sqrt(square)}[combiner]
        output[b] = output[b] / divisor if divisor else 0.0
    return output


@pytest.fixture
def values(rng):
    return rng.normal(size=(3, 4, 2)).astype("float32")


MASK = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], "bool")


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_layer(combiner, masked, weighted, values, rng, tmp_path):
    arguments = {"inputs": values}
    if masked:
        arguments["mask"] = MASK
    if weighted:
        arguments["weights"] = rng.uniform(0.5, 2.0, (3, 4)).astype("float32")

    # `weights` is an argument of the layer, too: the reference takes its weights
    # by position.
    def reference(variables, /, **arguments):
        return pool(
            variables,
            combiner=combiner,
            factors=arguments.pop("weights", None),
            **arguments,
        )

    check_layer(
        lambda **kwargs: MaskedMeanPooling(combiner=combiner, **kwargs),
        arguments,
        reference,
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_padding_is_never_read(combiner, values):
    values[~MASK] = np.nan
    output = MaskedMeanPooling(combiner=combiner)(values, mask=MASK)
    expected = pool(None, np.nan_to_num(values), MASK, combiner)
    np.testing.assert_allclose(ops.convert_to_numpy(output), expected, rtol=1e-5)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_weights_of_zero_are_an_empty_row(combiner, values):
    output = MaskedMeanPooling(combiner=combiner)(values, weights=np.zeros((3, 4)))
    np.testing.assert_array_equal(ops.convert_to_numpy(output), 0.0)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_weight_of_zero_leaves_any_value_out(combiner, broken, values, rng):
    factors = rng.uniform(0.5, 2.0, (3, 4)).astype("float32") * MASK
    expected = pool(None, values, MASK, combiner, factors)
    values[~MASK] = broken
    layer = MaskedMeanPooling(combiner=combiner)
    for name, arguments in {
        "padded": {"inputs": values, "weights": factors},
        "in a row": {
            "inputs": values.reshape(12, 2),
            "weights": factors.ravel(),
            "row_splits": np.array([0, 4, 8, 12], "int32"),
        },
    }.items():
        rest = {n: x for n, x in arguments.items() if n != "inputs"}
        found = ops.convert_to_numpy(layer(arguments["inputs"], **rest))
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
        probe = Probe(layer, arguments, np.ones((3, 2)))
        probe.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
        probe.train_on_batch(np.zeros((1, 1)), np.zeros((1, 1)))
        moved, reweighed = (ops.convert_to_numpy(v.value) for v in probe.moved)
        still = np.isfinite(values).reshape(moved.shape)
        assert np.isfinite(moved[still]).all(), name
        assert np.isfinite(reweighed).all(), name


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_negative_weights_and_those_that_cancel(combiner):
    x = np.array([[[1.0], [3.0]], [[1.0], [3.0]]], "float32")
    factors = np.array([[2.0, -1.0], [1.0, -1.0]], "float32")
    found = MaskedMeanPooling(combiner=combiner)(x, weights=factors)
    expected = pool(None, x, None, combiner, factors)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-6)


def test_a_nan_weight_breaks_only_its_row(values):
    factors = np.ones((3, 4), "float32")
    factors[1, 2] = np.nan
    found = ops.convert_to_numpy(MaskedMeanPooling()(values, weights=factors))
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]
    found = ops.convert_to_numpy(MaskedMeanPooling()(values, MASK, weights=factors))
    assert np.isfinite(found).all()  # it is masked there


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_a_row_whose_weights_are_zero_gets_no_gradient(combiner, values):
    # Unlike a masked row, nothing else keeps a 0 / 0 of its from flowing back.
    weights = np.array([[1, 2, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], "float32")
    layer = MaskedMeanPooling(combiner=combiner)
    probe = Probe(layer, {"inputs": values, "weights": weights}, np.ones((3, 2)))
    probe.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    probe.train_on_batch(np.zeros((1, 1)), np.zeros((1, 1)))
    moved, reweighed = (ops.convert_to_numpy(v.value) for v in probe.moved)
    assert np.isfinite(moved).all()
    assert np.isfinite(reweighed).all()
    np.testing.assert_array_equal(moved[1], values[1])
    if combiner != "sum":  # whose weights have a slope at 0, too
        np.testing.assert_array_equal(reweighed[1], weights[1])
    assert np.any(moved[0] != values[0])


def test_takes_up_a_keras_mask_and_hands_none_on():
    inputs = keras.Input((4,), dtype="int32")
    vectors = keras.layers.Embedding(5, 2, mask_zero=True)(inputs)
    output = MaskedMeanPooling()(vectors)
    model = keras.Model(inputs, output)
    ids = np.array([[1, 2, 0, 0], [0, 0, 0, 0]])
    table = model.layers[1].get_weights()[0]
    expected = [(table[1] + table[2]) / 2, [0.0, 0.0]]
    found = ops.convert_to_numpy(model(ids))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert getattr(output, "_keras_mask", None) is None


@pytest.mark.parametrize("axis", [2, -2])
def test_any_axis_but_the_batch(axis, rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    mask = rng.random((2, 3, 4)) < 0.5
    output = ops.convert_to_numpy(MaskedMeanPooling(axis=axis)(x, mask=mask))
    for field in range(3):
        expected = pool(None, x[:, field], mask[:, field])
        np.testing.assert_allclose(output[:, field], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("lengths", [(3, 0, 2), (0, 0), (4,), (0, 1, 0)])
def test_rows_after_another_equal_padded_ones(combiner, lengths, rng):
    x = rng.normal(size=(len(lengths), 4, 2)).astype("float32")
    factors = rng.uniform(0.5, 2.0, (len(lengths), 4)).astype("float32")
    inside = np.arange(4) < np.array(lengths)[:, None]
    present = inside & (rng.random(inside.shape) < 0.7)
    splits = np.cumsum([0, *lengths])
    layer = MaskedMeanPooling(combiner=combiner)
    for padded, flat in (
        ({"mask": inside}, {}),
        ({"mask": present}, {"mask": present[inside]}),
        (
            {"mask": present, "weights": factors},
            {"mask": present[inside], "weights": factors[inside]},
        ),
    ):
        found = layer(x[inside], row_splits=splits, **flat)
        expected = layer(x, **padded)
        assert found.shape == (len(lengths), 2)
        np.testing.assert_allclose(
            ops.convert_to_numpy(found), ops.convert_to_numpy(expected), atol=1e-6
        )


def test_ragged_equals_padded_and_masked(values, backend):
    if backend != "tensorflow":
        pytest.skip("ragged tensors exist on TensorFlow alone")
    import tensorflow as tf

    rows = [values[0, :3], values[1, :0], values[2, :2]]
    lengths = np.array([3, 0, 2])
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), lengths)
    mask = np.arange(4) < lengths[:, None]
    factors = np.random.default_rng(1).uniform(0.5, 2.0, (3, 4)).astype("float32")
    ragged_factors = tf.RaggedTensor.from_row_lengths(factors[mask], lengths)
    for combiner in ("mean", "sum", "sqrtn"):
        layer = MaskedMeanPooling(combiner=combiner)
        np.testing.assert_allclose(layer(ragged), layer(values, mask=mask), rtol=1e-6)
        np.testing.assert_allclose(
            layer(ragged, weights=ragged_factors),
            layer(values, mask=mask, weights=factors),
            rtol=1e-6,
        )
        check_error(
            "`weights` must be ragged",
            lambda layer=layer: layer(ragged, weights=factors),
        )
        inputs = keras.Input((None, 2), ragged=True)
        model = keras.Model(inputs, layer(inputs))
        np.testing.assert_allclose(model(ragged), layer(ragged), rtol=1e-6)


def test_errors(values):
    check_error("`axis` must be an integer", lambda: MaskedMeanPooling(axis=0))
    check_error("`combiner` must be", lambda: MaskedMeanPooling(combiner="max"))
    check_error(
        r"`axis` must be within 1 ... 2", lambda: MaskedMeanPooling(axis=3)(values)
    )
    check_error(
        "`mask` must have the shape of the inputs",
        lambda: MaskedMeanPooling(axis=2)(values, mask=MASK),
    )
    check_error(
        "`weights` must have the shape of the inputs",
        lambda: MaskedMeanPooling()(values, weights=np.ones(3)),
    )
    symbolic, short = keras.KerasTensor((None, 4, 2)), keras.KerasTensor((None,))
    for name in ("mask", "weights"):
        check_error(
            f"`{name}` must have the shape of the inputs",
            lambda x={name: short}: MaskedMeanPooling()(symbolic, **x),
        )
    splits = np.array([0, 1, 2])
    check_error(
        "`axis` must be 1 for ragged rows. Received: axis=2",
        lambda: MaskedMeanPooling(axis=2)(np.ones((2, 3, 4)), row_splits=splits),
    )
