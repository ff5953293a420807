"""Saves or loads a sharded model in a group of processes.

    python sharded_models.py FOLDER save
    python sharded_models.py FOLDER load

After `save`, the processes save other weights to the same folder, and process 1 kills
itself while it writes a file.
"""

import os
import signal
import sys
from pathlib import Path

import cases
import jax
import numpy as np

import fmlayers
from fmlayers._backend import all_rows, assign_all_rows

folder, action = Path(sys.argv[1]), sys.argv[2]
fmlayers.distributed.start()
process, processes = jax.process_index(), jax.process_count()


def kill_process_1(event, args):
    if event == "os.rename" and str(args[0]).endswith(".npy") and process == 1:
        os.kill(os.getpid(), signal.SIGKILL)


if action == "save":
    with fmlayers.distributed.tables_over_hosts(1_000):
        model = cases.exact("fm")
        accumulating = fmlayers.optimizers.LazyAdam(gradient_accumulation_steps=2)
        model.compile(accumulating, loss="mse")
    model.optimizer.build(model.trainable_variables)
    for i, variable in enumerate(model.optimizer.variables):
        if hasattr(variable, "spread"):
            assign_all_rows(variable, np.full(variable.spread.shape, i, "float32"))
    fmlayers.distributed.save_sharded(model, folder / "model")
    print("saved", flush=True)
    cases.set_weights(model)
    sys.addaudithook(kill_process_1)
    fmlayers.distributed.save_sharded(model, folder / "model")
else:
    with fmlayers.distributed.tables_over_hosts(1_000):
        model = fmlayers.distributed.load_sharded(folder / "model")
    x = cases.of_process(cases.exact_inputs(), process, processes)
    # Without `tables_over_hosts`, each process has all rows.
    whole = fmlayers.distributed.load_sharded(folder / "model", compile=False)
    everywhere = np.asarray(whole.factors.tables["item"])
    slots = [v for v in model.optimizer.variables if hasattr(v, "spread")]
    np.savez(
        folder / f"loaded-{process}.npz",
        predictions=model.predict(x, batch_size=20, verbose=0),
        rows=[v.value.addressable_shards[0].data.shape[0] for v in slots],
        slots=[np.unique(all_rows(v)) for v in slots],
        everywhere=everywhere,
        **{k: np.asarray(v) for k, v in cases.weights(model).items()},
    )
