import json
import subprocess
import sys

import pytest

import fmlayers
from fmlayers.distributed import environment
from tests.distributed.groups import HERE
from tests.distributed.groups import environment as variables_of


def parts(variables):
    return (
        environment.coordinator(variables).value,
        environment.processes(variables).value,
        environment.process(variables).value,
    )


def test_environment_of_slurm():
    variables = {
        "SLURM_JOB_ID": "4242",
        "SLURM_STEP_NODELIST": "node[03-05,7],x1",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
    }
    assert parts(variables) == ("node03:61586", "4", "3")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("alone", "alone"), ("a1,b2", "a1"), ("r[1,3-4]n2,x", "r1n2"), ("n[009]", "n009")],
)
def test_first_node_of_slurm(nodes, first):
    variables = {"SLURM_JOB_ID": "0", "SLURM_JOB_NODELIST": nodes}
    assert environment.coordinator(variables).value == f"{first}:61440"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (None, "2", "1")),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, (None, "2", "0")),
        ({"JOB_COMPLETION_INDEX": "5"}, (None, None, "5")),
        ({}, (None, None, None)),
    ],
)
def test_environment_of_other_launchers(variables, expected):
    assert parts(variables) == expected


def test_our_variables_come_first():
    variables = {
        "FMLAYERS_COORDINATOR": "here:1",
        "FMLAYERS_PROCESSES": "2",
        "FMLAYERS_PROCESS": "0",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "there",
        "SLURM_NTASKS": "9",
        "SLURM_PROCID": "8",
    }
    assert parts(variables) == ("here:1", "2", "0")


def test_another_backend(backend):
    if backend == "jax":
        pytest.skip("JAX is the backend that it needs")
    with pytest.raises(RuntimeError, match=f'KERAS_BACKEND to "jax".*{backend}'):
        fmlayers.distributed.start("127.0.0.1:1", 2, 0)


def test_tables_need_a_group():
    rule = r"call `fmlayers.distributed.start`"
    with (
        pytest.raises(RuntimeError, match=rule),
        fmlayers.distributed.tables_over_hosts(),
    ):
        pass


def test_min_rows():
    with (
        pytest.raises(ValueError, match="`min_rows` must be a positive integer"),
        fmlayers.distributed.tables_over_hosts(0),
    ):
        pass


@pytest.mark.slow
def test_errors_of_start():
    """One process calls `start` in all the ways that must fail."""
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, str(HERE / "wrong_starts.py")],
        env=variables_of(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    errors = json.loads(done.stdout.splitlines()[-1])
    assert "`processes` must be an argument" in errors["nothing"]
    assert "FMLAYERS_PROCESSES. Received: neither" in errors["nothing"]
    assert "FMLAYERS_COORDINATOR" in errors["no coordinator"]
    assert "from FMLAYERS_PROCESS." in errors["from the environment"]
    assert "one of 0 ... 1, below `processes`. Received: process=2" in errors["outside"]
    assert "process=-1" in errors["negative"]
    for name in ("no port", "high port"):
        assert '`coordinator` must be "HOST:PORT"' in errors[name]
    assert "`timeout` must be a positive number" in errors["timeout"]
    assert "did not answer within 0.2 s" in errors["no answer"]
    assert "must be called before JAX computes" in errors["late"]
    assert errors["one process"] == "no error"
