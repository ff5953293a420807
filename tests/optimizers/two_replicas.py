"""Trains under `MirroredStrategy` on two CPUs and alone, which must be the same."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from fmlayers import Categorical, FeatureEmbedding
from fmlayers.optimizers import Adagrad, LazyAdam

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def make(kind, rows, row_wise):
    layer = FeatureEmbedding(
        [Categorical("user", rows)], 3, embeddings_initializer="random_normal"
    )
    inputs = {"user": keras.Input((), dtype="int32", name="user")}
    model = keras.Model(inputs, layer(inputs))
    model.compile(kind(0.1, weight_decay=0.1, row_wise=row_wise), loss="mse")
    return model


for kind in (Adagrad, LazyAdam):
    for rows, row_wise in itertools.product((7, 10_000), (False, True)):
        with strategy.scope():
            both = make(kind, rows, row_wise)
        alone = make(kind, rows, row_wise)
        alone.set_weights(both.get_weights())
        rng = np.random.default_rng(0)
        # Each replica takes half of a batch, with ids that the other has, too.
        ids = rng.integers(0, 6, size=40)
        target = rng.normal(size=(40, 1, 3)).astype("float32")
        for model in (both, alone):
            data = tf.data.Dataset.from_tensor_slices(({"user": ids}, target))
            options = tf.data.Options()
            options.experimental_distribute.auto_shard_policy = (
                tf.data.experimental.AutoShardPolicy.OFF
            )
            model.fit(data.batch(8).with_options(options), verbose=0)
        np.testing.assert_allclose(
            both.get_weights()[0], alone.get_weights()[0], rtol=1e-4, atol=1e-6
        )
    print(kind.__name__, end=" ")
