"""Updates in pieces, against loops over rows."""

import keras
import numpy as np
import pytest
from keras import ops

from fmlayers import Categorical
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad, LazyAdam, _distinct_rows
from fmlayers.optimizers._distinct_rows import in_pieces
from tests.optimizers.test_row_gradients import L2, LARGE, LINEAR_L2, check_machine
from tests.optimizers.test_rows import OPTIMIZERS, RATE, Reference, make

needs_row_gradients = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch has gradients of whole tables"
)


def representatives(indices):
    """Returns the position of the last occurrence of each index."""
    last = {index: at for at, index in enumerate(indices)}
    return np.array([last[index] for index in indices], "int32")


@pytest.mark.parametrize("slices", [1, 4, 5, 8, 23])
def test_pieces_have_each_row_once(slices, monkeypatch, rng):
    monkeypatch.setattr(_distinct_rows, "PIECE", 4)
    indices = rng.integers(0, 9, slices).astype("int32")
    values = rng.normal(size=(slices, 2)).astype("float32")
    chosen = representatives(indices)
    pieces = in_pieces(*map(ops.convert_to_tensor, (indices, chosen, values)))
    rows, sums, is_row = (ops.convert_to_numpy(x) for x in pieces[:3])
    assert rows.shape[1] <= 4
    np.testing.assert_array_equal(np.sort(rows[is_row]), np.unique(indices))
    updated = is_row.any(1)
    np.testing.assert_array_equal(updated, np.arange(len(rows)) < int(pieces.count))
    for row, total in zip(rows[is_row], sums[is_row], strict=True):
        expected = values[indices == row].sum(axis=0)
        np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


@needs_row_gradients
@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.3, "weight_decay": 0.5}])
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_steps_in_pieces(kind, own, options, monkeypatch, rng):
    """On TensorFlow in XLA, with sixteen ids in a batch."""
    monkeypatch.setattr(_distinct_rows, "PIECE", 3)
    features = [Categorical("user", LARGE), Categorical("item", 6)]
    model = FactorizationMachine(features, 3, l2=L2, linear_l2=LINEAR_L2)
    optimizer = kind(RATE, **own, **options)
    model.compile(optimizer, loss="mse", jit_compile=True)
    check_machine(model, rng)


@needs_row_gradients
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_more_ids_than_a_piece(kind, jit_compile, rng):
    """As with small batches, which are updated at once."""
    rows = 40_000
    ids = rng.integers(0, rows, 2 * _distinct_rows.PIECE + 5)
    ids[:5000] = 7
    target = rng.normal(size=(len(ids), 1, 3)).astype("float32")
    optimizer = kind(RATE)
    model = make(optimizer, rows, jit_compile=jit_compile)
    reference = Reference(optimizer, model.get_weights()[0])
    model.train_on_batch({"user": ids}, target)
    reference.step(ids, target[:, 0])
    found = model.get_weights()[0]
    np.testing.assert_allclose(found, reference.table, rtol=2e-4, atol=2e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other shapes are known"
)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_unknown_numbers_of_ids_in_pieces(kind, jit_compile, monkeypatch, rng):
    """Also none at all."""
    import tensorflow as tf

    monkeypatch.setattr(_distinct_rows, "PIECE", 3)
    start = rng.normal(size=(LARGE, 2)).astype("float32")
    table = keras.Variable(start)
    optimizer = kind(RATE)
    optimizer.build([table])
    reference = Reference(optimizer, start)

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[
            tf.TensorSpec((None,), "int32"),
            tf.TensorSpec((None, 2), "float32"),
        ],
    )
    def step(ids, values):
        optimizer.apply([tf.IndexedSlices(values, ids, table.shape)], [table])

    for count in (7, 0, 3, 1):
        ids = rng.integers(0, 5, count).astype("int32")
        values = rng.normal(size=(count, 2)).astype("float32")
        step(ids, values)
        sums = {i: values[ids == i].sum(axis=0) for i in np.unique(ids)}
        reference.apply(sums)
        np.testing.assert_allclose(table.numpy(), reference.table, rtol=2e-4, atol=2e-6)
