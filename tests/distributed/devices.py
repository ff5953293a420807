"""Trains models on three devices of one process; the argument is a folder."""

import json
import sys
from pathlib import Path

import jax
import keras
import numpy as np
from cases import (
    BATCH,
    ITEMS,
    ON_DEVICES,
    USERS,
    compiled,
    data,
    results,
    weights,
)

import fmlayers

folder = Path(sys.argv[1])
fmlayers.distributed.start(processes=1, process=0)
assert jax.device_count() == 3
x, y = data()
facts = {}
tables = fmlayers.distributed.tables_over_hosts

for name, (make, min_rows) in ON_DEVICES.items():
    with tables(min_rows):
        model = make()
    np.savez(folder / f"{name}.npz", **results(model, x, y, BATCH))

# Files of one device.
with tables(1000):
    loaded = keras.saving.load_model(folder / "one.keras")
facts["loaded"] = {k: np.asarray(v).sum().item() for k, v in weights(loaded).items()}
facts["next loss"] = loaded.fit(
    x, y, batch_size=BATCH, shuffle=False, verbose=0
).history["loss"]
loaded.save(folder / "three.keras")

# Weights move between a model over devices and one that is not.
alone = compiled("fm", "adagrad")
alone.set_weights(loaded.get_weights())
loaded.set_weights([np.asarray(x) for x in alone.get_weights()])
loaded.compile(loaded.optimizer, "mse", steps_per_execution=2)
odd = {name: values[:31] for name, values in x.items()}
facts["predictions"] = [
    each.predict(odd, batch_size=9, verbose=0).ravel().tolist()
    for each in (alone, loaded)
]

# Initial values.
pretrained = np.random.default_rng(2).normal(size=(ITEMS, 3)).astype("float32")
features = loaded.features[:2]
facts["initial"] = {}
for name, initializer in {
    "normal": None,
    "pretrained": {"item": pretrained},
    "by rows": "glorot_uniform",
}.items():
    try:
        with tables(1000):
            model = fmlayers.models.FactorizationMachine(
                features, 3, embeddings_initializer=initializer
            )
        table = np.asarray(model.factors.tables["user"])
        items = np.asarray(model.factors.tables["item"])
        facts["initial"][name] = {
            "deviation": float(table[:-1].std()),
            "distinct": len(np.unique(table[:USERS])) / (3 * USERS),
            "unknown": float(np.abs(table[-1]).max() + np.abs(items[-1]).max()),
            "difference": float(np.abs(items[:-1] - pretrained).max()),
        }
    except ValueError as error:
        facts["initial"][name] = str(error)

# Compiled programs over devices cannot raise.
with tables(1000):
    model = fmlayers.models.MatrixFactorization(*features, 3, out_of_range="error")
outside = {**odd, "user": odd["user"] + USERS * (np.arange(31) == 4)}
facts["outside"] = np.isnan(model.predict(outside, verbose=0, batch_size=9)).tolist()
(folder / "facts.json").write_text(json.dumps(facts))
