"""The command as a process of its own: how it starts, and what it writes."""

import os
import re
import subprocess
import sys

import pytest

import fmlayers
from fmlayers import cli
from fmlayers.cli.command import COMMANDS

# Runs the command and says what it has imported.
COMMAND = """
import sys
from fmlayers.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
heavy = {"keras", "tensorflow", "jax", "torch", "pandas", "numpy", "rich"}
print("IMPORTED", *sorted(heavy & set(sys.modules)))
sys.exit(code)
"""


def environment(level):
    """Return the environment of a user with this level of TensorFlow's log."""
    name = "TF_CPP_MIN_LOG_LEVEL"
    others = {key: value for key, value in os.environ.items() if key != name}
    return others if level is None else others | {name: level}


def run(*words, level=None, code=COMMAND):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        env=environment(level),
        text=True,
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_imports_nothing_that_takes_time(words):
    result = run(*words)
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.endswith("IMPORTED\n")
    assert "fmlayers" in result.stdout


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(["--version"])
    assert info.value.code == 0
    assert capsys.readouterr().out == f"fmlayers {fmlayers.__version__}\n"


@pytest.mark.parametrize("module", ["fmlayers", "fmlayers.cli"])
def test_the_command_is_a_module_too(module):
    words = [sys.executable, "-m", module, "--version"]
    result = subprocess.run(words, capture_output=True, check=True, text=True)
    assert result.stdout == f"fmlayers {fmlayers.__version__}\n"


@pytest.mark.parametrize("words", [[], ["serve"], ["train", "--no-such-option"]])
def test_misuse_is_said_without_a_traceback(words):
    result = run(*words)
    assert result.returncode == 2
    assert result.stdout == "IMPORTED\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("usage: fmlayers")
    assert lines[-1].startswith("fmlayers")
    assert ": error: " in lines[-1]


@pytest.mark.slow
def test_nothing_is_logged(film_run, tmp_path):
    result = run("explain", film_run, "--user", "1", "--item", "1")
    assert (result.returncode, result.stderr) == (0, "")
    out = tmp_path / "model.tflite"
    result = run("export", film_run, "--format", "litert", "--out", out)
    assert (result.returncode, result.stderr) == (0, "")
    result = run("predict", tmp_path, "--data", "rows.csv")
    assert result.returncode == 1
    assert result.stderr == f"fmlayers: {tmp_path} is not a finished run.\n"


def test_the_end_of_the_process_searches_no_objects(film_run):
    """Garbage collection of all objects of TensorFlow would take a second."""
    code = """
import gc
from fmlayers.cli import main
main()
print("SEARCHED", len(gc.get_objects()), "OF", gc.get_freeze_count())
"""
    result = run("similar", film_run, "--item", "1", code=code)
    numbers = re.findall("SEARCHED ([0-9]+) OF ([0-9]+)", result.stdout)
    searched, total = map(int, numbers[0])
    assert searched < 1000 < total


def messages(text):
    """Return log lines without their times and processes."""
    return {line.split("] ")[-1] for line in text.splitlines() if line}


@pytest.mark.slow
def test_the_level_of_the_user_counts(tmp_path):
    logged = messages(run(level="0", code="import keras").stderr)
    shown = messages(run("predict", tmp_path, "--data", "x", level="0").stderr)
    assert logged < shown
    assert shown - logged == {f"fmlayers: {tmp_path} is not a finished run."}


@pytest.mark.slow
def test_the_package_leaves_the_environment_as_it_is():
    code = """
import os
before = dict(os.environ)
import fmlayers.cli
assert os.environ == before
import keras  # JAX, which TensorFlow imports where it is, sets some
before = dict(os.environ)
import fmlayers.layers
assert os.environ == before
"""
    assert run(code=code).returncode == 0


def test_what_was_held_back_shows_where_the_import_fails():
    code = """
import os, sys
sys.modules["keras.src"] = None
from fmlayers._logs import import_keras
class Finder:
    def find_spec(self, name, *where):
        if name == "keras":
            os.write(2, b"a library says why\\n")
            raise ImportError("no backend")
sys.meta_path.insert(0, Finder())
import_keras()
"""
    result = run(code=code)
    assert result.returncode == 1
    assert result.stderr.startswith("a library says why\n")
    assert result.stderr.endswith("ImportError: no backend\n")


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(film_run, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item,day\n1,1,1\n")
    with subprocess.Popen(
        [sys.executable, "-m", "fmlayers", "predict", film_run, "--data", rows],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(None),
        text=True,
    ) as process:
        process.stdout.close()  # as `| head` does
        error = process.stderr.read()
    assert (process.returncode, error) == (1, "")


def in_shell(script, *words, **variables):
    """Run a script of sh in which `"$@"` is the command."""
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "fmlayers", *map(str, words)],
        capture_output=True,
        env=environment(None) | variables,
        text=True,
    )


def says_one_sentence(result, sentence):
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("fmlayers: ")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_closed_streams(tmp_path):
    words = ["train", "--out", tmp_path / "run"]
    says_one_sentence(in_shell('"$@" >&-', *words), "Standard output is closed")
    result = in_shell('"$@" 2>&- >&-', *words)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_a_limit_of_memory_that_the_backend_does_not_survive(tmp_path):
    result = in_shell('ulimit -v 2000000; "$@"', "train", "--out", tmp_path / "run")
    says_one_sentence(result, "must be at least 5 GB")
    assert "Received: 2.0 GB." in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", ['{"backend": "foo"}', "[]", '{"floatx": "float99"}', "KERAS_BACKEND"]
)
def test_a_backend_that_cannot_be_imported(settings, tmp_path):
    variables = {"HOME": str(tmp_path), "KERAS_BACKEND": "foo"}
    if settings != "KERAS_BACKEND":
        del variables["KERAS_BACKEND"]
        (tmp_path / ".keras").mkdir()
        (tmp_path / ".keras" / "keras.json").write_text(settings)
    result = in_shell(
        'unset KERAS_HOME; "$@"', "train", "--out", tmp_path / "run", **variables
    )
    says_one_sentence(result, "Keras cannot be imported: ")
    assert "must be tensorflow, jax or torch" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("out", ["/", "file/x/s", "/proc/s"])
def test_a_study_that_cannot_be_written(out, tmp_path):
    (tmp_path / "file").touch()
    result = in_shell('"$@"', "tune", "--data", "synthetic", "--out", tmp_path / out)
    says_one_sentence(result, out)


ERRORS = {
    "MemoryError()": "There is not enough memory.",
    "MemoryError('Unable to allocate 9 TiB')": "There is not enough memory. Unable to",
    "tf.errors.ResourceExhaustedError(None, None, 'OOM\\nmore')": "Error: OOM",
    "pa.lib.ArrowException('no buffer')": "ArrowException: no buffer",
    "KeyError('user')": "KeyError: 'user'",
    "RuntimeError()": "RuntimeError",
}


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_is_one_sentence(error, tmp_path, capsys, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    tf = pytest.importorskip("tensorflow")

    def fail(*arguments, **options):
        raise eval(error, {"pa": pa, "tf": tf})

    monkeypatch.setattr("fmlayers.runs.train", fail)
    words = ["train", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("fmlayers: ")
    assert captured.err.count("\n") == 1
    assert ERRORS[error] in captured.err
    with pytest.raises(Exception):  # noqa: B017, PT011
        cli.main([*words, "--debug"])
