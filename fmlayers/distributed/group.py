"""The group of processes that train a model together."""

import re
import socket
import time

import keras

from fmlayers import _hosts, _ray_train
from fmlayers._checks import integer, number
from fmlayers.distributed import environment

# After a process is killed, the others fail at the next step and end within this time.
MAX_SILENT_SECONDS = 20


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: float = 300.0,
) -> None:
    """Joins the group of processes that train a model together.

    Each host runs one or more of the processes.

    Call it in every process before JAX computes anything. It initializes
    `jax.distributed` and sets the global `keras.distribution`. From then on, a batch
    consists of the rows that all processes pass to `fit`, and every process has all
    weights except for the tables of `tables_over_hosts`. If a process is killed, the
    others end within half a minute. Then start all of them again.

    Arguments that are omitted are read from the environment: from
    `FMLAYERS_COORDINATOR`, `FMLAYERS_PROCESSES` and `FMLAYERS_PROCESS`, from the
    context of a worker of Ray Train, or from the variables of SLURM, Open MPI, MPICH,
    or a Kubernetes job with `completionMode: Indexed`. Ray Train and SLURM set all
    three. The others do not set the coordinator, and Kubernetes does not set the number
    of processes.

    Args:
        coordinator: String `"HOST:PORT"`, the address at which process 0 listens. All
            processes must be able to reach it. Not needed for a single process.
        processes: Positive integer, the number of processes. With a single process, the
            group consists of all devices of its machine.
        process: Index of this process, from 0 to `processes - 1`.
        timeout: Positive number, the seconds to wait for the other processes. Defaults
            to 300.

    Raises:
        ValueError: If an argument is omitted and its environment variable is not set,
            or if a value violates its constraint.
        RuntimeError: If the backend is not JAX, if JAX was used before, or if the group
            is not complete in time.

    For an example, see `docs/distributed.md`.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "`fmlayers.distributed` requires the JAX backend: set the environment "
            'variable KERAS_BACKEND to "jax" before Keras is imported. Received: '
            f"{keras.backend.backend()!r}."
        )
    import jax

    least = _ray_train.world_size() or 1
    of_workers = f"at least {least}, the number of Ray Train workers"
    rule = "a positive integer" if least == 1 else of_workers
    processes = _integer("processes", processes, rule, least=least)
    rule = f"one of 0 ... {processes - 1}, below `processes`"
    process = _integer("process", process, rule, least=0, most=processes - 1)
    timeout = number("timeout", timeout, "a positive number", lambda x: x > 0)
    if processes > 1 and not jax.distributed.is_initialized():
        _join(_address(coordinator), processes, process, timeout)
    if (jax.process_count(), jax.process_index()) != (processes, process):
        raise RuntimeError(
            f"The group must have {processes} processes, and this process must have "
            f"the index {process}. Received: JAX has {jax.process_count()} processes, "
            f"and this one has the index {jax.process_index()}. Call "
            "`fmlayers.distributed.start` before anything else initializes JAX."
        )
    _hosts.join()


def _integer(name: str, argument: int | None, rule: str, **bounds: int) -> int:
    part = _part(name, argument)
    value = part.value
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        value = int(value)
    return integer(name, value, rule, of=f" from {part.source}", **bounds)


def _address(argument: str | None) -> str:
    part = _part("coordinator", argument)
    match = re.fullmatch(r"\S+:(\d{1,5})", str(part.value))
    if match is None or not 0 < int(match[1]) < 65_536:
        raise ValueError(
            '`coordinator` must be "HOST:PORT", the address of process 0. Received: '
            f"{part.value!r} from {part.source}."
        )
    return str(part.value)


def _part(name: str, argument: str | int | None) -> environment.Part:
    """Returns a part of the description of the group, which must not be missing."""
    if argument is not None:
        return environment.Part(argument, f"`{name}`")
    part = environment.PARTS[name]()
    if part.value is None:
        raise ValueError(
            f"`{name}` must be an argument of `fmlayers.distributed.start`, or be set "
            f"in the environment variable {part.source}. Received: neither."
        )
    return part


def _join(address: str, processes: int, process: int, timeout: float) -> None:
    import jax

    # Same as in `keras.distribution.initialize`, which has no timeout.
    from keras.src.backend.jax.distribution_lib import initialize_rng

    if process > 0:
        _await_coordinator(address, timeout)
    try:
        jax.distributed.initialize(
            address,
            processes,
            process,
            initialization_timeout=max(1, int(timeout)),
            heartbeat_timeout_seconds=MAX_SILENT_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(
            f"The group of {processes} processes was not complete at {address} within "
            f"{timeout:g} s: {error}"
        ) from error
    except RuntimeError as error:
        raise RuntimeError(
            "`fmlayers.distributed.start` must be called before JAX computes anything, "
            f"such as the weights of a model. Received: {error}"
        ) from error
    initialize_rng()


def _await_coordinator(address: str, timeout: float) -> None:
    """Waits until process 0 listens. Otherwise, JAX would end this process."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=timeout).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RuntimeError(
                    f"`coordinator` must be the address at which process 0 listens. "
                    f"Received: {address}, which did not answer within {timeout:g} s "
                    f"({error})."
                ) from error
        time.sleep(0.1)
