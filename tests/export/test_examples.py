"""The programs of docs/examples run, without fmlayers, against real files."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fmlayers.data import Encoder
from fmlayers.export import export, write_item_vectors
from fmlayers.retrieval import TopN

pytestmark = pytest.mark.usefixtures("on_tensorflow")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RUN = """
import importlib.abc, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
program, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, program.rpartition("/")[0])
runpy.run_path(program, run_name="__main__")
assert not ABSENT & {name.split(".")[0] for name in sys.modules}
"""
ROWS = [
    {"user": "3", "item": "5", "age": 31, "genres": "Drama|War"},
    {"user": 7, "item": "12", "age": None, "genres": ["Comedy", "no such"]},
    {"item": "no such item", "genres": ""},
]


@pytest.fixture(scope="module")
def files(machine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    export(machine, folder / "model.onnx", "onnx")
    export(machine, folder / "model.tflite", "litert")
    return folder


@pytest.fixture(scope="module")
def expected(machine, encoder):
    table = pd.DataFrame([{"user": None, "age": None, **row} for row in ROWS])
    return machine.score(encoder.transform(table)).numpy()[:, 0]


def run(program, *arguments, absent=("fmlayers", "keras", "tensorflow"), fails=False):
    script = f"ABSENT = set({absent})\n{RUN}"
    result = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLES / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode != 0) == fails, result.stderr
    return result.stderr if fails else result.stdout


@pytest.mark.parametrize(
    ("program", "file"),
    [("score_onnx.py", "model.onnx"), ("score_litert.py", "model.tflite")],
)
def test_rows_are_scored_by_the_runtime_alone(program, file, files, expected):
    found = json.loads(run(program, files / file, json.dumps(ROWS)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.encoder.json"])
def test_files_of_two_exports_are_not_mixed(name, files, tmp_path):
    for file in files.glob("model.onnx*"):
        shutil.copy(file, tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    rows = json.dumps(ROWS)
    error = run("score_onnx.py", tmp_path / "model.onnx", rows, fails=True)
    assert f"{name} is damaged or part of another export" in error


def test_vocabularies_are_applied_as_by_the_encoder(tmp_path):
    values = ["", 'O\'Neil, "x"', "new\nline", "七人の侍", "007", "one|two"]
    large = [2**63 - 1, -(2**63), 2**53 + 1, 2**24 + 1, 5, 6]
    table = pd.DataFrame({"title": values, "id": large, "year": [1, 2, 3, 4, 5, None]})
    table["tags"] = [values[i:] for i in range(len(values))]
    kinds = dict.fromkeys(["title", "id"], "categorical")
    kinds |= {"year": "numeric", "tags": "multi_categorical"}
    table["shares"] = [f"{text}:{i}" for i, text in enumerate("abcdef")]
    table["names"], table["sizes"] = table["tags"], [[0.5] * n for n in range(6, 0, -1)]
    table["text"] = [[i, 2.0, -1.0] for i in range(6)]
    kinds |= {"shares": "weighted", "names": "weighted", "text": "vector"}
    encoder = Encoder(kinds, weights={"names": "sizes"}).fit(table)
    encoder.save(tmp_path / "encoder.json")
    spec = importlib.util.spec_from_file_location("encode", EXAMPLES / "encode.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cells = {
        "title": [*values, "unknown", None],
        "id": [*large, 2**63 - 2, None],
        "year": [*range(6), None, 7.5],
        "tags": [*table["tags"], "new\nline|七人の侍||x", ""],
        "shares": ["a:1||b:-2", "x:y:3", "", None, {"a": 0.1}, [("c", 2)], "a:1", []],
        "names": [*table["names"], "007||x", None],
        "sizes": [*table["sizes"], "1||2e-1", ""],
        "text": ["1|2|3", "", None, [1, 2, None], (0.1, 2, 3), [], [4, 5, 6], [7] * 3],
    }
    series = {name: pd.Series(column, dtype=object) for name, column in cells.items()}
    expected = encoder.transform(pd.DataFrame(series))
    rows = [
        dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)
    ]
    found = module.Vocabularies(tmp_path / "encoder.json").encode(rows)
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)


@pytest.mark.slow
def test_the_nearest_are_the_list(machine, encoder, films, tmp_path):
    known = films.items["item"].astype(str).isin(encoder.vocabulary("item"))
    items = films.items[known][["item", "genres"]]
    catalog = {name: encoder.encode(name, items[name]) for name in items}
    top = TopN(machine, ["item", "genres"], len(items), k=25).index(catalog)
    keys = items["item"].astype(str).tolist()
    write_item_vectors(top, keys, tmp_path / "items.npy")
    export(machine, tmp_path / "served", items=items)
    query = json.dumps({"user": ["3"], "age": [30.0]})
    printed = run(
        *("nearest.py", tmp_path / "items.npy", tmp_path / "served", query),
        absent=("fmlayers",),
    )
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "served", other)
    card = json.loads((other / "card.json").read_text("utf-8"))
    (other / "card.json").write_text(json.dumps({**card, "weights_digest": "0"}))
    arguments = ("nearest.py", tmp_path / "items.npy", other, query)
    error = run(*arguments, absent=("fmlayers",), fails=True)
    assert "are exports of different models" in error
    found = [line.split() for line in printed.splitlines()]
    queries = {
        name: encoder.encode(name, pd.Series([value]))
        for name, value in (("user", "3"), ("age", 30.0))
    }
    scores, positions = top(queries)
    count = min(25, len(items))
    assert [key for _, key in found] == [keys[i] for i in positions.numpy()[0, :count]]
    np.testing.assert_allclose(
        [float(score) for score, _ in found], scores.numpy()[0, :count], atol=2e-4
    )
