"""Trains models with histories in a group of processes.

The arguments are a folder and the cases, each `name,model,optimizer,table,min_rows`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from cases import (
    BATCH,
    batches_with_histories,
    data,
    history_model,
    of_process,
    results,
)
from programs import collectives, step_of

import fmlayers
from fmlayers.runs.group import ShareOfBatches

folder, cases = Path(sys.argv[1]), sys.argv[2:]
fmlayers.distributed.start()
processes, process = jax.process_count(), jax.process_index()
x, y = of_process(data(), process, processes)
size = BATCH // processes
facts = {}
for case in cases:
    name, kind, optimizer, table, min_rows = case.split(",")
    with fmlayers.distributed.tables_over_hosts(int(min_rows)):
        model = history_model(kind, optimizer, table or None)
    whole = batches_with_histories(model)
    batches = ShareOfBatches(whole) if name == "prepared" else None
    np.savez(folder / f"{name}-{process}.npz", **results(model, x, y, size, batches))
    facts[name] = {
        "here": [
            (v.path, sum(s.data.shape[0] for s in v.value.addressable_shards))
            for v in model.variables
        ]
    }
    if name != "everywhere":
        first = {k: v[:size] for k, v in x.items()}, y[:size]
        step = step_of(model, *(first if batches is None else batches[0]))
        facts[name]["collectives"] = collectives(step, processes)
    if name == "spread":
        model.save(folder / "saved.keras")
        fmlayers.distributed.save_sharded(model, folder / "sharded")
        facts["predictions"] = model.predict(x, batch_size=7, verbose=0).tolist()
        try:
            model.fit(whole, verbose=0)
        except ValueError as error:
            facts["error"] = str(error)
(folder / f"facts-{process}.json").write_text(json.dumps(facts))
