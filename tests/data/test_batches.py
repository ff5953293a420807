import gc
import os
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from fmlayers._histories.index import HistoryIndex
from fmlayers._training.array_pipelines import from_function, in_order
from fmlayers.data import ShuffledBatches, without_padding
from fmlayers.data.pipelines import InTurn
from fmlayers.data.ragged import take


def batches(rows=10, batch_size=4, seed=0, epoch=0):
    row = np.arange(rows)
    inputs = {"id": row, "list": np.stack([row, -row], axis=1)}
    return ShuffledBatches(inputs, row * 0.5, batch_size, seed=seed, epoch=epoch)


def order(data):
    return np.concatenate([data[i][0]["id"] for i in range(len(data))])


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("batch_size", [1, 4, 8, 40])
def test_every_row_in_batches_of_one_size(rows, batch_size):
    data = batches(rows, batch_size)
    size = min(rows, batch_size)
    assert len(data) == -(-rows // size)
    for i in range(len(data)):
        inputs, targets = data[i]
        assert inputs["id"].shape == targets.shape == (size,)
        np.testing.assert_array_equal(inputs["list"][:, 1], -inputs["id"])
        np.testing.assert_array_equal(targets, inputs["id"] * 0.5)
    np.testing.assert_array_equal(np.unique(order(data)), np.arange(rows))
    # The last batch is filled up with the first rows, none of them twice.
    assert np.bincount(order(data)).max() <= 2
    np.testing.assert_array_equal(np.sort(order(data)[:rows]), np.arange(rows))


def test_seed_and_epoch_determine_the_order():
    first, second = order(batches(50)), order(batches(50, epoch=1))
    np.testing.assert_array_equal(first, order(batches(50)))
    assert (first != second).any()
    assert (first != order(batches(50, seed=1))).any()
    assert (second != order(batches(50, seed=1))).any()
    assert (first[:50] != np.arange(50)).any()


def test_a_later_start_goes_on_as_an_earlier_one():
    data = batches(50)
    for epoch in range(4):
        np.testing.assert_array_equal(order(data), order(batches(50, epoch=epoch)))
        data.on_epoch_end()


class Recorder(keras.Model):
    """Appends the ids of each batch that it is trained on to `seen`."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        if hasattr(inputs["id"], "numpy"):  # as no symbolic tensor has
            self.seen.extend(inputs["id"].numpy())
        return self.scale * keras.ops.cast(inputs["id"], "float32")


def test_fit_goes_on_as_it_would_have(backend):
    if backend == "jax":
        pytest.skip("JAX traces what it differentiates: there are no values to see")
    seen = []
    for start in (0, 2):
        keras.utils.set_random_seed(start)
        model = Recorder()
        model.compile("sgd", "mse", run_eagerly=True)
        data = ShuffledBatches(
            {"id": np.arange(50)}, np.arange(50), 8, seed=3, epoch=start
        )
        model.fit(data, initial_epoch=start, epochs=4, shuffle=False, verbose=0)
        # PyTorch's first call, which finds the shapes, is no step of the training.
        seen.append(np.reshape(model.seen[-(4 - start) * 7 * 8 :], (-1, 7 * 8)))
    np.testing.assert_array_equal(seen[0][2:], seen[1])
    for epoch in seen[0]:
        np.testing.assert_array_equal(np.sort(epoch[:50]), np.arange(50))
    assert len({tuple(epoch) for epoch in seen[0]}) == 4


def test_groups_keep_few_users_and_items_in_a_batch():
    rng = np.random.default_rng(0)
    inputs = {"user": rng.integers(0, 60, 3600), "item": rng.integers(0, 90, 3600)}
    rows = np.arange(3600)
    options = {"seed": 5, "group_by": ("user", "item"), "groups": 3}
    batches = ShuffledBatches(inputs, rows, 100, **options)
    orders = []
    for _ in range(2):
        seen = [batches[b] for b in range(len(batches))]
        orders.append(np.concatenate([rows for _, rows in seen]))
        np.testing.assert_array_equal(np.sort(orders[-1]), rows)  # each row once
        for name, whole in (("user", 60), ("item", 90)):
            distinct = [len(np.unique(x[name])) for x, _ in seen]
            assert np.median(distinct) <= whole / 3
        batches.on_epoch_end()
    assert (orders[0] != orders[1]).mean() > 0.9
    again = ShuffledBatches(inputs, rows, 100, epoch=1, **options)
    np.testing.assert_array_equal(again[0][1], orders[1][:100])


def test_successive_blocks_share_a_group():
    """So that a batch with rows of two blocks has those of few users and items."""
    rng = np.random.default_rng(0)
    inputs = {"user": rng.integers(0, 60, 7200), "item": rng.integers(0, 90, 7200)}
    options = {"seed": 5, "group_by": ("user", "item"), "groups": 6}
    batches = ShuffledBatches(inputs, np.arange(7200), 100, **options)
    counts = []
    for index in range(len(batches)):
        found = batches[index][0]
        groups = [
            len(np.unique(dealt[np.isin(ids, found[name])]))
            for name, (ids, dealt) in batches.dealt.items()
        ]
        counts.append(sum(groups))
    assert min(counts) == 2
    assert np.mean(np.array(counts) > 3) < 0.05


@pytest.mark.parametrize("rows", [9, 31, 100])
def test_a_stream_has_the_same_batches_without_end(rows):
    data = batches(rows, epoch=1)
    stream = data.stream()
    for _ in range(2):  # each pass from the start
        found = stream.take(3 * len(data)).as_numpy_iterator()
        again = batches(rows, epoch=1)
        for _ in range(3):
            for i in range(len(again)):
                inputs, targets = next(found)
                expected, expected_targets = again[i]
                np.testing.assert_array_equal(targets, expected_targets)
                for name, x in expected.items():
                    np.testing.assert_array_equal(inputs[name], x)
            again.on_epoch_end()
    assert data.epoch == 1


def test_two_passes_over_a_stream_at_the_same_time():
    stream = batches(100).stream()
    expected = [y for _, y in stream.take(40).as_numpy_iterator()]
    first, second = stream.as_numpy_iterator(), stream.as_numpy_iterator()
    for target in expected:
        np.testing.assert_array_equal(next(first)[1], target)
        np.testing.assert_array_equal(next(second)[1], target)


def test_an_error_ends_a_pass_over_a_stream():
    passes = []

    def values():
        passes.append(len(passes))
        for value in range(9):
            if value == 2 and len(passes) == 1:
                raise OSError("the disk is away")
            yield np.int64(value)

    data = from_function(InTurn(values), tf.TensorSpec((), tf.int64)).prefetch(4)
    found = data.as_numpy_iterator()
    assert [next(found), next(found)] == [0, 1]
    for _ in range(3):
        with pytest.raises(tf.errors.UnknownError, match="OSError: the disk is away"):
            next(found)
    assert passes == [0]
    assert list(data.take(4).as_numpy_iterator()) == [0, 1, 2, 3]
    assert passes == [0, 1]


def test_a_deleted_stream_releases_its_data():
    class Batches:
        def __iter__(self):
            return iter(np.arange(99))

    batches = Batches()
    pieces = InTurn(lambda batches=batches: iter(batches))
    data = from_function(pieces, tf.TensorSpec((), tf.int64)).prefetch(2)
    del pieces
    gc.collect()
    assert list(data.take(3).as_numpy_iterator()) == [0, 1, 2]
    released = weakref.ref(batches)
    del batches, data
    gc.collect()
    assert released() is None


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="streams are TensorFlow's alone"
)
def test_training_leaves_malloc_as_it_is():
    """TensorFlow logs it if an operation lowers the threshold of `malloc`."""
    program = """
import keras, numpy as np, fmlayers
features = [fmlayers.Categorical("id", 9)]
model = fmlayers.models.FactorizationMachine(features, 2)
model.compile("sgd", "mse")
ids, ones = {"id": np.arange(8)}, np.ones(8, "float32")
model.fit(ids, ones, batch_size=3, verbose=0)
data = fmlayers.data.ShuffledBatches(ids, ones, 4, seed=0)
model.fit(data.stream(), steps_per_epoch=2, shuffle=False, verbose=0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert " cpu_feature_guard.cc" in done.stderr  # a message of the same level
    assert "M_TRIM_THRESHOLD" not in done.stderr


def test_rows_in_order():
    ids = np.arange(10)
    batches = in_order(({"id": ids, "pair": np.stack([ids, -ids], 1)}, ids * 0.5), 4)
    found = list(batches.as_numpy_iterator())
    assert [len(targets) for _, targets in found] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), ids * 0.5)
    for inputs, targets in found:
        np.testing.assert_array_equal(inputs["id"], targets * 2)
        np.testing.assert_array_equal(inputs["pair"][:, 1], -inputs["id"])


def test_nobody_waits_for_a_tuning_thread():
    for dataset in (batches(9).stream(), in_order(np.arange(3), 2)):
        assert dataset.options().autotune.enabled is False


def test_fit_on_a_stream_goes_on_as_it_would_have():
    def trained(start, model):
        data = batches(50, epoch=start)
        model.fit(
            data.stream(),
            steps_per_epoch=len(data),
            initial_epoch=start,
            epochs=4,
            shuffle=False,
            verbose=0,
        )
        return keras.ops.convert_to_numpy(model.scale)

    def model():
        made = Recorder()
        made.compile(keras.optimizers.SGD(1e-4), "mse")
        return made

    whole = trained(0, model())
    first, second = model(), model()
    data = batches(50)
    options = {"steps_per_epoch": len(data), "epochs": 2, "shuffle": False}
    first.fit(data.stream(), verbose=0, **options)
    second.build({"id": (4,)})
    second.set_weights(first.get_weights())
    np.testing.assert_array_equal(trained(2, second), whole)


def ragged(rows=40, most=9):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, most + 1, rows)
    ids = rng.integers(1, 100, (rows, most)) * (np.arange(most) < lengths[:, None])
    return ids.astype("int32")


def test_without_padding():
    values, splits = without_padding(np.array([[0, 3, -1], [0, 0, 0], [7, 0, 0]]))
    np.testing.assert_array_equal(values, [3, -1, 7])
    np.testing.assert_array_equal(splits, [0, 2, 2, 3])
    values, splits = without_padding(np.zeros((0, 3), int))
    np.testing.assert_array_equal(splits, [0])
    with pytest.raises(ValueError, match=r"`ids` must be.*\(3,\)"):
        without_padding(np.arange(3))


@pytest.mark.parametrize("batch_size", [1, 8, 40])
def test_ragged_columns_cost_what_their_values_cost(batch_size):
    padded = ragged()
    padded[:3] = 0
    row = np.arange(40)
    inputs = {"row": row, "ids": without_padding(padded)}
    data = ShuffledBatches(inputs, row, batch_size, seed=0)
    streamed = data.stream().as_numpy_iterator()
    sizes = set()
    for i in range(len(data)):
        given, _ = data[i]
        for batch in (given, next(streamed)[0]):
            values, splits = batch["ids"]
            assert splits[0] == 0
            assert splits[-1] == len(values)
            for k, row in enumerate(batch["row"]):
                found = values[splits[k] : splits[k + 1]]
                expected = padded[row]
                np.testing.assert_array_equal(found[found != 0], expected[expected > 0])
        values, _ = given["ids"]
        needed = np.count_nonzero(padded[given["row"]])
        assert needed <= len(values) < needed + max(2, batch_size / 2)
        sizes.add(len(values))
    if batch_size == 8:
        assert len(sizes) < len(data)


def test_ragged_columns_have_one_size_in_all_epochs(rng):
    """XLA compiles the training step once for each size."""
    padded = np.where(rng.random((4096, 6)) < 0.35, 1, 0)
    row = np.arange(len(padded))
    data = ShuffledBatches({"ids": without_padding(padded)}, row, 1024, seed=0)
    totals, sizes = set(), set()
    for _ in range(20):
        for i in range(len(data)):
            values, splits = data[i][0]["ids"]
            totals.add(np.count_nonzero(values))
            sizes.add((len(values), len(splits)))
        data.on_epoch_end()
    assert len(totals) > 20
    assert len(sizes) == 1


def test_ragged_pools_have_few_sizes(rng):
    """A pool of shards has another mean than the next."""
    sizes = set()
    for _ in range(60):
        ids, splits = without_padding(np.where(rng.random((8000, 6)) < 0.35, 1, 0))
        rows = rng.permutation(8000).reshape(8, 1000)
        sizes.add(take((ids, splits), rows)[0].shape)
    assert len(sizes) <= 2


def test_inputs_of_other_lengths():
    with pytest.raises(
        ValueError, match="one row per target, 3 in all.*2 rows of 'ids'"
    ):
        ShuffledBatches(
            {"ids": without_padding(np.ones((2, 3)))}, np.arange(3), 2, seed=0
        )


def test_resumed_batches_bring_the_same_histories_along():
    index = HistoryIndex(
        "user", "item", 5, np.array([0, 0, 2, 3, 5, 5]), np.array([1, 3, 2, 1, 4]),
        pads=False,
    )  # fmt: skip
    inputs = {"user": np.array([1, 1, 2, 3, 3]), "item": np.array([1, 3, 2, 1, 2])}
    ratings = np.arange(5, dtype="float32")
    options = {"group_by": ("user",), "groups": 2, "histories": {"rated": index}}
    first = ShuffledBatches(inputs, ratings, 3, seed=3, **options)
    first.on_epoch_end()
    resumed = ShuffledBatches(inputs, ratings, 3, seed=3, epoch=1, **options)
    for i in range(len(first)):
        (a, y), (b, resumed_y) = first[i], resumed[i]
        np.testing.assert_array_equal(y, resumed_y)
        for x, resumed_x in zip(a["rated"], b["rated"], strict=True):
            np.testing.assert_array_equal(x, resumed_x)
        lists = a["rated"]
        for row, user in enumerate(a["user"]):
            at = lists.owners == lists.index[row]
            values = lists.rows[lists.values[at]]
            np.testing.assert_array_equal(values, {1: [1, 3], 2: [2], 3: [1, 4]}[user])
            is_own = a["item"][row] in values
            assert lists.own[row] == (a["item"][row] if is_own else 0)
