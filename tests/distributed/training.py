"""Trains models in a group of processes, and does with them what a user would.

The arguments are a folder and the cases, each `model,optimizer,min_rows`.
"""

import json
import resource
import sys
from pathlib import Path

import jax
import keras
import numpy as np
from cases import (
    BATCH,
    batches_of,
    compiled,
    data,
    of_process,
    results,
    sharded_model,
    weights,
)
from programs import collectives, step_of

import fmlayers
from fmlayers import _hosts


def errors_of(**calls):
    """Return the messages of calls that must fail."""
    messages = {}
    for name, call in calls.items():
        try:
            call()
            messages[name] = "no error"
        except (ValueError, RuntimeError, OSError) as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def first_rows(count):
    """Return the first rows of the data of this process."""
    return {name: values[:count] for name, values in x.items()}, y[:count]


def train(case):
    model_name, optimizer_name, min_rows = case.split(",")
    with fmlayers.distributed.tables_over_hosts(int(min_rows)):
        model = compiled(model_name, optimizer_name)
    np.savez(folder / f"{model_name}-{process}.npz", **results(model, x, y, size))
    variables = [*model.variables, *model.optimizer.variables]
    return model, {
        "here": [
            (v.path, sum(s.data.shape[0] for s in v.value.addressable_shards))
            for v in variables
            if v.value.shape
        ],
        "collectives": collectives(step_of(model, *first_rows(size)), processes),
    }


def stopped_early(model):
    """Return the weights that early stopping restores, and the losses it saw."""
    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=1, restore_best_weights=True
    )
    before = np.asarray(weights(model)["factors/table/user"])
    history = model.fit(
        *(x, -y),
        batch_size=size,
        epochs=5,
        validation_data=first_rows(7),
        callbacks=[stop],
        verbose=0,
    ).history
    after = np.asarray(weights(model)["factors/table/user"])
    best = model.evaluate(*first_rows(7), verbose=0)
    return {
        "losses": history["val_loss"],
        "restored": best,
        "moved": float(np.abs(after - before).max()),
    }


def saved_and_loaded(model):
    model.save(folder / "saved.keras")
    model.save_weights(folder / "saved.weights.h5")
    model.save(folder / "gathered", zipped=False)
    predictions = model.predict(x, batch_size=16, verbose=0)
    with fmlayers.distributed.tables_over_hosts(1000):
        loaded = keras.saving.load_model(folder / "saved.keras")
    again = loaded.predict(x, batch_size=16, verbose=0)
    losses = [
        each.fit(x, y, batch_size=size, shuffle=False, verbose=0).history["loss"]
        for each in (model, loaded)
    ]
    return {
        "difference": float(np.abs(predictions - again).max()),
        "next losses": losses,
    }


def trained_on_shards():
    shards = folder / "shards"
    batches = batches_of(shards, process, processes)
    with fmlayers.distributed.tables_over_hosts(100):
        model = sharded_model(shards)
    losses = model.fit(
        batches.stream(),
        steps_per_epoch=len(batches),
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history["loss"]
    pairs = fmlayers.data.ShardedBatches(
        shards, 20, seed=0, worker=process, workers=processes
    )
    return {
        "losses": losses,
        **errors_of(pairs=lambda: model.fit(pairs.stream(), steps_per_epoch=1)),
    }


def on_a_full_disk(action):
    """Run an action with a limit on the size of files in process 0."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if process == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        action()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def peak_memory():
    """Return the memory that training and saving a table needs, per byte of it.

    It is `None` where the peak of a process cannot be reset.
    """

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith(name))

    # Without them, XLA copies what it could update in place.
    jax.config.update("jax_disable_most_optimizations", False)
    rows, dim = 2_000_000, 32
    feature = fmlayers.Categorical("user", rows)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = status("VmRSS")
    with fmlayers.distributed.tables_over_hosts():
        model = fmlayers.models.FactorizationMachine([feature], dim)
    model.compile(fmlayers.optimizers.Adagrad(row_wise=True), loss="mse")
    model.fit({"user": x["user"]}, y, batch_size=size, verbose=0)
    trained = status("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    model.save_weights(folder / "large.weights.h5")
    saved = status("VmHWM") - before
    return [peak / (4 * rows * dim) for peak in (trained, saved)]


folder, cases = Path(sys.argv[1]), sys.argv[2:]
fmlayers.distributed.start()
processes, process = jax.process_count(), jax.process_index()
x, y = of_process(data(), process, processes)
size = BATCH // processes
facts = {}
for case in cases:
    model, facts[case.split(",")[0]] = train(case)
    if case.startswith("fm,"):
        chosen = model
# Processes may score numbers of rows that differ; process 1 has none at all.
few = first_rows(3 if process == 0 else 0)[0]
facts["few"] = chosen.predict(few, batch_size=2, verbose=0).ravel().tolist()
facts["saved"] = saved_and_loaded(chosen)
facts["shards"] = trained_on_shards()
facts["early"] = stopped_early(chosen)
facts["peak"] = peak_memory()
pairs = {**x, "genres": fmlayers.data.without_padding(x["genres"])}
_hosts.MEETING_SECONDS = 1.0
facts["errors"] = errors_of(
    pairs=lambda: chosen.fit(pairs, y, verbose=0),
    rows=lambda: chosen.fit(*first_rows(10 + process), verbose=0),
    steps=lambda: chosen.evaluate(x, y, steps=1 + process, verbose=0),
    group=lambda: fmlayers.distributed.start(processes=3),
    path=lambda: chosen.save(folder / "absent" / "saved.keras"),
    full=lambda: on_a_full_disk(lambda: chosen.save(folder / "saved.keras")),
    alone=lambda: process == 0 and chosen.save_weights(folder / "x.weights.h5"),
)
(folder / f"facts-{process}.json").write_text(json.dumps(facts))
