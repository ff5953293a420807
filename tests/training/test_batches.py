import keras
import numpy as np
import pytest

from fmlayers.training.batches import ShuffledBatches


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
