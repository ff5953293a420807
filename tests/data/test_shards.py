import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pandas as pd
import pytest

import fmlayers
from fmlayers.data import DataError, Encoder, ShardedBatches, write_shards

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = {"row": "categorical", "genres": "multi_categorical", "age": "numeric"}
GENRES = ["Action", "Drama", "War"]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rows = np.arange(400)
    return pd.DataFrame(
        {
            "row": rows,
            "genres": [tuple(GENRES[: rng.integers(4)]) for _ in rows],
            "age": np.where(rng.random(400) < 0.1, np.nan, rng.normal(size=400)),
            "rating": rows / 2,
        }
    )


@pytest.fixture(scope="module")
def encoder(table):
    return Encoder(COLUMNS).fit(table)


@pytest.fixture(scope="module")
def shards(table, encoder, tmp_path_factory):
    """Return a folder of 4 files with 25 row groups in all, the smallest of 4 rows."""
    folder = tmp_path_factory.mktemp("shards")
    parts = [table[:150], table[150:290], table[290:296], table[296:]]
    assert write_shards(parts, folder, encoder, group_size=17) == 400
    return folder


def batches(data, count):
    """Return the first batches of a stream, as arrays."""
    return list(data.stream().take(count).as_numpy_iterator())


def ratings(data, count=None):
    count = len(data) if count is None else count
    return np.array([y for _, y in batches(data, count)])


def test_rows_keep_together(shards, table, encoder):
    data = ShardedBatches(shards, 16, seed=0, mixed=3)
    assert len(data) == 400 // 16
    encoded = encoder.transform(table)
    for inputs, targets in batches(data, 2 * len(data)):
        assert set(inputs) == set(COLUMNS)
        rows = (targets * 2).astype(int)
        for name in ("row", "age"):
            assert inputs[name].dtype == encoded[name].dtype
            np.testing.assert_array_equal(inputs[name], encoded[name][rows])
        values, splits = inputs["genres"]
        assert len(splits) == 17
        assert splits[-1] == len(values)
        for i, row in enumerate(rows):
            ids = values[splits[i] : splits[i + 1]]
            expected = encoded["genres"][row]
            np.testing.assert_array_equal(ids[ids != 0], expected[expected != 0])


@pytest.mark.parametrize("mixed", [1, 4, 100])
@pytest.mark.parametrize("batch_size", [1, 16, 40, 400])
def test_an_epoch_has_each_row_once(shards, batch_size, mixed):
    data = ShardedBatches(shards, batch_size, seed=1, mixed=mixed)
    both = ratings(data, 2 * len(data)).reshape(2, -1)
    for epoch in both:
        assert epoch.size == len(data) * batch_size == 400
        np.testing.assert_array_equal(np.sort(epoch), np.arange(400) / 2)
    assert (both[0] != both[1]).mean() > 0.9


def test_what_does_not_fill_a_batch_is_left_out_of_the_epoch(shards):
    data = ShardedBatches(shards, 60, seed=0)
    assert len(data) == 6
    first, second = ratings(data, 12).reshape(2, -1)
    assert len(np.unique(first)) == len(np.unique(second)) == 360
    assert len(np.union1d(first, second)) > 360


def test_rows_of_far_groups_meet(shards):
    data = ShardedBatches(shards, 40, seed=0, mixed=100)
    rows = ratings(data) * 2
    # Batches of even rows would have a standard deviation of 400 / sqrt(12) each.
    np.testing.assert_allclose(rows.std(axis=1), 400 / 12**0.5, rtol=0.35)


@pytest.mark.parametrize("mixed", [1, 3, 100])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (0, 24), (1, 0), (2, 13)])
def test_a_later_start_goes_on_as_an_earlier_one(shards, mixed, epoch, batch):
    options = {"seed": 5, "mixed": mixed}
    whole = ratings(ShardedBatches(shards, 16, **options), 4 * 25)
    later = ShardedBatches(shards, 16, epoch=epoch, batch=batch, **options)
    start = epoch * 25 + batch
    np.testing.assert_array_equal(ratings(later, 30), whole[start : start + 30])


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_share_the_rows(shards, workers):
    data = [
        ShardedBatches(shards, 8, seed=2, worker=worker, workers=workers)
        for worker in range(workers)
    ]
    assert len({len(each) for each in data}) == 1
    epochs = [ratings(each, 2 * len(each)).reshape(2, -1) for each in data]
    for epoch in range(2):
        rows = np.concatenate([each[epoch] for each in epochs])
        assert len(np.unique(rows)) == rows.size > 150
    assert len(np.intersect1d(epochs[0][0], epochs[0][1])) < epochs[0][0].size


@pytest.mark.slow
def test_a_process_of_another_hash_seed_reads_the_same(shards):
    code = f"""
        import json
        from fmlayers.data import ShardedBatches
        data = ShardedBatches({str(shards)!r}, 16, seed=3)
        taken = data.stream().take(9).as_numpy_iterator()
        print(json.dumps([y.tolist() for _, y in taken]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    data = ShardedBatches(shards, 16, seed=3)
    np.testing.assert_array_equal(found, ratings(data, 9))


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_training_from_shards_equals_training_from_memory(
    shards, encoder, steps_per_execution
):
    def trained(batches, jit_compile):
        keras.utils.set_random_seed(0)
        model = fmlayers.models.FactorizationMachine(encoder.features, 4)
        model.compile(
            fmlayers.optimizers.LazyAdam(0.01),
            "mse",
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        model.fit(batches, steps_per_epoch=25, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    data = ShardedBatches(shards, 16, seed=0)
    memory = []
    for inputs, targets in batches(data, 50):
        values, splits = inputs["genres"]
        padded = np.zeros((16, 4), "int32")
        for row in range(16):
            ids = values[splits[row] : splits[row + 1]]
            ids = ids[ids != 0]
            padded[row, : len(ids)] = ids
        memory.append(({**inputs, "genres": padded}, targets))
    expected = trained((batch for batch in memory), jit_compile=False)
    for jit_compile in (False, True):
        found = trained(data.stream(), jit_compile)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def write(path, **columns):
    parquet.write_table(pa.table(columns), path)


def test_errors_of_the_files(tmp_path):
    def open_(**options):
        return ShardedBatches(tmp_path, 2, seed=0, **options)

    with pytest.raises(DataError, match="contains no Parquet files"):
        open_()
    write(tmp_path / "a.parquet", user=[1, 2, 3], rating=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match=r"a\.parquet lacks the column 'stars'.*'user'"):
        open_(target="stars")
    with pytest.raises(DataError, match=r"too few rows.*per worker \(2\): 3 rows"):
        open_(workers=2)
    write(tmp_path / "b.parquet", user=["ann"], rating=[1.0])
    with pytest.raises(DataError, match=r"b\.parquet: column 'user'.*string.*Encode"):
        open_()
    write(tmp_path / "b.parquet", user=[1.0], rating=[1.0])
    with pytest.raises(
        DataError, match=r"the same columns.*b\.parquet has user: double"
    ):
        open_()
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"b\.parquet is not a Parquet file"):
        open_()


def test_errors_of_the_arguments(shards):
    for name, value in (
        ("batch_size", 0),
        ("epoch", -1),
        ("batch", -1),
        ("mixed", 0),
        ("workers", 0),
    ):
        options = {"batch_size": 16, "seed": 0, name: value}
        with pytest.raises(ValueError, match=f"`{name}` must be at least"):
            ShardedBatches(shards, **options)
    with pytest.raises(ValueError, match=r"`worker` must be one of 0 \.\.\. 1"):
        ShardedBatches(shards, 16, seed=0, worker=2, workers=2)
    with pytest.raises(ValueError, match="`batch` must be less than 25"):
        ShardedBatches(shards, 16, seed=0, batch=25)


def test_errors_of_writing(tmp_path, table, encoder):
    with pytest.raises(DataError, match="table 0 lacks the column 'stars'"):
        write_shards(table, tmp_path / "a", encoder, target="stars")
    numbers = table.assign(age=[*range(152), np.nan, *range(247)])
    parts = [numbers[:150], numbers[150:]]
    with pytest.raises(DataError, match=r"table 1, row 2: column 'age' is missing"):
        write_shards(parts, tmp_path / "b", encoder, target="age")
    assert not [*(tmp_path / "b").iterdir()]  # nothing of the first table either
    words = table.assign(rating="good")
    with pytest.raises(DataError, match="'rating', row 0: must be a finite number"):
        write_shards(words, tmp_path / "b", encoder)
    assert write_shards(table, tmp_path / "b", encoder) == 400
    write_shards(table, tmp_path / "c", encoder)
    before = (tmp_path / "c" / "00000.parquet").read_bytes()
    with pytest.raises(DataError, match="already contains Parquet files"):
        write_shards(table[:3], tmp_path / "c", encoder)
    assert (tmp_path / "c" / "00000.parquet").read_bytes() == before
