"""Trains models in a group of processes; the arguments are a folder and the cases."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from cases import BATCH, compiled, data, of_process, results
from programs import collectives, step_of

import fmlayers

folder, cases = Path(sys.argv[1]), sys.argv[2:]
fmlayers.distributed.start()
processes, process = jax.process_count(), jax.process_index()
x, y = of_process(data(), process, processes)
size = BATCH // processes
facts = {}
for case in cases:
    model_name, optimizer_name, min_rows = case.split(",")
    with fmlayers.distributed.tables_over_hosts(int(min_rows)):
        model = compiled(model_name, optimizer_name)
    np.savez(folder / f"{model_name}-{process}.npz", **results(model, x, y, size))
    variables = [*model.variables, *model.optimizer.variables]
    facts[model_name] = {
        "here": [
            (v.path, sum(s.data.shape[0] for s in v.value.addressable_shards))
            for v in variables
            if v.value.shape
        ],
        "collectives": collectives(
            step_of(model, {k: v[:size] for k, v in x.items()}, y[:size]), processes
        ),
    }
(folder / f"facts-{process}.json").write_text(json.dumps(facts))
