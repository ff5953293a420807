"""FMInteraction against the loop over pairs: seconds forward and backward, compiled.

The memory copy is the floor: input read, gradient written, input read again.
"""

import itertools

import numpy as np
import tensorflow as tf

from benchmarks._timing import medians
from fmlayers import FMInteraction

BATCH, DIM = 8192, 16


def pairwise(x: tf.Tensor) -> tf.Tensor:
    pairs = itertools.combinations(range(x.shape[1]), 2)
    return tf.add_n([tf.reduce_sum(x[:, i] * x[:, j], axis=-1) for i, j in pairs])


def compiled(function):
    @tf.function(jit_compile=True)
    def forward_and_backward(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(function(x))
        return tape.gradient(y, x)

    return forward_and_backward


def main() -> None:
    print(f"FMInteraction, batch {BATCH}, dim {DIM}: times of a copy of its memory")
    print(f"{'fields':>8}{'square of sum':>16}{'pairwise loop':>16}")
    for fields in (4, 8, 16, 32, 64):
        x = tf.constant(
            np.random.default_rng(0).normal(size=(BATCH, fields, DIM)), tf.float32
        )
        array, buffer = x.numpy(), np.empty((2, *x.shape), "float32")
        layer, loop = compiled(FMInteraction()), compiled(pairwise)
        runs = {
            "copy": lambda a=array, b=buffer: (np.copyto(b[0], a), np.copyto(b[1], a)),
            "layer": lambda f=layer, x=x: f(x).numpy(),
        }
        if fields <= 16:  # the loop's program grows with the square of the fields
            runs["loop"] = lambda f=loop, x=x: f(x).numpy()
        seconds = medians(runs)
        loop_ratio = seconds.get("loop", float("nan")) / seconds["copy"]
        print(f"{fields:8}{seconds['layer'] / seconds['copy']:16.1f}{loop_ratio:16.1f}")


if __name__ == "__main__":
    main()
