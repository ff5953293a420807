import hashlib
import http.server
import os
import threading
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from fmlayers.data import movielens
from fmlayers.data.errors import DataError
from fmlayers.data.movielens import download_movielens, load_movielens
from fmlayers.data.splits import Split


def contents(frame):
    return frame.astype(object).where(frame.notna(), None).to_dict("list")


def test_100k(make_movielens):
    data = load_movielens(make_movielens("ml-100k"))
    assert data.name == "ml-100k"
    assert data.repairs == ()
    expected = pd.DataFrame(
        {
            "user": [2, 1, 1, 3, 2],
            "item": [10, 10, 30, 20, 30],
            "rating": [3.0, 4.0, 5.0, 1.0, 2.0],
            "timestamp": [881250949, 881250950, 881250951, 881250952, 881250953],
        }
    )
    pd.testing.assert_frame_equal(data.ratings, expected)
    assert data.users.to_dict("list") == {
        "user": [1, 2, 3],
        "age": [24, 53, 7],
        "sex": ["M", "F", "F"],
        "occupation": ["technician", "other", "none"],
        "zip_code": ["85711", "T8H1N", "00501"],
    }
    assert contents(data.items) == {
        "item": [10, 20, 30],
        "title": ["Café Ostend (1994)", "unknown", "Twice (1930) Removed (1987) (V)"],
        "year": [1994, None, 1987],
        "genres": [("Comedy",), (), ("Action", "Comedy")],
    }
    assert data.items["year"].dtype == "Int64"


def test_100k_folds_are_positions_of_the_rows(make_movielens):
    data = load_movielens(make_movielens("ml-100k"))
    assert list(data.folds) == ["u1"]
    assert isinstance(data.folds["u1"], Split)
    np.testing.assert_array_equal(data.folds["u1"].train, [2, 0, 3])
    np.testing.assert_array_equal(data.folds["u1"].test, [4, 1])
    assert data.folds["u1"].train.dtype == np.int64


def test_100k_without_a_list_of_genres_has_the_readme_s(make_movielens):
    flags = "|".join("1" if k in (1, 18) else "0" for k in range(19))
    item = f"10|One (1990)||||{flags}\n"
    data = load_movielens(
        make_movielens("ml-100k", files={"u.genre": None, "u.item": item})
    )
    assert data.items["genres"].tolist() == [("Action", "Western")]


def test_1m(make_movielens):
    data = load_movielens(make_movielens("ml-1m"))
    assert data.ratings.to_dict("list") == {
        "user": [1, 1, 2],
        "item": [10, 20, 10],
        "rating": [5.0, 3.0, 4.0],
        "timestamp": [978300760, 978302109, 978301968],
    }
    assert data.users.to_dict("list") == {
        "user": [1, 2],
        "age": [1, 56],
        "sex": ["F", "M"],
        "occupation": ["k-12 student", "educator"],
        "zip_code": ["48067", "70072-1234"],
    }
    assert contents(data.items) == {
        "item": [10, 20],
        "title": ["Málaga: Ça va (1995)", "No Genre (1971)"],
        "year": [1995, 1971],
        "genres": [("Animation", "Children's"), ()],
    }


def test_latest(make_movielens):
    data = load_movielens(make_movielens("ml-latest"))
    assert data.users is None
    assert data.ratings["rating"].tolist() == [4.0, 0.5, 3.5]
    assert data.rating_bounds == (0.5, 4.0)
    assert contents(data.items) == {
        "item": [10, 20, 30],
        "title": ["Harbour, The (1995)", "海の灯台 (2001)", 'The "Quoted" One'],
        "year": [1995, 2001, None],
        "genres": [("Comedy", "Drama"), (), ("Sci-Fi",)],
    }


@pytest.mark.parametrize("form", ["ml-100k", "ml-1m", "ml-latest"])
def test_folders_and_zips_read_alike(form, make_movielens, zipped, tmp_path):
    folder = make_movielens(form, tmp_path / "outer" / "ml-x")
    loaded = [
        load_movielens(source)
        for source in (
            folder,
            str(folder.parent),
            zipped(folder, "one.zip"),
            zipped(folder, "ml-x.zip", at_top=True),
        )
    ]
    assert {data.name for data in loaded} == {"ml-x"}
    for data in loaded[1:]:
        assert data.fingerprint() == loaded[0].fingerprint()
        pd.testing.assert_frame_equal(data.table(), loaded[0].table())


def test_a_folder_of_another_name_is_called_by_its_format(make_movielens, tmp_path):
    assert load_movielens(make_movielens("ml-1m", tmp_path / "data")).name == "ml-1m"


def test_ratings_alone_are_enough(make_movielens):
    files = {"users.dat": None, "movies.dat": None}
    data = load_movielens(make_movielens("ml-1m", files=files))
    assert data.users is None
    assert data.items is None
    columns = ["user", "item", "rating", "timestamp", "day"]
    assert data.table().columns.tolist() == columns


def test_windows_line_ends_and_a_byte_order_mark(make_movielens):
    plain = make_movielens("ml-latest")
    files = {
        path.name: b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n")
        for path in plain.iterdir()
    }
    other = load_movielens(make_movielens("ml-latest", plain.parent / "b", files=files))
    pd.testing.assert_frame_equal(other.table(), load_movielens(plain).table())


def test_dat_files_in_utf_8(make_movielens):
    films = "10::灯台 (1995)::Drama\n".encode()
    data = load_movielens(make_movielens("ml-1m", files={"movies.dat": films}))
    assert data.items["title"].tolist() == ["灯台 (1995)"]


def test_the_latest_of_repeated_ratings_stays(make_movielens):
    ratings = "1::10::5::30\n1::10::3::40\n2::10::4::10\n1::10::1::20\n"
    data = load_movielens(make_movielens("ml-1m", files={"ratings.dat": ratings}))
    assert data.ratings["rating"].tolist() == [3.0, 4.0]
    assert data.repairs == (
        "ratings.dat: dropped 2 of 4 rows, each replaced by a later row of the same "
        "user and item.",
    )


def test_folds_are_positions_of_the_rows_that_stay(make_movielens, tmp_path):
    ratings = "1\t10\t5\t9\n" + (make_movielens("ml-100k") / "u.data").read_text()
    folder = make_movielens("ml-100k", tmp_path / "x", files={"u.data": ratings})
    data = load_movielens(folder)
    np.testing.assert_array_equal(data.folds["u1"].train, [2, 0, 3])


def test_a_constant_timestamp_is_left_out(make_movielens):
    ratings = "1::10::5::0\n1::20::3::0\n2::10::4::0\n"
    data = load_movielens(make_movielens("ml-1m", files={"ratings.dat": ratings}))
    assert "timestamp" not in data.ratings
    assert data.repairs == (
        "ratings.dat: dropped the timestamps, which are 0 in all 3 rows.",
    )


@pytest.mark.parametrize(
    ("form", "file", "contents", "match"),
    [
        (
            "ml-1m",
            "ratings.dat",
            "1::1::5::0\n1::2::5\n",
            r"^ratings.dat, line 2: expected 4 fields separated by '::', "
            r"read 3: '1::2::5'$",
        ),
        (
            "ml-1m",
            "ratings.dat",
            "1::1::5\n1::2::5\n",
            "ratings.dat, line 1: expected 4",
        ),
        (
            "ml-1m",
            "ratings.dat",
            "1::1::5::0::9\n",
            "line 1: .* read 5: '1::1::5::0::9'",
        ),
        ("ml-1m", "ratings.dat", "1::1::5::0\n\n1::2:5::0\n", "line 3: .* read 3"),
        ("ml-1m", "ratings.dat", "x::1::5::0\n", "line 1: the user .* read 'x'"),
        ("ml-1m", "ratings.dat", "1::1.5::5::0\n", "line 1: the item .* read '1.5'"),
        ("ml-1m", "ratings.dat", "1::1::5::0\n1::2::::0\n", "line 2: the rating .* ''"),
        ("ml-1m", "ratings.dat", "1::1::nan::0\n", "line 1: the rating .* read 'nan'"),
        ("ml-1m", "ratings.dat", "1::1::inf::0\n", "line 1: the rating .* read 'inf'"),
        ("ml-1m", "ratings.dat", "1::1::5::-\n", "line 1: the timestamp .* read '-'"),
        ("ml-1m", "ratings.dat", " \n", "ratings.dat is empty"),
        ("ml-1m", "users.dat", "1::F::old::10::4\n", "line 1: the age .* read 'old'"),
        ("ml-1m", "users.dat", "1::F::1::21::4\n", "line 1: the occupation .* '21'"),
        ("ml-1m", "users.dat", "1::X::1::10::4\n", "line 1: the sex .* read 'X'"),
        ("ml-1m", "users.dat", "1::F::1::10\n", "users.dat, line 1: expected 5 .* 4:"),
        (
            "ml-1m",
            "users.dat",
            "1::F::1::10::4\n\n1::F::1::10::4\n",
            "users.dat, line 3: more than one row of user 1",
        ),
        (
            "ml-1m",
            "movies.dat",
            "10::One\n",
            "movies.dat, line 1: expected 3 .* read 2",
        ),
        ("ml-1m", "movies.dat", "", "movies.dat is empty"),
        ("ml-100k", "u.data", "1\t2\t3\n", r"u.data, line 1: .* by '\\t', read 3"),
        ("ml-100k", "u.item", "10|One|||0|0|0\n", "u.item, line 1: expected 8 .* 7"),
        ("ml-100k", "u1.test", None, "needs both .*u1.base alone"),
        (
            "ml-100k",
            "u1.test",
            "1\t10\t4\t0\n1\t20\t4\t0\n",
            "u1.test, line 2: u.data has no rating of item 20 by user 1",
        ),
        ("ml-latest", "ratings.csv", "", "ratings.csv is empty"),
        (
            "ml-latest",
            "ratings.csv",
            "userId,movieId,rating,timestamp\n",
            "ratings.csv has a header and no rows",
        ),
        (
            "ml-latest",
            "ratings.csv",
            "user,item,rating\n1,2,3\n",
            "line 1: .* read 'user,item,rating'.*`read_ratings`",
        ),
        (
            "ml-latest",
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,2,3,4\n1,2,3,4,5\n",
            "ratings.csv, line 3: expected 4 .* read 5",
        ),
        (
            "ml-latest",
            "movies.csv",
            "1,One,Drama\n",
            "movies.csv, line 1: expected 'mov",
        ),
        (
            "ml-latest",
            "movies.csv",
            'movieId,title,genres\n10,"Two\nlines",Drama\nx,One,Drama\n',
            "movies.csv, line 4: the item .* read 'x'",
        ),
        (
            "ml-latest",
            "movies.csv",
            b"movieId,title,genres\n10,Caf\xe9,Drama\n",
            "movies.csv, line 2: expected UTF-8, read the byte 0xe9",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_line(form, file, contents, match, make_movielens):
    folder = make_movielens(form, files={file: contents})
    with pytest.raises(DataError, match=match):
        load_movielens(folder)


def test_a_folder_without_known_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "u.data").touch()
    with pytest.raises(DataError, match=r"Expected u\.data .*ratings\.dat .*ings\.csv"):
        load_movielens(tmp_path)


def test_a_folder_with_two_data_sets(make_movielens, tmp_path):
    make_movielens("ml-100k")
    make_movielens("ml-1m")
    with pytest.raises(DataError, match=r"ml-100k/u\.data, ml-1m/ratings\.dat"):
        load_movielens(tmp_path)


def test_files_at_the_top_come_before_a_folder_s(make_movielens):
    folder = make_movielens("ml-100k")
    make_movielens("ml-100k", folder / "old", files={"u.data": "1\t10\t1\t1\n"})
    assert len(load_movielens(folder).ratings) == 5


def test_a_name_that_is_nothing():
    with pytest.raises(DataError, match=r"'ml-100k', .*source='ml-10k', which does"):
        load_movielens("ml-10k")


def test_a_truncated_zip(make_movielens, zipped):
    archive = zipped(make_movielens("ml-1m"))
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"archive\.zip is truncated or not a zip file"):
        load_movielens(archive)


def test_a_zip_with_a_damaged_file(make_movielens, zipped):
    archive = zipped(make_movielens("ml-1m"))
    data = bytearray(archive.read_bytes())
    start = data.index(b"ratings.dat") + len("ratings.dat")
    data[start + 5] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"ml-1m/ratings\.dat in .* is damaged"):
        load_movielens(archive)


def test_a_file_that_is_no_zip(make_movielens):
    with pytest.raises(DataError, match="pass the folder of the unpacked files"):
        load_movielens(make_movielens("ml-1m") / "ratings.dat")


@pytest.fixture
def server():
    """Serve what is in `.files`, a dict of paths and bytes; `.asked` lists requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked.append(self.path)
            data = served.files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", len(data or b"") + served.promised_more)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as served:
        served.files, served.asked, served.promised_more = {}, [], 0
        served.url = f"http://127.0.0.1:{served.server_port}/data"
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def archive_1m(make_movielens, zipped):
    data = zipped(make_movielens("ml-1m")).read_bytes()
    return data, hashlib.sha256(data).hexdigest()


def test_download_once(server, archive_1m, tmp_path):
    data, digest = archive_1m
    server.files["/data/ml-1m.zip"] = data
    for _ in range(2):
        path = download_movielens(
            "ml-1m",
            base_url=server.url + "/",
            sha256=digest.upper(),
            cache_dir=tmp_path / "new" / "cache",
        )
        assert path == tmp_path / "new" / "cache" / "ml-1m.zip"
        assert len(load_movielens(path).ratings) == 3
    assert server.asked == ["/data/ml-1m.zip"]
    assert [file.name for file in path.parent.iterdir()] == ["ml-1m.zip"]


def test_the_published_digest_is_asked_for(server, archive_1m, tmp_path):
    server.files["/data/ml-1m.zip"], digest = archive_1m
    cache = tmp_path / "cache"
    match = (
        f"^{server.url}/ml-1m.zip has the wrong digest: expected SHA-256 a6898adb50b9"
        f".*, read {digest}.*pass the path of the file"
    )
    with pytest.raises(DataError, match=match):
        download_movielens("ml-1m", base_url=server.url, cache_dir=cache)
    assert list(cache.iterdir()) == []


def test_a_bad_file_in_the_cache_is_fetched_again(server, archive_1m, tmp_path):
    server.files["/data/ml-1m.zip"], digest = archive_1m
    (tmp_path / "ml-1m.zip").write_bytes(archive_1m[0][:-1])
    path = download_movielens(
        "ml-1m", base_url=server.url, sha256=digest, cache_dir=tmp_path
    )
    assert path.read_bytes() == archive_1m[0]


@pytest.mark.parametrize("cut", ["short", "closed early"])
def test_a_truncated_download_is_not_kept(cut, server, archive_1m, tmp_path):
    data, _ = archive_1m
    server.files["/data/ml-latest.zip"] = data[:-50]
    server.promised_more = 50 if cut == "closed early" else 0
    cache = tmp_path / "cache"
    match = "cannot be downloaded" if cut == "closed early" else "is truncated"
    with pytest.raises(DataError, match=f"{server.url}/ml-latest.zip {match}"):
        download_movielens("ml-latest", base_url=server.url, cache_dir=cache)
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_a_download_without_digest(server, archive_1m, tmp_path):
    data = bytearray(archive_1m[0])
    data[data.index(b"ratings.dat") + 20] ^= 0xFF
    server.files["/data/ml-latest.zip"] = bytes(data)
    with pytest.raises(DataError, match=r"ml-latest\.zip is (damaged|truncated)"):
        download_movielens("ml-latest", base_url=server.url, cache_dir=tmp_path)
    assert not (tmp_path / "ml-latest.zip").exists()


def test_an_archive_that_is_not_there(server, tmp_path):
    with pytest.raises(DataError, match=r"ml-1m\.zip cannot be downloaded: .*404"):
        download_movielens("ml-1m", base_url=server.url, cache_dir=tmp_path)


def test_a_host_out_of_reach(server, tmp_path):
    server.server_close()
    with pytest.raises(
        DataError, match=r"cannot be downloaded: .* Check the connection"
    ):
        download_movielens("ml-1m", base_url=server.url, cache_dir=tmp_path)


def test_download_of_an_unknown_name():
    with pytest.raises(ValueError, match=r"`name` must be one of .*name='ml-10m'"):
        download_movielens("ml-10m")


def test_load_by_name(make_movielens, zipped, tmp_path, monkeypatch):
    """A "latest" archive, here from the cache, is recorded with its digest."""
    (tmp_path / "fmlayers").mkdir()
    folder = make_movielens("ml-latest", tmp_path / "ml-latest-small")
    archive = zipped(folder, "fmlayers/ml-latest-small.zip")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "fmlayers")
    data = load_movielens("ml-latest-small")
    assert data.name == "ml-latest-small"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert len(data.repairs) == 1
    assert digest in data.repairs[0]


def test_a_folder_is_never_downloaded(make_movielens, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("downloads")

    monkeypatch.setattr(keras.utils, "get_file", refuse)
    monkeypatch.setattr(movielens, "download_movielens", refuse)
    make_movielens("ml-1m")
    monkeypatch.chdir(tmp_path)
    assert len(load_movielens("ml-1m").ratings) == 3


real_data = pytest.mark.skipif(
    "FMLAYERS_DATA" not in os.environ,
    reason="FMLAYERS_DATA doesn't name a folder with ml-100k and ml-1m",
)


@real_data
def test_real_100k():
    data = load_movielens(Path(os.environ["FMLAYERS_DATA"], "ml-100k"))
    assert len(data.ratings) == 100_000
    assert len(data.users) == 943
    assert len(data.items) == 1682
    assert list(data.folds) == ["u1", "u2", "u3", "u4", "u5", "ua", "ub"]
    for name, (train, test) in data.folds.items():
        sizes = (80_000, 20_000) if name < "ua" else (90_570, 9_430)
        assert (len(train), len(test)) == sizes
        np.testing.assert_array_equal(
            np.sort(np.concatenate([train, test])), np.arange(100_000)
        )
    assert data.items["title"].str.contains("Misérables, Les", regex=False).sum() == 1
    assert (data.items["genres"].map(len) == 0).sum() == 2
    assert data.items["year"].isna().sum() == 1
    assert data.repairs == ()
    assert not data.table().drop(columns="year").isna().any(axis=None)


@real_data
def test_real_1m():
    data = load_movielens(Path(os.environ["FMLAYERS_DATA"], "ml-1m"))
    table = data.table()
    assert len(table) == 1_000_209
    assert (table["user"].nunique(), table["item"].nunique()) == (6040, 3706)
    assert data.rating_bounds == (1.0, 5.0)
    assert data.items["title"].str.contains("Misérables, Les", regex=False).sum() >= 1
    assert set(data.users["age"]) == {1, 18, 25, 35, 45, 50, 56}
    assert not table.isna().any(axis=None)
