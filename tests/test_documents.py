"""Every code block of the documents and every example of a docstring runs."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest

import fmlayers
import fmlayers.data
import fmlayers.export
import fmlayers.metrics
import fmlayers.models
import fmlayers.optimizers
import fmlayers.retrieval
import fmlayers.tuning

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    (module, name)
    for module in (
        "fmlayers",
        "fmlayers.export",
        "fmlayers.metrics",
        "fmlayers.models",
        "fmlayers.optimizers",
        "fmlayers.retrieval",
        "fmlayers.tuning",
    )
    for name in importlib.import_module(module).__all__
] + [("fmlayers.data", "Encoder"), ("fmlayers.data", "ShuffledBatches")]


@pytest.mark.parametrize(("module", "name"), EXAMPLES)
def test_docstring(module, name):
    found = doctest.DocTestFinder(recurse=False).find(
        getattr(importlib.import_module(module), name),
        name,
        globs={
            "fmlayers": fmlayers,
            "keras": keras,
            "keras_tuner": keras_tuner,
            "np": np,
            "pd": pd,
        },
    )
    if module == "fmlayers.export" and keras.backend.backend() != "tensorflow":
        pytest.skip("exports are TensorFlow's")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in found:
        runner.run(test)
    assert runner.failures == 0
    if "Example:" in (getattr(importlib.import_module(module), name).__doc__ or ""):
        assert runner.tries > 0


# What must hold after a document's Python blocks.
CHECKS = {
    "README.md": """
errors = ratings[:, 0] - test["rating"], train["rating"].mean() - test["rating"]
ours, mean = ((error**2).mean() ** 0.5 for error in errors)
assert ours < 0.9 * mean, (ours, mean)
loaded = keras.models.load_model("model.keras")
assert abs(loaded.predict(encoder.transform(test)) - ratings).max() < 1e-5
"""
}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, marks=[] if path.name == "README.md" else pytest.mark.slow)
        for path in DOCUMENTS
    ],
    ids=lambda path: path.name,
)
def test_python_blocks(document, tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the documents show the default backend")
    blocks = re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.S)
    script = tmp_path / "script.py"
    blocks.append(CHECKS.get(document.name, ""))
    script.write_text("\n".join(blocks), "utf-8")
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "error::SyntaxWarning"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands(document, tmp_path):
    """Runs the console blocks that follow `<!-- run -->`."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the documents show the default backend")
    text = document.read_text("utf-8")
    blocks = re.findall(r"<!-- run -->\n```console\n(.*?)```", text, re.S)
    lines = [line.removeprefix("$ ") for line in "".join(blocks).splitlines()]
    commands = Path(sys.executable).parent
    result = subprocess.run(
        ["bash", "-euc", "\n".join(lines)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8"))
    for link in links:
        if not link.startswith(("http://", "https://")):
            assert (document.parent / link).exists(), link
