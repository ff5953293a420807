import itertools
import json
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pandas as pd
import pytest
from kill_points import kill_points

import fmlayers
from fmlayers.data import DataError, Encoder, ShardedBatches, write_shards

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = {"row": "categorical", "genres": "multi_categorical", "age": "numeric"}
GENRES = ["Action", "Drama", "War"]
RATINGS = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


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
    with pytest.raises(DataError, match="row 0: column 'rating' must be a finite"):
        write_shards(words, tmp_path / "b", encoder)
    assert write_shards(table, tmp_path / "b", encoder) == 400
    write_shards(table, tmp_path / "c", encoder)
    before = (tmp_path / "c" / "00000.parquet").read_bytes()
    with pytest.raises(DataError, match="already contains Parquet files"):
        write_shards(table[:3], tmp_path / "c", encoder)
    assert (tmp_path / "c" / "00000.parquet").read_bytes() == before


def small_table():
    return pd.DataFrame(
        {
            "row": range(6),
            "genres": [("War",), (), ("War", "Drama"), ("Action",), (), ("War",)],
            "age": [1.0, 2.0, np.nan, 4.0, 5.0, 6.0],
            "rating": RATINGS,
        }
    )


def write_small(folder):
    table = small_table()
    encoder = Encoder(COLUMNS).fit(table)
    write_shards([table[:2], table[2:4], table[4:]], folder / "shards", encoder)


def is_whole(folder):
    """Return whether the set is read whole; it must be refused otherwise."""
    if refusal(lambda: ShardedBatches(folder, 1, seed=0), str(folder)):
        return False
    assert sorted(ratings(ShardedBatches(folder, 1, seed=0)).ravel()) == RATINGS
    return True


def refusal(read, name):
    """Return whether `read` raises a `DataError`, which must contain `name`."""
    try:
        read()
    except DataError as error:
        if name in str(error):
            return True
        raise
    return False


@pytest.mark.slow
def test_a_kill_leaves_a_whole_set_or_none_and_a_rerun_starts_over(tmp_path):
    theirs = tmp_path / "shards" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("not ours")
    refused, points = 0, 0
    for point in kill_points(write_small, tmp_path, imports=["pyarrow.parquet"]):
        points += 1
        if is_whole(theirs.parent):
            continue
        refused += 1
        point.run(write_small)
        assert is_whole(theirs.parent), point
        names = sorted(path.name for path in theirs.parent.iterdir())
        shards = [f"{number:05}.parquet" for number in range(3)]
        assert names == [*shards, "manifest.json", "notes.txt"], point
    assert is_whole(theirs.parent)
    assert theirs.read_text() == "not ours"
    assert points >= 12
    assert 8 <= refused < points
    print(f"kills: {points}, refused and written again: {refused}")


def test_only_files_of_the_interrupted_set_are_removed(tmp_path):
    folder, other = tmp_path / "shards", tmp_path / "other"
    write_small(tmp_path)
    shutil.copytree(folder, other)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["complete"] = False
    del manifest["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write(folder / "00007.parquet", row=[1], rating=[1.0])
    with pytest.raises(DataError, match="interrupted. Write the shards again"):
        ShardedBatches(folder, 1, seed=0)
    with pytest.raises(DataError, match="already contains Parquet files"):
        write_small(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["00007.parquet"]
    (other / "manifest.json").unlink()
    before = sorted(other.iterdir())
    with pytest.raises(DataError, match=r"has no manifest\.json, to which 00000"):
        ShardedBatches(other, 1, seed=0)
    shutil.copytree(other, folder, dirs_exist_ok=True)
    with pytest.raises(DataError, match="already contains Parquet files"):
        write_small(tmp_path)
    assert sorted(other.iterdir()) == before


def test_a_set_is_what_its_manifest_lists(tmp_path):
    write_small(tmp_path)
    folder = tmp_path / "shards"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == 6
    assert manifest["schema"]["genres"] == "list<item: int32>"
    assert [shard["rows"] for shard in manifest["files"].values()] == [2, 2, 2]
    write(folder / "more.parquet", row=[1], rating=[1.0])
    with pytest.raises(DataError, match=r"more\.parquet does not belong to the set"):
        ShardedBatches(folder, 1, seed=0)
    (folder / "more.parquet").unlink()
    shutil.copy(folder / "00000.parquet", folder / "00001.parquet")
    with pytest.raises(DataError, match=r"00001\.parquet is damaged: it differs"):
        ShardedBatches(folder, 1, seed=0)
    (folder / "00001.parquet").unlink()
    with pytest.raises(DataError, match=r"00001\.parquet is missing"):
        ShardedBatches(folder, 1, seed=0)
    edited = (folder / "manifest.json").read_text().replace('"rows": 6', '"rows": 7')
    (folder / "manifest.json").write_text(edited)
    with pytest.raises(DataError, match=r"manifest\.json is damaged or was edited"):
        ShardedBatches(folder, 1, seed=0)


def test_files_without_a_manifest_load(tmp_path, table, encoder):
    """Version 0.1.0 wrote no manifest."""
    encoded = encoder.transform(table)
    columns = {"row": encoded["row"], "rating": table["rating"].astype("float32")}
    for number, rows in enumerate(([*range(30)], [*range(30, 400)])):
        part = {name: np.asarray(x)[rows] for name, x in columns.items()}
        write(tmp_path / f"{number:05}.parquet", **part)
    data = ShardedBatches(tmp_path, 40, seed=0)
    np.testing.assert_array_equal(np.sort(ratings(data).ravel()), np.arange(400) / 2)


@pytest.mark.slow
def test_each_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    write_small(tmp_path)
    path = tmp_path / "shards" / "00001.parquet"
    whole = path.read_bytes()

    def read():
        data = ShardedBatches(path.parent, 1, seed=0)
        group = next(group for group in data._files.groups if group.path == path)
        return {n: repr(x) for n, x in data._files.read([group], np.arange(2)).items()}

    expected = read()
    refused, bits = 0, [0, 3, 7]
    for position, bit in itertools.product(range(len(whole)), bits):
        broken = bytearray(whole)
        broken[position] ^= 1 << bit
        path.write_bytes(broken)
        if refusal(read, "00001.parquet"):
            refused += 1
        else:
            assert read() == expected, (position, bit)
    assert refused > 0.8 * len(whole) * len(bits) > 3000
    print(f"flipped bits: {len(whole) * len(bits)}, refused: {refused}")


def test_lists_are_padded_to_a_length(shards):
    pairs = ShardedBatches(shards, 16, seed=0)
    padded = ShardedBatches(shards, 16, seed=0, list_length=4)
    for (pair, y), (row, same) in zip(
        batches(pairs, 30), batches(padded, 30), strict=True
    ):
        np.testing.assert_array_equal(same, y)
        assert row["genres"].shape == (16, 4)
        assert row["genres"].dtype == pair["genres"][0].dtype
        values, splits = pair["genres"]
        for i, ids in enumerate(row["genres"]):
            expected = values[splits[i] : splits[i + 1]]
            np.testing.assert_array_equal(ids[ids > 0], expected[expected > 0])
            assert not ids[3:].any()


def test_longer_lists_are_an_error(shards):
    message = "`list_length` must be at least 3, .* 'genres'. Received: list_length=2"
    with pytest.raises(DataError, match=message):
        ShardedBatches(shards, 16, seed=0, mixed=100, list_length=2).stream()
    with pytest.raises(ValueError, match="`list_length` must be a positive integer"):
        ShardedBatches(shards, 16, seed=0, list_length=0)
