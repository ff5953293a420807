"""The launcher of a group on this machine. The scripts do not import Keras."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest


def start(folder, script, processes=3):
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "fmlayers.distributed.launch"]
    return subprocess.Popen(
        [*command, str(processes), str(path), str(folder)],
        # A job in the background of a shell ignores the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_each_process_has_its_variables(tmp_path):
    script = """
        import os, pathlib, sys
        names = "COORDINATOR", "PROCESSES", "PROCESS"
        values = [os.environ[f"FMLAYERS_{name}"] for name in names]
        values.append(os.environ["KERAS_BACKEND"])
        pathlib.Path(sys.argv[1], values[2]).write_text(" ".join(values))
    """
    assert start(tmp_path, script).wait(60) == 0
    for process in range(3):
        address, *others = (tmp_path / str(process)).read_text().split()
        assert others == ["3", str(process), "jax"]
        assert address.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit(5)", 5), ("os.kill(os.getpid(), 9)", 137)],
    ids=["an error", "a signal"],
)
def test_all_end_if_one_does(ending, code, tmp_path):
    script = f"""
        import os, sys, time
        if os.environ["FMLAYERS_PROCESS"] == "1":
            {ending}
        time.sleep(300)
    """
    assert start(tmp_path, script).wait(60) == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all(number, tmp_path):
    script = """
        import os, pathlib, sys, time
        path = pathlib.Path(sys.argv[1], os.environ["FMLAYERS_PROCESS"])
        path.write_text(str(os.getpid()))
        time.sleep(300)
    """
    process = start(tmp_path, script)
    numbers = [tmp_path / str(i) for i in range(3)]
    end = time.monotonic() + 60
    while not all(x.exists() and x.read_text() for x in numbers):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    for path in numbers:
        command = ["ps", "-p", path.read_text(), "-o", "stat="]
        state = subprocess.run(command, capture_output=True, text=True, check=False)
        assert state.stdout.strip() in ("", "Z")


@pytest.mark.parametrize("words", [[], ["two", "x.py"], ["0", "x.py"], ["2"]])
def test_usage(words):
    command = [sys.executable, "-m", "fmlayers.distributed.launch", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "usage: python -m fmlayers.distributed.launch PROCESSES" in result.stderr
