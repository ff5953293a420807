import itertools

import numpy as np

from fmlayers.data import without_padding
from fmlayers.runs.sampled_batches import SampledBatches


def make(rng, **options):
    users, items = rng.integers(0, 20, 300), rng.integers(0, 30, 300)
    catalog = {"item": np.arange(30) + 100, "genres": rng.integers(0, 5, (30, 2))}
    inputs = {
        "user": users + 50,
        "day": rng.normal(size=300),
        "item": catalog["item"][items],
        "genres": catalog["genres"][items],
    }
    defaults = {"negatives": 3, "seed": 5}
    batches = SampledBatches(inputs, catalog, items, users, 64, **defaults | options)
    return batches, inputs, catalog, users, items


def test_groups_of_one_rating_and_items_not_rated(rng):
    batches, inputs, catalog, users, items = make(rng)
    rated = set(zip(users.tolist(), items.tolist(), strict=True))
    days = []
    for index in range(len(batches)):
        x, y = batches[index]
        np.testing.assert_array_equal(y.reshape(-1, 4), [[1, 0, 0, 0]] * 64)
        days.append(x["day"][::4])
        # What isn't the item's is that of the rating.
        for name in ("user", "day"):
            groups = x[name].reshape(-1, 4)
            np.testing.assert_array_equal(groups, groups[:, :1].repeat(4, axis=1))
        np.testing.assert_array_equal(x["genres"], catalog["genres"][x["item"] - 100])
        pairs = zip(x["user"] - 50, x["item"] - 100, y, strict=True)
        assert all(((u, i) in rated) == (label == 1) for u, i, label in pairs)
    assert set(np.concatenate(days)) == set(inputs["day"])


def test_draws_anew_each_epoch_and_the_same_by_seed(rng):
    batches, *_ = make(rng)
    first = batches[0][0]["item"].copy()
    np.testing.assert_array_equal(batches[0][0]["item"], first)
    batches.on_epoch_end()
    second = batches[0][0]["item"]
    assert (first != second).mean() > 0.5
    resumed, *_ = make(np.random.default_rng(0), epoch=1)
    expected, *_ = make(np.random.default_rng(0))
    expected.on_epoch_end()
    np.testing.assert_array_equal(resumed[0][0]["item"], expected[0][0]["item"])


def test_pairs_seen_elsewhere_are_not_drawn(rng):
    everything = np.repeat(np.arange(20), 29), np.tile(np.arange(29), 20)
    some, *_ = make(rng, seen=everything)
    x, y = some.whole()
    assert set(x["item"][y == 0]) == {129}
    assert len(y) == 4 * 64 * len(some)


def test_one_who_rated_everything_gets_something(rng):
    everything = np.repeat(np.arange(20), 30), np.tile(np.arange(30), 20)
    some, *_ = make(rng, seen=everything)
    assert some[0][0]["item"].shape == (256,)


def test_a_stream_has_the_same_batches(rng):
    _, inputs, catalog, users, items = make(rng)
    options = {"negatives": 3, "seed": 5}
    padded = SampledBatches(inputs, catalog, items, users, 8, **options)
    ragged = SampledBatches(
        {**inputs, "genres": without_padding(inputs["genres"])},
        {**catalog, "genres": without_padding(catalog["genres"])},
        items,
        users,
        8,
        **options,
    )
    streamed = ragged.stream().as_numpy_iterator()
    for _ in range(2):
        for index in range(len(padded)):
            expected, labels = padded[index]
            found, found_labels = next(streamed)
            np.testing.assert_array_equal(found_labels, labels)
            for name in ("user", "item", "day"):
                np.testing.assert_array_equal(found[name], expected[name])
            values, splits = found["genres"]
            assert splits[-1] == len(values)
            rows = [values[a:b] for a, b in itertools.pairwise(splits)]
            for row, genres in zip(rows, expected["genres"], strict=True):
                np.testing.assert_array_equal(row[row > 0], genres[genres > 0])
        padded.on_epoch_end()
    assert ragged.epoch == 0  # `fit` moves it, the stream does not


def test_the_batches_of_a_seed_stay_the_same():
    """A resumed run of an older version continues with the same rows."""
    batches, *_ = make(np.random.default_rng(0), group_by=("user",), groups=3)
    assert len(batches) == 5
    for epoch, index, users, items, checksum in (
        (0, 0, [0, 17], [21, 25, 0, 0, 29, 24, 0, 4], 3735072),
        (0, 4, [14, 19], [23, 4, 21, 27, 2, 21, 9, 25], 3743067),
        (1, 0, [8, 8], [22, 3, 23, 23, 21, 14, 23, 8], 3767358),
        (1, 4, [17, 13], [20, 28, 0, 23, 12, 14, 1, 8], 3740404),
    ):
        if batches.epoch != epoch:
            batches.on_epoch_end()
        x, _ = batches[index]
        assert (x["user"][:8:4] - 50).tolist() == users
        assert (x["item"][:8] - 100).tolist() == items
        assert (x["item"] * np.arange(256)).sum() == checksum
