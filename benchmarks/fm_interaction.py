"""Compares FMInteraction, forward and backward, with other ways to compute the sum.

    python -m benchmarks.fm_interaction

Computes the second-order sum of (8192, fields, 16) and its gradient with XLA, eight
times in one program. Each repetition uses the gradient of the previous one, so no other
memory is accessed or allocated. "Of a copy" is the share of the bandwidth of a plain
copy, counting the input read, the gradient written and the input read again.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf
from keras_rs.layers import DotInteraction

from benchmarks._timing import medians
from fmlayers import FMInteraction

BATCH, DIM, REPEATS = 8192, 16, 8
FIELDS = (4, 8, 16, 32, 64, 128, 256)
MAX_FIELDS = {
    "square of sum": 256,
    "pairs, a loop": 16,
    "Gram matrix": 64,
    "keras-rs": 16,
}


def square_of_sum(x: tf.Tensor) -> tf.Tensor:
    """Computes the textbook formula, which suffers from cancellation."""
    squares = tf.square(tf.reduce_sum(x, 1)) - tf.reduce_sum(tf.square(x), 1)
    return 0.5 * tf.reduce_sum(squares, axis=-1)


def pairwise(x: tf.Tensor) -> tf.Tensor:
    pairs = itertools.combinations(range(x.shape[1]), 2)
    return tf.add_n([tf.reduce_sum(x[:, i] * x[:, j], axis=-1) for i, j in pairs])


def gram(x: tf.Tensor) -> tf.Tensor:
    products = tf.matmul(x, x, transpose_b=True)
    return 0.5 * (tf.reduce_sum(products, [1, 2]) - tf.linalg.trace(products))


def keras_rs() -> Callable[[tf.Tensor], tf.Tensor]:
    layer = DotInteraction()
    return lambda x: tf.reduce_sum(layer(tf.unstack(x, axis=1)), axis=-1)


def compiled(
    function: Callable[[tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function(jit_compile=True)
    def forward_and_backward(x: tf.Tensor) -> tf.Tensor:
        fields = x.shape[1]

        def once(step: tf.Tensor, x: tf.Tensor, total: tf.Tensor):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(function(x)) / fields  # keeps the numbers small
            return step + 1, tape.gradient(y, x), total + y

        start = (tf.constant(0), x, tf.constant(0.0))
        _, x, total = tf.while_loop(lambda i, *_: i < REPEATS, once, start)
        return total + tf.reduce_sum(x[0])

    return forward_and_backward


def main() -> None:
    print(f"FMInteraction, ({BATCH}, fields, {DIM}), forward and backward")
    others = "".join(f"{name:>16}" for name in MAX_FIELDS)
    print(f"{'fields':>8}{'ms':>8}{'ns/field':>12}{'of a copy':>12}{others}")
    for fields in FIELDS:
        values = np.random.default_rng(0).normal(size=(BATCH, fields, DIM))
        x = tf.constant(values, tf.float32)
        array = x.numpy()
        buffer = np.zeros_like(array)
        makers = {
            "square of sum": lambda: square_of_sum,
            "pairs, a loop": lambda: pairwise,
            "Gram matrix": lambda: gram,
            "keras-rs": keras_rs,
        }
        functions = {
            name: compiled(make())
            for name, make in makers.items()
            if fields <= MAX_FIELDS[name]
        }
        layer = compiled(partial(FMInteraction(), training=True))
        runs: dict[str, Callable[[], object]] = {
            "copy": lambda a=array, b=buffer: np.copyto(b, a),
            "layer": lambda f=layer, x=x: f(x).numpy(),
        }
        runs |= {n: lambda f=f, x=x: f(x).numpy() for n, f in functions.items()}
        seconds = medians(runs, rounds=9)
        each = seconds["layer"] / REPEATS
        share = (3 / each) / (2 / seconds["copy"])
        cells = "".join(
            f"{seconds[n] / seconds['layer']:15.1f}x" if n in seconds else f"{'':>16}"
            for n in MAX_FIELDS
        )
        per_field = each / BATCH / fields * 1e9
        print(f"{fields:8}{each * 1e3:8.2f}{per_field:12.2f}{share:12.2f}{cells}")


if __name__ == "__main__":
    main()
