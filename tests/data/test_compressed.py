"""Compressed files that are hostile, damaged or of an unknown kind."""

import bz2
import gzip
import lzma
import stat
import struct
import sys
import tracemalloc
import zipfile

import pandas as pd
import pytest

from fmlayers.data import (
    DataError,
    compressed,
    load,
    load_movielens,
    read_ratings,
    read_table,
)

pyarrow = pytest.importorskip("pyarrow")

RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,964982703\n"
BOMB = 300 * 2**20


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["/etc/ratings.csv", "../ratings.csv", "C:\\ratings.csv"]
)
def test_a_path_outside_the_archive_error(name, tmp_path):
    path = make_zip(tmp_path / "a.zip", [("ratings.csv", RATINGS), (name, RATINGS)])
    with pytest.raises(
        DataError, match=r"a\.zip has a file with the path .*ratings\.csv"
    ):
        load_movielens(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_error(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("ratings.csv", RATINGS)] * 2)
    with pytest.raises(DataError, match=r"a\.zip has 2 files named 'ratings\.csv'"):
        load_movielens(path)


def test_a_symbolic_link_error(tmp_path):
    member = zipfile.ZipInfo("ratings.csv")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = make_zip(tmp_path / "a.zip", [(member, "/etc/passwd")])
    with pytest.raises(DataError, match=r"ratings\.csv in .*a\.zip is a symbolic link"):
        load_movielens(path)


def test_an_encrypted_file_error(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("ratings.csv", RATINGS)])
    with zipfile.ZipFile(path) as archive:
        flags = archive.getinfo("ratings.csv").flag_bits
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data = bytearray(path.read_bytes())
        start = data.index(signature) + offset
        data[start : start + 2] = struct.pack("<H", flags | 1)
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"ratings\.csv in .*a\.zip is encrypted"):
        load_movielens(path)


@pytest.mark.parametrize("method", [9, 93, 99])
def test_an_unknown_method_error(method, tmp_path):
    path = make_zip(tmp_path / "a.zip", [("ratings.csv", RATINGS)])
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data = bytearray(path.read_bytes())
        start = data.index(signature) + offset
        data[start : start + 2] = struct.pack("<H", method)
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"ratings\.csv in .*a\.zip cannot be unpacked"):
        load_movielens(path)


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_a_damaged_file_of_each_method_error(method, tmp_path):
    path = make_zip(tmp_path / "a.zip", [("ratings.csv", RATINGS * 50)], method)
    whole = make_zip(tmp_path / "b.zip", [("ratings.csv", RATINGS)], method)
    assert len(load_movielens(whole).ratings) == 1
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"ratings\.csv in .*a\.zip is damaged"):
        load_movielens(path)


def bombs(tmp_path):
    """Yield files of less than 512 KB that hold 300 MB."""
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("ratings.csv", "w") as member,
    ):
        for _ in range(BOMB // 2**20):
            member.write(bytes(2**20))
    yield path, load_movielens, r"ratings\.csv in .*bomb\.zip"
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(BOMB // 2**20):
            file.write(bytes(2**20))
    yield path, read_ratings, r"bomb\.csv\.gz"
    for suffix, open_file in (("bz2", bz2.open), ("xz", lzma.open)):
        path = tmp_path / f"bomb.csv.{suffix}"
        with open_file(path, "wb") as file:
            for _ in range(BOMB // 2**20):
                file.write(bytes(2**20))
        yield path, read_ratings, rf"bomb\.csv\.{suffix}"
    path = tmp_path / "bomb.csv.zst"
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        for _ in range(BOMB // 2**20):
            file.write(bytes(2**20))
    yield path, read_ratings, r"bomb\.csv\.zst"


@pytest.mark.slow
def test_a_bomb_stops_at_the_limit(tmp_path):
    for path, read, name in bombs(tmp_path):
        assert path.stat().st_size < 2**19
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match=rf"{name} is larger than 67,108,864"):
                read(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 * compressed.MIN_LIMITED_BYTES


def test_the_limits_let_through_what_is_within_them(monkeypatch, tmp_path):
    text = RATINGS + "1,11,4.0,964982703\n" * 1000
    path = make_zip(tmp_path / "a.zip", [("ratings.csv", text)])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    for limits, is_read in (
        ({"MIN_LIMITED_BYTES": len(text)}, True),
        ({"MIN_LIMITED_BYTES": len(text) - 1, "MAX_RATIO": 10**6}, True),
        ({"MIN_LIMITED_BYTES": len(text) - 1, "MAX_RATIO": 1}, False),
        ({"MAX_BYTES": len(text)}, True),
        ({"MAX_BYTES": len(text) - 1}, False),
    ):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(compressed, name, value)
            for load, source in (
                (load_movielens, path),
                (read_table, tmp_path / "a.csv.gz"),
            ):
                if is_read:
                    load(source)
                else:
                    with pytest.raises(DataError, match="the limit for"):
                        load(source)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_compressed_tables(suffix, tmp_path):
    """They are recognized by their contents."""
    text = (RATINGS * 50).replace("\nuserId,movieId,rating,timestamp", "") + "1,2,3,4\n"
    path = tmp_path / f"a.csv.{suffix}"
    path.write_text(text)
    expected = read_table(path)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    data = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda _: sink.getvalue().to_pybytes(),
    }[suffix](text.encode())
    for name in (path.name, "a.csv"):
        (tmp_path / name).write_bytes(data)
        pd.testing.assert_frame_equal(read_table(tmp_path / name), expected)
        loaded = load(str(tmp_path / name), user="userId", item="movieId")
        assert loaded.name == "a"
    path.write_bytes(data[:-9])
    with pytest.raises(DataError, match=rf"a\.csv\.{suffix} is truncated or damaged"):
        read_table(path)


def test_zstandard_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a\.csv\.zst needs pyarrow: .*\[parquet\]"):
        read_table(path)


def test_a_gzip_file_of_several_members(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n1,2\n") + gzip.compress(b"3,4\n"))
    assert len(read_table(path)) == 2
