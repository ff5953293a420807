"""Each benchmark runs to its end on small sizes and generated data."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fmlayers.data import synthetic

ROOT = Path(__file__).parents[1]
HAS_TORCH = importlib.util.find_spec("torch") is not None
# Name of a benchmark, its sizes, its arguments, and what it prints for each variant.
SIZES = [
    (
        "batches",
        {"ROWS": 512, "BATCH": 64, "LONGEST": 4},
        None,
        ["ShardedBatches.stream(), from Parquet", "without padding"],
    ),
    ("cold_start", {}, ["--rounds", "1"], ["import keras", "exported.serve(row)"]),
    (
        "encoding",
        {},
        "--files 2 --rows 50 --values 70 --rounds 1 --only TableFiles",
        ["100 rows in 2 files", "TableFiles"],
    ),
    (
        "distributed",
        {},
        "--rows 1000 --processes 2 --batch 32 --steps 2 --rounds 1 --gigabytes 0.01",
        ["automatic", "2 processes", "restore"],
    ),
    (
        "fm_interaction",
        {"BATCH": 16, "FIELDS": (3,), "REPEATS": 2},
        None,
        ["square of sum", "keras-rs"],
    ),
    (
        "histories",
        {"DIM": 2},
        "--users 30 --items 20 --ratings 300 --batch 32 --steps 2 --rounds 1",
        ["no histories, XLA", "prepared, XLA"],
    ),
    ("sampling", {}, [300], ["300"]),
    ("serving", {"ITEMS": 200, "QUERIES": 4}, [], ["LiteRT", "int8", "usearch"]),
    (
        "small_tables",
        {"SIZES": (9, 7)},
        "--rows 70 --batch 32 --epochs 1 --rounds 1",
        ["fmlayers, as written", "Keras Embedding, Adam"],
    ),
    ("top_n", {}, ["--items", "500"], ["500 items"]),
    (
        "training",
        {"BATCH": 32},
        ["--rows", "110", "--rounds", "1", *(["--torch"] if HAS_TORCH else [])],
        ["Keras Adam, XLA", *(["torch SparseAdam"] if HAS_TORCH else [])],
    ),
    (
        "wide_tables",
        {"NUMBERS": 2},
        "--ids zipf uniform --fields 3 --rows 50 --batch 32 --steps 2 --rounds 1",
        ["LazyAdam, as written", "Keras Adam, XLA"],
    ),
]


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delenv("FMLAYERS_DATA", raising=False)


def run(name, arguments):
    main = importlib.import_module(f"benchmarks.{name}").main
    if isinstance(arguments, str):
        arguments = arguments.split()
    return main() if arguments is None else main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes", "arguments", "printed"), SIZES)
def test_without_data(name, sizes, arguments, printed, monkeypatch, capfd):
    module = importlib.import_module(f"benchmarks.{name}")
    for constant, value in sizes.items():
        monkeypatch.setattr(module, constant, value)
    run(name, arguments)
    output = capfd.readouterr().out
    assert [text for text in printed if text not in output] == []
    assert "nan" not in output


def write_lines(path, rows, separator):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n", "latin-1")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Write generated tables in the formats of MovieLens, Frappe and Adult."""
    films = synthetic(num_users=30, num_items=20, num_ratings=300)
    ratings = films.ratings.astype({"rating": int})
    genres = ["Action", "Comedy"]
    users = [(n, 20 + n, "MF"[n % 2], n % 3, 12345) for n in films.users["user"]]
    items = [(n, f"Film {n} (199{n % 10})", n % 2) for n in films.items["item"]]

    folder = tmp_path / "ml-100k"
    write_lines(folder / "u.data", ratings.to_numpy(), "\t")
    write_lines(folder / "u.genre", [(g, i) for i, g in enumerate(genres)], "|")
    write_lines(folder / "u.user", users, "|")
    write_lines(
        folder / "u.item",
        [(n, title, "", "", "", g, 1 - g) for n, title, g in items],
        "|",
    )
    folder = tmp_path / "ml-1m"
    write_lines(folder / "ratings.dat", ratings.to_numpy(), "::")
    users = [(n, sex, 18, occupation, code) for n, _, sex, occupation, code in users]
    write_lines(folder / "users.dat", users, "::")
    items = [(n, title, genres[g]) for n, title, g in items]
    write_lines(folder / "movies.dat", items, "::")

    rng = np.random.default_rng(0)
    for part in ("validation", "test"):
        ids = 5 * np.arange(10) + rng.integers(0, 5, (60, 10))
        rows = [(rng.choice([-1, 1]), *(f"{each}:1" for each in row)) for row in ids]
        write_lines(tmp_path / "frappe" / f"frappe.{part}.libfm", rows, " ")
    monkeypatch.setenv("FMLAYERS_DATA", str(tmp_path))


OF_DATA = [
    ("accuracy", {}, ["1m-ids"], "1m-ids: RMSE"),
    ("epoch", {"BATCH": 64}, ["--rounds", "1"], "LazyAdam"),
    ("labels", {"SEEDS": range(1)}, ["frappe-fm"], "frappe-fm: log_loss"),
    ("posterior", {}, ["1m-ids"], "1m-ids, seconds of CPU: RMSE"),
    (
        "time_to_rmse",
        {},
        ["100k", "--only", "Adagrad", "--most", "5"],
        "Adagrad",
    ),
    ("top_n", {"K": 5}, ["--items", "500"], "positions with the same item as NumPy"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes", "arguments", "printed"), OF_DATA)
def test_with_data(name, sizes, arguments, printed, data, monkeypatch, capfd):
    module = importlib.import_module(f"benchmarks.{name}")
    for constant, value in sizes.items():
        monkeypatch.setattr(module, constant, value)
    run(name, arguments)
    output = capfd.readouterr().out
    assert printed in output
    assert "nan" not in output


PEERS = {"label_peers", "peers"}  # train other packages only
PICTURES = {"pictures"}  # tests/test_benchmarks.py draws them


def test_every_benchmark_is_run():
    names = {path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")}
    run = {name for name, *_ in SIZES} | {name for name, *_ in OF_DATA}
    assert names == run | PEERS | PICTURES


@pytest.mark.parametrize(
    "name", ["accuracy", "epoch", "labels", "peers", "posterior", "time_to_rmse"]
)
def test_the_missing_variable_is_named(name, monkeypatch):
    monkeypatch.delenv("FMLAYERS_DATA", raising=False)
    with pytest.raises(SystemExit, match="Set FMLAYERS_DATA to the folder"):
        run(name, [])
