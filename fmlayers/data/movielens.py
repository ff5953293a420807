from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
import re
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.compressed import fault_of_zip, names_in_zip, read_from_zip
from fmlayers.data.dataset import Dataset
from fmlayers.data.errors import DataError
from fmlayers.data.quotes import check_quotes
from fmlayers.data.ratings import merge_duplicates
from fmlayers.data.records import check_width, decode, records, shown
from fmlayers.data.splits import Split
from fmlayers.data.table_files import read_bytes

# SHA-256 of the archives; none for "latest", which GroupLens updates.
DIGESTS: dict[str, str | None] = {
    "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    "ml-latest-small": None,
    "ml-latest": None,
}

_FOLDS = ("u1", "u2", "u3", "u4", "u5", "ua", "ub")
_RATINGS_HEADER = b"userId,movieId,rating,timestamp"
_NO_GENRE = ("", "unknown", "(no genres listed)")
_MOVIES_HEADER = ["movieId", "title", "genres"]
_INTEGER = re.compile("[+-]?[0-9]{1,18}")
_YEAR = re.compile(r"\(([0-9]{4})\)")
# In the order of 1M's README; where it combines an occupation of 100K with others,
# 100K's name.
_OCCUPATIONS = (
    "other",
    "educator",
    "artist",
    "clerical/admin",
    "student",
    "customer service",
    "doctor/health care",
    "executive",
    "farmer",
    "homemaker",
    "k-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def load_movielens(source: str | os.PathLike[str]) -> Dataset:
    """Loads a MovieLens dataset.

    The format is recognized by the names of the files:

    - 100K: `u.data`, `u.item` and `u.user`; the official splits `u1` to `u5`, `ua` and
      `ub` become the `folds`.
    - 1M: `ratings.dat`, `users.dat` and `movies.dat`; occupations are given by name.
    - latest, and others in its format (20M, 25M, 32M): `ratings.csv` and `movies.csv`;
      there are no users.

    Only the file of ratings is required. The `year` of a movie is the last number of
    four digits in parentheses in its title; the title is unchanged. The genres
    "unknown" and "(no genres listed)" are dropped. Ages are those of the file: in 1M
    they are 1, 18, 25, 35, 45, 50 or 56, the lower bounds of age groups. If a user
    rated a movie more than once, the latest rating is kept. Timestamps that are all
    equal are dropped. Both corrections are reported in `repairs`.

    Args:
        source: A folder or a zip file, with the data files at its top level or in one
            of its folders (a file in a zip file may have up to 16 GiB and 200 times its
            compressed size); or one of `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"` and
            `"ml-latest"`, which is downloaded once. An existing file or folder takes
            precedence over a name.

    Returns:
        A `Dataset` with integer users and items.

    Raises:
        DataError: If the data cannot be used. The message names the file and line.
    """
    path = Path(source)
    name = os.fspath(source)
    if path.exists():
        return _load(path)
    if name not in DIGESTS:
        raise DataError(
            "`source` must be an existing folder or zip file, or one of "
            f"{', '.join(map(repr, DIGESTS))}. Received: source={name!r}, which does "
            "not exist."
        )
    path = download_movielens(name)
    if DIGESTS[name] is not None:
        return _load(path)
    return _load(
        path,
        f"{path.name}: verified by the checksums in the zip file alone, since no "
        f"SHA-256 is published. Its SHA-256 is {_sha256(path)}.",
    )


def download_movielens(
    name: str,
    *,
    base_url: str = "https://files.grouplens.org/datasets/movielens",
    sha256: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Downloads and verifies a MovieLens archive, unless it is in the cache.

    The data belong to GroupLens Research. They may be used for research, but not
    redistributed: see the terms in their README.

    Args:
        name: `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"` or `"ml-latest"`.
        base_url: URL of the folder that contains `NAME.zip`. Defaults to that of
            GroupLens.
        sha256: Optional expected SHA-256 of the archive, in hexadecimal. Defaults to
            the published one. There is none for the "latest" archives, which are
            verified by the checksums in the zip file.
        cache_dir: Optional folder to store the archive in. Defaults to `fmlayers` in
            the Keras home, `~/.keras` or `$KERAS_HOME`.

    Returns:
        The path of the archive.

    Raises:
        DataError: If the download fails, or the archive fails the verification. It is
            then deleted.
        ValueError: If `name` is unknown.
    """
    if name not in DIGESTS:
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, DIGESTS))}. "
            f"Received: name={name!r}."
        )
    import keras

    digest = sha256 or DIGESTS[name]
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "fmlayers"
    folder = (home if cache_dir is None else Path(cache_dir)).expanduser().resolve()
    archive = folder / f"{name}.zip"
    if archive.exists() and _fault(archive, digest) is None:
        return archive
    url = f"{base_url.rstrip('/')}/{name}.zip"
    partial = folder / f".{name}.{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.get_file(
            partial.name, origin=url, cache_subdir=str(folder), force_download=True
        )
        fault = _fault(partial, digest)
        if fault is None:
            partial.replace(archive)
    except Exception as error:  # Keras raises a bare Exception for a host out of reach.
        raise DataError(
            f"{url} cannot be downloaded: {error}. Check the connection, or download "
            f"it by other means and pass the path of the file in place of {name!r}."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    if fault is not None:
        raise DataError(
            f"{url} {fault}. It was deleted. Try again, or download it by other means "
            f"and pass the path of the file in place of {name!r}."
        )
    return archive


def _fault(archive: Path, digest: str | None) -> str | None:
    if digest is not None:
        actual = _sha256(archive)
        if actual != digest.lower():
            return f"has the wrong digest: expected SHA-256 {digest}, read {actual}"
        return None
    return fault_of_zip(archive)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Name of the dataset, ratings, users and items.
_Tables = tuple[str, pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]
# Place in the file, id, title and genres.
_Movie = tuple[str, str, str, Iterable[str]]


class _Files(NamedTuple):
    """The files of a dataset, in a folder or in a folder of a zip file."""

    folder: str
    paths: dict[str, str]
    read_path: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        return self.read_path(self.paths[name])


def _load(source: Path, *repairs: str) -> Dataset:
    files, marker = _find_files(source)
    name, ratings, users, items = _LOADERS[marker](files)
    ratings, replaced = merge_duplicates(ratings, marker)
    repairs += replaced
    times = ratings["timestamp"]
    if len(ratings) > 1 and times.min() == times.max():
        repairs += (
            f"{marker}: dropped the timestamps, which are {times.iloc[0]} in all "
            f"{len(ratings):,} rows.",
        )
        ratings = ratings.drop(columns="timestamp")
    return Dataset(
        name=files.folder if files.folder.startswith("ml-") else name,
        ratings=ratings,
        users=users,
        items=items,
        folds=dict(_folds(files, ratings)) if marker == "u.data" else {},
        repairs=repairs,
    )


def _find_files(source: Path) -> tuple[_Files, str]:
    paths, read = _open_folder(source) if source.is_dir() else _open_zip(source)
    folders: dict[str, dict[str, str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if "/" not in folder:
            folders.setdefault(folder, {})[name] = path
    datasets = [
        (_Files(folder or source.resolve().stem, names, read), marker)
        for folder, names in sorted(folders.items())
        for marker in _LOADERS
        if marker in names
    ]
    if not datasets:
        raise DataError(
            f"{source} has no MovieLens files, neither at its top level nor in one of "
            "its folders. Expected u.data (100K), ratings.dat (1M) or ratings.csv "
            "(latest)."
        )
    at_top = [one for one in datasets if one[0].paths[one[1]] == one[1]]
    datasets = at_top or datasets
    if len(datasets) > 1:
        listed = ", ".join(files.paths[marker] for files, marker in datasets)
        raise DataError(
            f"{source} has more than one dataset: {listed}. Pass the folder of one."
        )
    return datasets[0]


def _open_folder(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    paths = [*source.glob("*"), *source.glob("*/*")]
    names = [path.relative_to(source).as_posix() for path in paths]
    return names, lambda name: read_bytes(source / name)


def _open_zip(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    return names_in_zip(source), lambda name: read_from_zip(source, name)


def _load_100k(files: _Files) -> _Tables:
    genres = [fields[0] for _, fields in _rows(files, "u.genre", "|", 2)] or _GENRES

    def movies() -> Iterator[_Movie]:
        for place, fields in _rows(files, "u.item", "|", 5 + len(genres)):
            flags = zip(genres, fields[5:], strict=True)
            yield (
                place,
                fields[0],
                fields[1],
                [name for name, flag in flags if flag == "1"],
            )

    layout = ("user", "age", "sex", "occupation", "zip_code")
    users = _users(_rows(files, "u.user", "|", 5), layout)
    return "ml-100k", _ratings(files, "u.data", "\t"), users, _items(movies())


def _load_1m(files: _Files) -> _Tables:
    layout = ("user", "sex", "age", "occupation_code", "zip_code")
    users = _users(_rows(files, "users.dat", "::", 5), layout)
    movies = _movies(_rows(files, "movies.dat", "::", 3))
    return "ml-1m", _ratings(files, "ratings.dat", "::"), users, _items(movies)


def _load_latest(files: _Files) -> _Tables:
    rows = _rows(files, "movies.csv", ",", 3)
    place, header = next(rows, ("", _MOVIES_HEADER))
    if header != _MOVIES_HEADER:
        raise DataError(
            f"{place}: expected {','.join(_MOVIES_HEADER)!r}, read "
            f"{shown(','.join(header))}"
        )
    ratings = _ratings(files, "ratings.csv", ",", header=_RATINGS_HEADER)
    return "ml-latest", ratings, None, _items(_movies(rows))


# By the name of the file that identifies each format.
_LOADERS: dict[str, Callable[[_Files], _Tables]] = {
    "u.data": _load_100k,
    "ratings.dat": _load_1m,
    "ratings.csv": _load_latest,
}
MARKERS = tuple(_LOADERS)


def _ratings(
    files: _Files, name: str, separator: str, *, header: bytes = b""
) -> pd.DataFrame:
    data = files.read(name)
    if not data.strip():
        raise DataError(f"{name} is empty.")
    first = data.partition(b"\n")[0].rstrip(b"\r").removeprefix(codecs.BOM_UTF8)
    if header and first != header:
        raise DataError(
            f"{name}, line 1: expected {header.decode()!r}, read "
            f"{shown(first.decode(errors='replace'))}. "
            "Other tables are for `read_ratings`."
        )
    # pandas' C parser takes separators of one character.
    plain = data.replace(b"::", b"\t") if separator == "::" else data
    try:
        frame = pd.read_csv(
            io.BytesIO(plain),
            sep="\t" if separator == "::" else separator,
            header=None,
            skiprows=1 if header else 0,
            dtype={0: np.int64, 1: np.int64, 2: np.float64, 3: np.int64},
            na_filter=False,
            quoting=csv.QUOTE_NONE,
        )
    except pd.errors.EmptyDataError:
        raise DataError(f"{name} has a header and no rows.") from None
    except (ValueError, OverflowError) as error:
        _find_fault(data, name, separator, bool(header))
        raise DataError(f"{name}: {error}") from error
    if frame.shape[1] != 4 or not np.isfinite(frame[2]).all():
        _find_fault(data, name, separator, bool(header))
    return frame.set_axis(["user", "item", "rating", "timestamp"], axis=1)


def _find_fault(data: bytes, name: str, separator: str, header: bool) -> None:
    rows = records(data.decode("latin-1"), name, separator, quoted=False)
    for line, fields in islice(rows, int(header), None):
        check_width(name, line, fields, 4, separator)
        place = f"{name}, line {line}"
        for what, field in (("user", 0), ("item", 1), ("timestamp", 3)):
            _integer(place, what, fields[field])
        try:
            finite = np.isfinite(float(fields[2]))
        except ValueError:
            finite = False
        if not finite:
            raise DataError(
                f"{place}: the rating must be a finite number, read {shown(fields[2])}"
            )


def _rows(
    files: _Files, name: str, separator: str, width: int
) -> Iterator[tuple[str, list[str]]]:
    """Yields the place and the fields of each row, and nothing if there is no file."""
    if name not in files.paths:
        return
    data = files.read(name)
    if not data.strip():
        raise DataError(f"{name} is empty.")
    is_csv = separator == ","
    text = decode(data, name) if is_csv else _decode_dat(data)
    if is_csv:
        check_quotes(data, name, separator, width)
    for line, fields in records(text, name, separator, quoted=is_csv):
        check_width(name, line, fields, width, separator)
        yield f"{name}, line {line}", fields


def _decode_dat(data: bytes) -> str:
    # 100K and 1M are Latin-1; 10M, in the same format, is UTF-8. Real Latin-1 text with
    # a letter outside ASCII is not valid UTF-8.
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _integer(place: str, what: str, field: str) -> int:
    if not _INTEGER.fullmatch(field):
        raise DataError(f"{place}: the {what} must be an integer, read {shown(field)}")
    return int(field)


def _users(
    rows: Iterable[tuple[str, list[str]]], layout: tuple[str, ...]
) -> pd.DataFrame | None:
    users: dict[int, tuple[int, str, str, str]] = {}
    for place, fields in rows:
        row = dict(zip(layout, fields, strict=True))
        user = _new(place, "user", row["user"], users)
        if row["sex"] not in ("F", "M"):
            raise DataError(
                f"{place}: the sex must be F or M, read {shown(row['sex'])}"
            )
        occupation = (
            _occupation(place, row["occupation_code"])
            if "occupation_code" in row
            else row["occupation"]
        )
        age = _integer(place, "age", row["age"])
        users[user] = age, row["sex"], occupation, row["zip_code"]
    if not users:
        return None
    columns = ["age", "sex", "occupation", "zip_code"]
    frame = pd.DataFrame(list(users.values()), columns=columns)
    frame.insert(0, "user", list(users))
    return frame


def _occupation(place: str, field: str) -> str:
    code = _integer(place, "occupation", field)
    if not 0 <= code < len(_OCCUPATIONS):
        raise DataError(
            f"{place}: the occupation must be from 0 to {len(_OCCUPATIONS) - 1}, "
            f"read {shown(field)}"
        )
    return _OCCUPATIONS[code]


def _movies(rows: Iterable[tuple[str, list[str]]]) -> Iterator[_Movie]:
    for place, (item, title, genres) in rows:
        yield place, item, title, genres.split("|")


def _items(movies: Iterable[_Movie]) -> pd.DataFrame | None:
    items: dict[int, tuple[str, int | None, tuple[str, ...]]] = {}
    for place, field, title, genres in movies:
        item = _new(place, "item", field, items)
        years = _YEAR.findall(title)
        named = tuple(name for name in genres if name not in _NO_GENRE)
        items[item] = title, int(years[-1]) if years else None, named
    if not items:
        return None
    titles, numbers, named_genres = zip(*items.values(), strict=True)
    return pd.DataFrame(
        {
            "item": list(items),
            "title": list(titles),
            "year": pd.array(list(numbers), dtype="Int64"),
            "genres": pd.Series(list(named_genres), dtype=object),
        }
    )


def _new(place: str, what: str, field: str, known: Container[int]) -> int:
    key = _integer(place, what, field)
    if key in known:
        raise DataError(f"{place}: more than one row of {what} {key}")
    return key


def _folds(files: _Files, ratings: pd.DataFrame) -> Iterator[tuple[str, Split]]:
    rated = pd.MultiIndex.from_frame(ratings[["user", "item"]])
    for fold in _FOLDS:
        names = [f"{fold}.base", f"{fold}.test"]
        present = [name for name in names if name in files.paths]
        if len(present) == 1:
            raise DataError(f"A fold needs both {names}. Received: {present[0]} alone.")
        if present:
            base, test = (_positions(files, name, rated) for name in names)
            yield fold, Split(base, test)


def _positions(files: _Files, name: str, rated: pd.MultiIndex) -> npt.NDArray[np.int64]:
    rows = pd.MultiIndex.from_frame(_ratings(files, name, "\t")[["user", "item"]])
    positions = rated.get_indexer(rows).astype(np.int64)
    if (positions < 0).any():
        row = int((positions < 0).argmax())
        text = files.read(name).decode("latin-1")
        line, fields = next(islice(records(text, name, "\t", quoted=False), row, None))
        raise DataError(
            f"{name}, line {line}: u.data has no rating of item {fields[1]} by user "
            f"{fields[0]}"
        )
    return positions
