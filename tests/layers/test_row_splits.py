"""Row splits that are invalid: refused in eager code, clamped in compiled code."""

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import FeatureEmbedding, MaskedMeanPooling, MultiCategorical
from fmlayers.data import ShuffledBatches

IDS = np.array([1, 2, 3], "int32")
# Invalid row splits of three values, the fault, and the rows in compiled code.
INVALID = {
    "beyond the values": ([0, 2, 9], "9 as the last", [[1, 2], [3]]),
    "descending": ([0, 3, 1], "1 after 3", [[1, 2, 3], []]),
    "descending from the first": ([3, 2, 0], "3 as the first", [[1, 2], [3]]),
    "not from 0": ([1, 2, 3], "1 as the first", [[1, 2], [3]]),
    "a negative first": ([-1, 2, 3], "-1 as the first", [[1, 2], [3]]),
    "a negative one": ([0, -2, 3], "-2 after 0", [[], [1, 2, 3]]),
    "before the end": ([0, 1, 2], "2 as the last", [[1], [2, 3]]),
    "far beyond": ([0, 2**31 - 1, 3], "3 after 2147483647", [[1, 2, 3], []]),
    "in disorder": ([0, 2, 1, 3], "1 after 2", [[1], [2], [3]]),
}
WRONG_FORM = {
    "floats": (np.array([0.0, 2.0, 3.0]), "dtype=float"),
    "Booleans": (np.array([False, True, True]), "dtype=bool"),
    "empty": (np.array([], "int32"), r"shape \(0,\)"),
    "two axes": (np.array([[0, 3]]), r"shape"),
}


def padded(rows):
    length = max(map(len, rows))
    return np.array([row + [0] * (length - len(row)) for row in rows], "int32")


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture
def layer():
    layer = FeatureEmbedding([MultiCategorical("genres", 5)], 3)
    layer.build()
    return layer


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", INVALID)
def test_invalid_row_splits_error(name, dtype, layer):
    splits, fault, _ = INVALID[name]
    splits = np.array(splits, dtype)
    message = f"Row splits of .*must be integers .*of values, 3. Received: {fault}"
    x = np.ones((3, 2), "float32")
    for form in (np.asarray, ops.convert_to_tensor):
        pair = (form(IDS), form(splits))
        check_error(f"feature 'genres'.*{fault}", lambda p=pair: layer({"genres": p}))
        check_error(message, lambda p=pair: layer.fields({"genres": p}, ["genres"]))
        check_error(message, lambda p=pair: MaskedMeanPooling()(x, row_splits=p[1]))
    targets = np.zeros(len(splits) - 1)
    check_error(
        message,
        lambda: ShuffledBatches({"genres": (IDS, splits)}, targets, 2, seed=0),
    )


@pytest.mark.parametrize("name", WRONG_FORM)
def test_row_splits_of_a_wrong_form_error(name, layer):
    splits, fault = WRONG_FORM[name]
    message = f"ow splits.*Received: .*{fault}"
    check_error(message, lambda: layer({"genres": (IDS, splits)}))
    x = np.ones((3, 2), "float32")
    check_error(message, lambda: MaskedMeanPooling()(x, row_splits=splits))
    symbolic = [
        keras.KerasTensor(each.shape, dtype=each.dtype.name) for each in (IDS, splits)
    ]
    check_error(message, lambda: layer({"genres": tuple(symbolic)}))
    check_error(
        message,
        lambda: ShuffledBatches({"genres": (IDS, splits)}, np.zeros(2), 2, seed=0),
    )


def compiled_forms(backend):
    """Yields functions that compile a function of two tensors."""
    if backend == "tensorflow":
        import tensorflow as tf

        yield "graph", tf.function
        yield "XLA", lambda f: tf.function(f, jit_compile=True)
        unknown = [tf.TensorSpec([None], "int32")] * 2
        yield "any length", lambda f: tf.function(f, input_signature=unknown)
    elif backend == "jax":
        import jax

        yield "jit", jax.jit
    else:
        import torch

        # After some compilations of the same code, even in other tests, PyTorch runs
        # it eagerly.
        torch.compiler.reset()
        yield "compile", lambda f: torch.compile(f, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_compiled_code_clamps_row_splits(layer, backend):
    def embed(ids, splits):
        return layer({"genres": (ids, splits)})

    for form, compiled in compiled_forms(backend):
        function = compiled(embed)
        for name, (splits, _, rows) in INVALID.items():
            pair = (ops.convert_to_tensor(x) for x in (IDS, np.array(splits, "int32")))
            np.testing.assert_allclose(
                numpy(function(*pair)),
                numpy(layer({"genres": padded(rows)})),
                atol=1e-6,
                err_msg=f"{form}, {name}",
            )


def test_a_compiled_step_clamps_row_splits(layer):
    inputs = {
        "genres": tuple(
            keras.Input((), dtype="int32", name=name) for name in ("ids", "splits")
        )
    }
    model = keras.Model(inputs, layer(inputs))
    for splits, _, rows in list(INVALID.values())[:2]:
        pair = (IDS, np.array(splits, "int32"))
        expected = numpy(layer({"genres": padded(rows)}))
        if keras.backend.backend() == "torch":  # its steps are not compiled
            check_error(
                "Row splits", lambda p=pair: model.predict_on_batch({"genres": p})
            )
        else:
            found = model.predict_on_batch({"genres": pair})
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_unchecked_ragged_and_unsorted_sparse_tensors_error(layer, backend):
    if backend != "tensorflow":
        pytest.skip("ragged tensors exist on TensorFlow alone")
    import tensorflow as tf

    ragged = tf.RaggedTensor.from_row_splits(IDS, [0, 3, 1], validate=False)
    check_error("genres.*1 after 3", lambda: layer({"genres": ragged}))
    vectors = tf.RaggedTensor.from_row_splits(
        np.ones((3, 2)), [0, 2, 9], validate=False
    )
    check_error("9 as the last", lambda: MaskedMeanPooling()(vectors))
    for rows, count in (([1, 0, 1], 2), ([0, 1, 2], 2)):
        indices = np.array([[row, i] for i, row in enumerate(rows)])
        sparse = tf.SparseTensor(indices, IDS, [count, 3])
        check_error(
            "sparse feature 'genres'.*sorted by row.*`tf.sparse.reorder`",
            lambda x=sparse: layer({"genres": x}),
        )


@pytest.mark.parametrize("name", INVALID)
def test_row_splits_of_weights_are_those_of_the_ids(name):
    layer = FeatureEmbedding([MultiCategorical("genres", 5, weights="shares")], 3)
    valid, splits = np.array([0, 2, 3], "int32"), np.array(INVALID[name][0], "int32")
    weights = np.ones(3, "float32")
    for form in (np.asarray, ops.convert_to_tensor):

        def call(ids, shares, form=form):
            pair = {"genres": (form(IDS), form(ids))}
            return layer({**pair, "shares": (form(weights), form(shares))})

        call(valid, valid.astype("int64"))
        check_error("'shares'.*same row splits", lambda c=call: c(valid, splits))
        check_error("Row splits of feature 'genres'", lambda c=call: c(splits, splits))


def test_row_splits_of_weights_are_integers():
    layer = FeatureEmbedding([MultiCategorical("genres", 5, weights="shares")], 3)
    splits = np.array([0, 2, 3], "int32")
    shares = np.ones(3, "float32"), splits.astype("float32")
    message = "Row splits of entry 'shares'.*dtype=float32"
    check_error(message, lambda: layer({"genres": (IDS, splits), "shares": shares}))
