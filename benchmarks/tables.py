"""Compares one table per feature with one fused table with offsets.

Both look up one id per field and train with the same row-wise Adagrad and XLA. The
layer keeps one table per feature, because the fused table is not clearly faster and
cannot be shared or regularized by name.
"""

import keras
import numpy as np
from keras import ops

from benchmarks._timing import medians
from fmlayers import Categorical, FeatureEmbedding, FMInteraction
from fmlayers.optimizers import Adagrad

BATCH, DIM, STEPS = 4096, 16, 8


class FusedEmbedding(keras.layers.Layer):
    """Looks up all features in one table; ids are shifted by the preceding sizes."""

    def __init__(self, features: list[Categorical], dim: int) -> None:
        super().__init__()
        self.names = [feature.name for feature in features]
        self.sizes = np.array([feature.vocabulary_size + 1 for feature in features])
        self.dim = dim

    def build(self, input_shape: object) -> None:
        self.table = self.add_weight(
            shape=(int(self.sizes.sum()), self.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )

    def call(self, inputs: dict[str, object]) -> object:
        ids = ops.stack([inputs[name] for name in self.names], axis=1)
        inside = ops.logical_and(ids >= 0, ids < self.sizes - 1)
        ids = ops.where(inside, ids, self.sizes - 1)
        offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        return ops.take(self.table, ids + offsets.astype("int32"), axis=0)


def training(layer: keras.layers.Layer, features: list[Categorical], rows: int):
    rng = np.random.default_rng(0)
    batch = {f.name: rng.integers(0, rows, BATCH * STEPS, "int32") for f in features}
    target = rng.normal(size=BATCH * STEPS).astype("float32")
    inputs = {feature.name: feature.keras_input() for feature in features}
    model = keras.Model(inputs, FMInteraction()(layer(inputs)))
    model.compile(Adagrad(0.05), loss="mse", jit_compile=True)
    return lambda: model.fit(batch, target, batch_size=BATCH, shuffle=False, verbose=0)


def main() -> None:
    print(f"One fused or separate tables, batch size {BATCH}, {DIM} dimensions")
    print(f"{'fields':>8}{'rows/table':>14}{'fused / separate':>18}")
    for fields in (2, 8, 26):
        for rows in (1_000, 100_000):
            features = [Categorical(f"f{i}", rows) for i in range(fields)]
            seconds = medians(
                {
                    "separate": training(
                        FeatureEmbedding(features, DIM), features, rows
                    ),
                    "fused": training(FusedEmbedding(features, DIM), features, rows),
                },
                rounds=7,
            )
            ratio = seconds["fused"] / seconds["separate"]
            print(f"{fields:8}{rows:14,}{ratio:18.2f}")


if __name__ == "__main__":
    main()
