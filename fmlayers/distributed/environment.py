"""How launchers describe a group: by environment variables, or by Ray Train."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fmlayers import _ray_train

# The variables of SLURM, Open MPI and MPICH, of which the first that is set is used.
# The variables of fmlayers and then Ray Train come before them, because a Ray cluster
# may run in a SLURM job. A Kubernetes job with `completionMode: Indexed` sets only the
# index.
_PROCESSES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_PROCESS = (
    *("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "JOB_COMPLETION_INDEX",
)
_FIRST_PORT, _PORTS = 61_440, 4_096


@dataclass(frozen=True)
class Part:
    """A part of the description of a group.

    Attributes:
        value: The value, or `None` if it is missing.
        source: String, the argument, environment variable or launcher that sets the
            value.
    """

    value: str | int | None
    source: str


def coordinator(environ: Mapping[str, str] = os.environ) -> Part:
    """Returns the address of process 0, `HOST:PORT`."""
    part = _first(("FMLAYERS_COORDINATOR",), environ, _ray_train.coordinator)
    if part.value is not None:
        return part
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        if name in environ and "SLURM_JOB_ID" in environ:
            # All processes of a job choose the same port, and other jobs usually choose
            # different ones.
            port = _FIRST_PORT + int(environ["SLURM_JOB_ID"]) % _PORTS
            return Part(f"{_first_node(environ[name])}:{port}", name)
    return part


def processes(environ: Mapping[str, str] = os.environ) -> Part:
    """Returns the number of processes."""
    names = ("FMLAYERS_PROCESSES", *_PROCESSES)
    return _first(names, environ, _ray_train.world_size)


def process(environ: Mapping[str, str] = os.environ) -> Part:
    """Returns the index of this process."""
    return _first(("FMLAYERS_PROCESS", *_PROCESS), environ, _ray_train.rank)


PARTS: dict[str, Callable[[], Part]] = {
    "coordinator": coordinator,
    "processes": processes,
    "process": process,
}


def _first(
    names: tuple[str, ...],
    environ: Mapping[str, str],
    of_ray_train: Callable[[], str | int | None],
) -> Part:
    ours, *others = names
    if not environ.get(ours):
        value = of_ray_train()
        if value is not None:
            return Part(value, "Ray Train")
    for name in (ours, *others):
        if environ.get(name):
            return Part(environ[name], name)
    return Part(None, ours)


def _first_node(nodes: str) -> str:
    """Returns the first node of a SLURM list: `node03` for `node[03-05,7],x1`."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
