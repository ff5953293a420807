import copy
import os
from collections.abc import Sequence
from typing import Any

import keras

from fmlayers import _ray_train
from fmlayers._checks import integer
from fmlayers.data import ShardedBatches
from fmlayers.distributed.checkpoints import Checkpoints, Place


def fit(
    model: keras.Model,
    batches: ShardedBatches,
    *,
    epochs: int,
    checkpoints: str | os.PathLike[str] | None = None,
    every: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **kwargs: Any,
) -> keras.callbacks.History:
    """Trains a model on the files of `fmlayers.data.write_shards`, with checkpoints.

    Call it in all processes of a group, or in a single process without a group. If the
    processes are killed, start all of them again with the same arguments: training
    resumes from the last checkpoint, with the same weights as without an interruption.
    If the number of processes changes, training resumes at about the same row of the
    epoch. In the rest of this epoch, some rows may then be read twice and others not at
    all.

    Args:
        model: A compiled model.
        batches: The batches of this process. Their `worker` must be the index of the
            process, and their `workers` the number of processes.
        epochs: Positive integer, the total number of epochs, including those before an
            interruption.
        checkpoints: Optional folder of `Checkpoints`, which all processes share. If
            omitted, nothing is saved.
        every: Optional positive integer. If set, a checkpoint is also saved after this
            many batches, not only after each epoch.
        callbacks: List of Keras callbacks. The state of callbacks such as
            `EarlyStopping` is not saved: they start from scratch when training resumes.
        **kwargs: Other arguments of `keras.Model.fit`, such as `validation_data`.

    Returns:
        The history of the epochs of this call.

    Raises:
        ValueError: If an argument is invalid, or if the checkpoint is damaged or
            belongs to another model.
        DataError: If a file of the batches is damaged.
        RuntimeError: If Ray Train workers would train separate models.
    """
    epochs = integer("epochs", epochs)
    _ray_train.check_joined()
    saved = None if checkpoints is None else Checkpoints(checkpoints)
    place = Place(batches.epoch, batches.batch)
    if saved is not None:
        place = max(place, saved.restore(model))
    if place.batch >= len(batches):  # with more processes than before
        place = Place(place.epoch + 1)
    history = keras.callbacks.History()
    history.set_model(model)
    history.on_train_begin()
    while place.epoch < epochs and not (history.epoch and model.stop_training):
        rest = copy.copy(batches)
        rest.epoch, rest.batch = place
        # An epoch that was interrupted has fewer steps than the others.
        end = place.epoch + 1 if place.batch else epochs
        saving = [saved.callback(every, batch=place.batch)] if saved else []
        part = model.fit(
            rest.stream(),
            steps_per_epoch=len(batches) - place.batch,
            initial_epoch=place.epoch,
            epochs=end,
            shuffle=False,
            callbacks=[*saving, *callbacks],
            **kwargs,
        )
        history.epoch += part.epoch
        for name, values in part.history.items():
            history.history.setdefault(name, []).extend(values)
        place = Place(end)
    return history
