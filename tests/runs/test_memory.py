"""A lack of memory is an error in a sentence."""

import subprocess
import sys

import pytest

from fmlayers.runs import RunError
from fmlayers.runs.memory import is_out_of_memory, memory_errors

# The tables of users and items need several times as much as is left.
SCRIPT = """
import resource, sys
import keras
import fmlayers.runs.training
from fmlayers.cli import main

keras.random.normal((2, 2))  # starts the threads of the backend
status = open("/proc/self/status").read().split("VmSize:")[1]
limit = int(status.split()[0]) * 1024 + 500 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(["train", "--data", "synthetic", "--dim", "200000", "--max-epochs", "1",
               "--out", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_without_memory_ends_in_a_sentence(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process
    assert "Traceback" not in process.stderr
    message = "fmlayers: The memory of this machine is not enough. Lower `dim` or"
    assert process.stderr.splitlines()[-1].startswith(message)
    assert list(tmp_path.iterdir()) == []


class OutOfMemoryError(RuntimeError):
    """As PyTorch has it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 10 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 10 bytes"),
    ],
    ids=repr,
)
def test_errors_of_the_backends(error):
    assert is_out_of_memory(error)
    with (
        pytest.raises(RunError, match="is not enough. Buy more."),
        memory_errors("Buy more."),
    ):
        raise error


def test_other_errors_stay(backend):
    assert not is_out_of_memory(RuntimeError("no"))
    with pytest.raises(KeyError), memory_errors("Buy more."):
        raise KeyError("no")
    if backend == "tensorflow":
        import tensorflow as tf

        assert is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "no"))
