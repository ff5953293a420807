"""Every code block of the documents runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

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
    if document.name == "distributed.md":
        pytest.importorskip("jax")
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
    # Those of the README are run by a shell, each in a process.
    command = [sys.executable, str(ROOT / "tests" / "run_commands.py")]
    if document.name == "README.md":
        command = ["bash", "-eu"]
    commands = Path(sys.executable).parent
    result = subprocess.run(
        command,
        input="\n".join(lines),
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
