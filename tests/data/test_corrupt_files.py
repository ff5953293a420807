"""Data files that are damaged, foreign or missing are refused by their name.

Each attempt either reads what the intact file has or raises `DataError` with the name
of the file. A file without checksums may also be read as other data: nobody can notice
that a digit of a CSV file has changed.
"""

import bz2
import gzip
import lzma
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import (
    DataError,
    Encoder,
    ShardedBatches,
    load_movielens,
    read_ratings,
    read_table,
    write_shards,
)

pyarrow = pytest.importorskip("pyarrow")

TABLE = pd.DataFrame(
    {
        "user": [f"u{i % 7}" for i in range(40)],
        "item": [f"i{i % 11}" for i in range(40)],
        "rating": np.arange(40) % 5 + 0.5,
        "genres": ["a|b", "b", "", "c|a"] * 10,
        "age": np.linspace(20, 60, 40),
    }
)
KINDS = {"user": "categorical", "genres": "multi_categorical", "age": "numeric"}
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06"
FOREIGN = {
    "empty": b"",
    "blank": b"\n\n",
    "zeros": bytes(200),
    "PNG": PNG * 10,
    "object": b"{}",
    "array": b"[]",
    "null": b"null",
    "nested": b"[" * 100_000,
    "HTML": b"<!DOCTYPE html>\n<html><body>404, not found</body></html>\n",
    "zip": b"PK\x05\x06" + bytes(18),
    "gzip": gzip.compress(b""),
    "PAR1": b"PAR1" + bytes(100) + b"PAR1",
    "UTF-16": "user,item,rating\n1,2,3\n".encode("utf-16"),
}


def movielens(form):
    def write(folder, make):
        return make(form, folder / form)

    return write


def zipped(folder, make):
    path = folder / "ml.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(make("ml-1m", folder / "unpacked").iterdir()):
            archive.write(file, f"ml-1m/{file.name}")
    shutil.rmtree(folder / "unpacked")
    return path


def csv(folder, make):
    TABLE.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def zstandard(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard,
}


def compressed(suffix):
    def write(folder, make):
        path = folder / f"table.csv.{suffix}"
        path.write_bytes(COMPRESS[suffix](TABLE.to_csv(index=False).encode()))
        return path

    return write


def parquet(folder, make):
    path = folder / "table.parquet"
    lists = TABLE.assign(genres=TABLE["genres"].str.split("|"))
    lists.to_parquet(path, write_page_checksum=True)
    return path


def encoder(folder, make):
    Encoder(KINDS).fit(TABLE).save(folder / "encoder.json")
    return folder / "encoder.json"


def shards(folder, make):
    path = folder / "shards"
    write_shards([TABLE[:25], TABLE[25:]], path, Encoder(KINDS).fit(TABLE))
    return path


def read_shards(path):
    data = ShardedBatches(path, 1, seed=0)
    files = data._files
    return [files.read([group], np.arange(group.rows)) for group in files.groups]


def shown_dataset(dataset):
    tables = (dataset.ratings, dataset.users, dataset.items)
    folds = {name: (fold.train, fold.test) for name, fold in dataset.folds.items()}
    return repr([None if t is None else t.to_dict() for t in tables]) + repr(folds)


# How to write a source, how to read it, and whether its checksums notice each change.
SOURCES = {
    "100K": (movielens("ml-100k"), lambda p: shown_dataset(load_movielens(p)), False),
    "1M": (movielens("ml-1m"), lambda p: shown_dataset(load_movielens(p)), False),
    "latest": (
        movielens("ml-latest"),
        lambda p: shown_dataset(load_movielens(p)),
        False,
    ),
    "zip": (zipped, lambda p: shown_dataset(load_movielens(p)), True),
    "ratings.csv": (csv, lambda p: shown_dataset(read_ratings(p)), False),
    "table.csv": (csv, lambda p: repr(read_table(p).to_dict()), False),
    **{
        # This Zstandard file has no checksum.
        f"csv.{suffix}": (
            compressed(suffix),
            lambda p: shown_dataset(read_ratings(p)),
            suffix != "zst",
        )
        for suffix in COMPRESS
    },
    "parquet": (parquet, lambda p: repr(read_table(p).to_dict()), False),
    "encoder": (encoder, lambda p: repr(Encoder.load(p).get_config()), True),
    "shards": (shards, lambda p: repr(read_shards(p)), True),
}


class Attempts:
    """Attempts to read a source after each change of one of its files."""

    def __init__(self, name, folder, make):
        write, self._read, self.has_checksums = SOURCES[name]
        self.path = write(folder, make)
        self.expected = self._read(self.path)
        is_folder = self.path.is_dir()
        self.files = sorted(self.path.iterdir()) if is_folder else [self.path]
        self.tried = self.refused = self.same = self.other = 0

    def read(self, file, notices):
        """Count an attempt; `notices` is whether a change must be noticed."""
        self.tried += 1
        result, message = None, ""
        try:
            result = self._read(self.path)
        except DataError as error:
            message = str(error)
        if message:
            # u.item does not fit to a damaged u.genre, for example.
            names = [self.path.name, *(file.name for file in self.files)]
            assert any(name in message for name in names), message
            assert "\n" not in message
            self.refused += 1
        elif result == self.expected:
            self.same += 1
        else:
            self.other += 1
            assert not notices, "damaged data were read as other data"

    def with_content(self, file, data, notices):
        whole = file.read_bytes()
        file.write_bytes(data)
        try:
            self.read(file, notices)
        finally:
            file.write_bytes(whole)

    def with_folder(self, file):
        whole = file.read_bytes()
        file.unlink()
        file.mkdir()
        try:
            self.read(file, False)
        finally:
            file.rmdir()
            file.write_bytes(whole)

    def damage(self, rng, cuts, flips):
        for file in self.files:
            whole = file.read_bytes()
            for name, data in FOREIGN.items():
                notices = self.has_checksums and name not in ("empty", "blank")
                self.with_content(file, data, notices)
            self.with_folder(file)
            for end in rng.integers(1, len(whole), cuts):
                self.with_content(file, whole[:end], self.has_checksums)
            for position in rng.integers(0, len(whole), flips):
                broken = bytearray(whole)
                broken[position] ^= 1 << rng.integers(8)
                self.with_content(file, bytes(broken), self.has_checksums)
            self.with_content(file, whole + PNG, False)
        planned = len(self.files) * (len(FOREIGN) + 2 + cuts + flips)
        assert self.tried == planned == self.refused + self.same + self.other
        assert self.refused > len(self.files)

    def __str__(self):
        return (
            f"tried {self.tried}, refused {self.refused}, read as before {self.same}, "
            f"read as other data {self.other}"
        )


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_files(name, tmp_path, make_movielens):
    attempts = Attempts(name, tmp_path, make_movielens)
    attempts.damage(np.random.default_rng(0), cuts=5, flips=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_damaged_files_at_many_places(name, tmp_path, make_movielens):
    attempts = Attempts(name, tmp_path, make_movielens)
    attempts.damage(np.random.default_rng(1), cuts=40, flips=300)
    print(f"{name}: {attempts}")


@pytest.mark.parametrize("role", ["user", "item", "rating", "timestamp"])
@pytest.mark.parametrize("cell", [[1, 2], [], {"a": 1}, [[1]]], ids=repr)
def test_a_column_of_lists_error(role, cell, tmp_path):
    path = tmp_path / "lists.parquet"
    TABLE.assign(**({"timestamp": 1} | {role: [cell] * 40})).to_parquet(path)
    with pytest.raises(
        DataError, match=rf"lists\.parquet, row 1: column '{role}' must"
    ):
        read_ratings(path)


def test_a_feature_of_records_error(tmp_path):
    path = tmp_path / "records.parquet"
    for cell in ({"a": 1}, [{"a": 1}], [[1, 2]]):
        TABLE.assign(genres=[cell] * 40).to_parquet(path)
        for read in (read_ratings, read_table):
            with pytest.raises(
                DataError, match=r"records\.parquet, row 1: column 'genr"
            ):
                read(path)


def test_parquet_columns_without_text_names(tmp_path):
    path = tmp_path / "numbers.parquet"
    frame = pd.DataFrame([[1, 2, 3.0]])
    frame.to_parquet(path)
    ratings = read_ratings(path, user="0", item="1", rating="2").ratings
    assert ratings["rating"].tolist() == [3.0]
