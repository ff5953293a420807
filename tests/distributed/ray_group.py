"""Calls functions in Ray workers, and writes what happens to a file.

    python ray_group.py FOLDER

The workers unpickle the functions by value. Except for Ray Train, they do not import
Keras.
"""

import json
import os
import signal
import sys
from pathlib import Path

import ray

from fmlayers.distributed import launch_with_ray

folder = Path(sys.argv[1])


def environment_of_group():
    names = "COORDINATOR", "PROCESSES", "PROCESS"
    variables = [os.environ[f"FMLAYERS_{name}"] for name in names]
    return [*variables, os.environ["KERAS_BACKEND"], ray.get_gpu_ids()]


def platforms():
    return os.environ["JAX_PLATFORMS"]


def fails(message):
    if os.environ["FMLAYERS_PROCESS"] == "1":
        raise LookupError(message)
    return message


def dies(folder, times):
    """Kill process 1 in the first `times` calls, in which process 0 fails, too."""
    process, deaths = os.environ["FMLAYERS_PROCESS"], len(list(folder.iterdir()))
    if deaths < times:
        if process == "0":
            raise ConnectionError("process 1 has closed the connection")
        (folder / str(deaths)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"process {process} after {deaths} deaths"


def train_loop(config):
    """Try to train separate models in Ray Train, and then join the group."""
    os.environ.update(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    # As if the cluster were a job of SLURM.
    os.environ.update(SLURM_NTASKS="5", SLURM_PROCID="0")
    import jax
    import numpy as np

    import fmlayers

    def errors_of(**calls):
        messages = {}
        for name, call in calls.items():
            try:
                call()
                messages[name] = "no error"
            except (RuntimeError, ValueError) as error:
                messages[name] = f"{type(error).__name__}: {error}"
        return messages

    facts = errors_of(
        alone=lambda: fmlayers.distributed.start(processes=1, process=0),
        shards=lambda: fmlayers.distributed.fit(None, None, epochs=1),
        joined=lambda: fmlayers.distributed.start(timeout=60),
    )
    rank = ray.train.get_context().get_world_rank()
    facts["group"] = [jax.process_count(), jax.process_index(), rank]
    jax.distributed.shutdown()
    features = [fmlayers.Categorical("user", 9)]
    model = fmlayers.models.FactorizationMachine(features, 2)
    model.compile("sgd", loss="mse")
    x = {"user": np.array([1, 2], "int32")}
    facts |= errors_of(fit=lambda: model.fit(x, np.ones(2), verbose=0))
    (config["folder"] / f"worker-{rank}.json").write_text(json.dumps(facts))


def outcome(*args, **kwargs):
    try:
        return launch_with_ray(*args, **kwargs)
    except (LookupError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


del os.environ["JAX_PLATFORMS"]  # which the workers inherit
ray.init(
    num_cpus=3,  # with one for the controller of Ray Train
    num_gpus=2,  # which need not exist
    object_store_memory=100 * 2**20,
    include_dashboard=False,
    logging_level="error",
    log_to_driver=False,
)
for name in ("once", "often"):
    (folder / name).mkdir()
facts = {
    "environment": outcome(environment_of_group, 2),
    "platforms": outcome(platforms, 1, resources={"CPU": 1}),
    "error": outcome(fails, 2, args=["of the function"]),
    "once": outcome(dies, 2, args=[folder / "once", 1], restarts=1),
    "often": outcome(dies, 2, args=[folder / "often", 9], restarts=0),
    "resources": outcome(fails, 2, resources={"CPU": 1, "GPU": 9}, timeout=0.5),
    "connected": ray.is_initialized(),
}
from ray.train import RunConfig, ScalingConfig  # noqa: E402
from ray.train.v2.jax import JaxTrainer  # noqa: E402

JaxTrainer(
    train_loop,
    train_loop_config={"folder": folder},
    scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
    run_config=RunConfig(name="train", storage_path=str(folder / "train")),
).fit()
ray.shutdown()
(folder / "facts.json").write_text(json.dumps(facts))
