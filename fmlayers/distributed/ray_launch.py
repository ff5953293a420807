import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from fmlayers._checks import integer, number

T = TypeVar("T")

MAX_RESTARTS = 3
# Ray detects within this time that a machine is lost.
MAX_DETECTION_SECONDS = 60.0
STORE_BYTES = 100 * 2**20  # the workers exchange next to nothing through Ray


def launch_with_ray(
    function: Callable[..., T],
    workers: int,
    *,
    args: Sequence[Any] = (),
    resources: Mapping[str, float] | None = None,
    restarts: int = MAX_RESTARTS,
    timeout: float = 300.0,
) -> list[T]:
    """Calls a function in a group of Ray workers.

    The function must call `fmlayers.distributed.start()` without arguments. In the
    workers, Keras uses the JAX backend.

    If a worker dies, for example because its machine is lost, all workers are started
    again, and the function is called again. To resume from a checkpoint, it should
    train with `fmlayers.distributed.fit`. If the function raises an error, all workers
    are stopped.

    If this process is connected to Ray, the environment variable `RAY_ADDRESS` is set,
    or `ray start` was run on this machine, the workers run in that cluster. Otherwise,
    Ray is started on this machine, and stopped at the end.

    Args:
        function: The function. Ray pickles it by its name if it can be imported.
        workers: Positive integer, the number of workers.
        args: List of arguments of the function. Defaults to none.
        resources: Optional dict from resources of Ray to the amount that each worker
            reserves, such as `{"CPU": 4, "GPU": 1}`. A worker without a GPU or TPU
            trains on CPUs. Defaults to `None` (one CPU, and one GPU if the cluster has
            one for each worker).
        restarts: Nonnegative integer, how many times the workers are started again.
            Defaults to 3.
        timeout: Positive number, the seconds to wait for the resources. Defaults to
            300.

    Returns:
        List of the results of the function, one per worker.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If an argument violates its constraint.
        RuntimeError: If the resources are not available in time, or a worker dies and
            no restarts are left.
        Exception: The error that the function raises.

    For an example, see `docs/distributed.md`.
    """
    workers = integer("workers", workers)
    restarts = integer("restarts", restarts, "a nonnegative integer", least=0)
    timeout = number("timeout", timeout, "a positive number", lambda x: x > 0)
    cpus = 1.0 if resources is None else resources.get("CPU", 0.0)
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "Ray workers require Ray. Install it with `pip install fmlayers[ray]`."
        ) from error
    restart = 0
    with _connected(workers * cpus), _reserved(workers, resources) as group:
        while True:
            try:
                return _call(function, args, group, timeout)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except (
                ray.exceptions.RayActorError,
                ray.exceptions.NodeDiedError,
                ray.exceptions.OutOfMemoryError,
            ) as error:
                if restart == restarts:
                    raise RuntimeError(
                        f"A Ray worker died after {restarts} restarts: {error}"
                    ) from error
            restart += 1
            warnings.warn(
                f"A Ray worker died. Restart {restart} of {restarts}: all workers "
                "are started again.",
                stacklevel=2,
            )


class _Worker:
    """A process of the group."""

    def __init__(self, process: int, on_cpus: bool) -> None:
        self.process = process
        # Before Ray unpickles the arguments of `call`, which may import Keras.
        os.environ["KERAS_BACKEND"] = "jax"
        if on_cpus:  # Ray does not hide the GPUs of the machine
            os.environ["JAX_PLATFORMS"] = "cpu"

    def __repr__(self) -> str:  # Ray prints it before each line of output
        return f"process {self.process}"

    def address(self) -> str:
        from fmlayers._ports import free_address

        return free_address()

    def call(
        self,
        function: Callable[..., T],
        args: Sequence[Any],
        coordinator: str,
        processes: int,
    ) -> T:
        os.environ["FMLAYERS_COORDINATOR"] = coordinator
        os.environ["FMLAYERS_PROCESSES"] = str(processes)
        os.environ["FMLAYERS_PROCESS"] = str(self.process)
        try:
            return function(*args)
        except SystemExit as error:  # Ray would take it for a death
            raise RuntimeError(f"The function exited with {error.code!r}.") from error


@contextmanager
def _connected(cpus: float) -> Iterator[None]:
    """Connects this process to Ray, unless it is connected already.

    Args:
        cpus: Number of CPUs that are necessary.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            # A local cluster for this group only.
            ray.init(
                num_cpus=math.ceil(cpus),
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                logging_level="error",
            )
        except ValueError:  # a cluster exists, and Ray accepts no sizes for it
            ray.init(logging_level="error")
        if callable(handler):
            _restore(handler)
        yield
    finally:
        ray.shutdown()
        _restore(handler)


def _restore(handler: Any) -> None:
    """Sets the handler of SIGTERM again, if Ray has replaced it."""
    if handler is not None and signal.getsignal(signal.SIGTERM) is not handler:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _reserved(workers: int, resources: Mapping[str, float] | None) -> Iterator[Any]:
    """Reserves the resources of all workers, which are released after the block."""
    import ray

    if resources is None:
        gpus = ray.cluster_resources().get("GPU", 0)
        resources = {"CPU": 1, "GPU": 1} if gpus >= workers else {"CPU": 1}
    group = ray.util.placement_group([dict(resources)] * workers)
    try:
        yield group
    finally:
        with suppress(ray.exceptions.RayError):  # the cluster is lost
            ray.util.remove_placement_group(group)


def _call(
    function: Callable[..., T], args: Sequence[Any], group: Any, timeout: float
) -> list[T]:
    """Calls the function in new workers, and returns their results."""
    import ray

    workers = [_new_worker(group, process) for process in range(group.bundle_count)]
    try:
        try:
            addresses = [worker.address.remote() for worker in workers]
            coordinator, *_ = ray.get(addresses, timeout=timeout)
        except ray.exceptions.GetTimeoutError as error:
            share = group.bundle_specs[0]
            total = {name: ray.cluster_resources().get(name, 0.0) for name in share}
            raise RuntimeError(
                f"Ray must have {share} free for each of {len(workers)} workers. Use "
                "fewer `workers` or `resources`, or a longer `timeout`. Received: "
                f"{total} in the whole cluster, of which too little was free within "
                f"{timeout:g} s."
            ) from error
        group_args = (function, args, coordinator, len(workers))
        return _results([worker.call.remote(*group_args) for worker in workers])
    finally:
        # New workers can start only after these have released their resources.
        for worker in workers:
            with suppress(ray.exceptions.RayError):
                ray.kill(worker)


def _new_worker(group: Any, process: int) -> Any:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    share = dict(group.bundle_specs[process])
    on_cpus = not (share.get("GPU") or share.get("TPU"))
    worker = ray.remote(_Worker).options(
        num_cpus=share.pop("CPU", 0),
        num_gpus=share.pop("GPU", 0),
        resources=share,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, process),
    )
    return worker.remote(process, on_cpus)


def _results(calls: Sequence[Any]) -> list[Any]:
    """Returns the results of all workers.

    Raises:
        RayError: If a worker died, or its result cannot be read here.
        RayTaskError: If the function raised an error, and no worker died.
    """
    import ray

    waiting, failed = list(calls), None
    while waiting:
        # If a worker dies, another may fail before Ray notices the death.
        timeout = None if failed is None else MAX_DETECTION_SECONDS
        done, waiting = ray.wait(waiting, timeout=timeout)
        if not done:
            break
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    results: list[Any] = ray.get(list(calls))
    return results
