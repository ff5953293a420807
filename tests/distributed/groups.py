"""Groups of real processes on this machine, each with one device of JAX."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from fmlayers._ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def environment(**variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FMLAYERS_PRO")}
    return {
        **kept,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        # One device and one thread per process, whatever the machine has.
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "OMP_NUM_THREADS": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # which take half of the time
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Otherwise, `malloc` keeps freed memory, which counts in the peak of a process.
        "MALLOC_TRIM_THRESHOLD_": str(2**17),
        **variables,
    }


def run_group(script, folder, processes, *args, seconds=240):
    """Run a script of this folder in a group, and return what each process printed.

    Raise if a process fails. None of them outlives the limit.
    """
    codes, outputs = end_of_group(script, folder, processes, *args, seconds=seconds)
    assert not any(codes), f"exit codes {codes}:\n" + "\n".join(
        text[-4000:] for text in outputs
    )
    return outputs


def end_of_group(script, folder, processes, *args, seconds=240):
    """Run a script as `run_group`, and return the exit codes and the outputs.

    The code of a process that reaches the limit is -9, that of SIGKILL.
    """
    address = f"127.0.0.1:{free_port()}"
    running = []
    for process in range(processes):
        variables = {
            "FMLAYERS_COORDINATOR": address,
            "FMLAYERS_PROCESSES": str(processes),
            "FMLAYERS_PROCESS": str(process),
        }
        output = folder / f"{Path(script).stem}-{process}.txt"
        with output.open("w") as file:
            each = subprocess.Popen(
                [sys.executable, str(HERE / script), str(folder), *map(str, args)],
                env=environment(**variables),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append((each, output))
    end = time.monotonic() + seconds
    try:
        for each, _ in running:
            each.wait(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for each, _ in running:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
                each.wait()
    outputs = [path.read_text("utf-8", errors="replace") for _, path in running]
    return [each.returncode for each, _ in running], outputs


def results_of_group(folder, names, processes):
    """Return for each process its arrays by name, and facts, that a script wrote."""
    return [
        (
            {name: dict(np.load(folder / f"{name}-{i}.npz")) for name in names},
            json.loads((folder / f"facts-{i}.json").read_text()),
        )
        for i in range(processes)
    ]
