"""Trains with checkpoints in a group of processes.

    python checkpoints.py FOLDER NAME EPOCHS [BATCH]

Before the batch of this number, counted from the start of the process, process 1 kills
itself. Otherwise, each process writes its weights and losses to `NAME-PROCESS.npz`.
"""

import os
import signal
import sys
from pathlib import Path

import cases
import jax
import keras
import numpy as np

import fmlayers

folder, name, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
kill_at = int(sys.argv[4]) if len(sys.argv) > 4 else None


class Kill(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.batches += 1
        if self.batches == kill_at and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


fmlayers.distributed.start()
keras.utils.set_random_seed(0)
features = [
    fmlayers.Categorical("user", cases.USERS),
    fmlayers.Categorical("item", cases.ITEMS),
    fmlayers.Numeric("age"),
]
with fmlayers.distributed.tables_over_hosts(1_000):
    model = fmlayers.models.DeepFM(features, 3, hidden_units=(4,), dropout=0.2)
cases.set_weights(model)
model.compile(cases.optimizer("lazy_adam"), loss="mse")
history = fmlayers.distributed.fit(
    model,
    fmlayers.data.ShardedBatches(
        folder / "shards",
        cases.BATCH // 4,
        seed=0,
        worker=jax.process_index(),
        workers=jax.process_count(),
    ),
    epochs=epochs,
    checkpoints=folder / name.partition("-")[0],
    every=2,
    callbacks=[Kill()],
    verbose=0,
)
arrays = {k: np.asarray(v) for k, v in cases.weights(model).items()}
losses = np.array(history.history.get("loss", []))
np.savez(folder / f"{name}-{jax.process_index()}.npz", losses=losses, **arrays)
