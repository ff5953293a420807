"""The benchmarks import, take the command's options and draw their pictures."""

import ast
import importlib
import json
import shlex
from pathlib import Path

import pytest

from fmlayers.cli import main

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_every_name_that_a_benchmark_imports_is_there(name):
    """Those that it imports only where they are used, too."""
    importlib.import_module(f"benchmarks.{name}")
    source = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.module.split(".")[0] in ("fmlayers", "benchmarks"):
            for alias in node.names:
                exec(f"from {node.module} import {alias.name}", {})


def test_the_command_takes_the_options_of_every_row_of_accuracy(tmp_path, capsys):
    from benchmarks.accuracy import ROWS

    nowhere = tmp_path / "nowhere"
    for _, _, options in ROWS.values():
        command = f"train --data {nowhere} --out {tmp_path / 'run'} {options}"
        assert main(shlex.split(command)) != 0
        assert str(nowhere) in capsys.readouterr().err  # and nothing else is wrong


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("training", {"100": {"LazyAdam": 30.0, "Keras Adam, XLA": 10.0}}),
        ("epoch", {"seconds": {"LazyAdam": 0.5, "PyTorch, SparseAdam": 2.0}}),
        ("time-to-rmse", {"100k": {"myFM": [[1.0, 0.9], [2.0, 0.8]]}}),
    ],
)
def test_pictures_of_figures(name, figures, tmp_path):
    from benchmarks import pictures

    (tmp_path / "figures.json").write_text(json.dumps(figures))
    pictures.main([str(tmp_path), f"--{name}", str(tmp_path / "figures.json")])
    assert (tmp_path / f"performance-{name}.png").stat().st_size > 1000


@pytest.mark.slow
def test_picture_of_a_run(tmp_path):
    from benchmarks import pictures

    run = tmp_path / "run"
    command = f"train --data synthetic --model fm --dim 4 --out {run}"
    assert main(shlex.split(f"{command} --max-epochs 1 --no-refit")) == 0
    pictures.main([str(tmp_path), "--fields", str(run)])
    assert (tmp_path / "field-heat-map.png").stat().st_size > 1000
