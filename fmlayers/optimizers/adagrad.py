from typing import Any

import keras

SMALL_TABLE = 8192  # rows


@keras.saving.register_keras_serializable(package="fmlayers")
class Adagrad(keras.optimizers.Adagrad):
    """Adagrad that sums a row's gradients before it squares them.

        a_t = a_{t-1} + g_t^2
        w_t = w_{t-1} - learning_rate * g_t / sqrt(a_t + epsilon)

    where g_t is the whole gradient of a row in the batch. On TensorFlow a looked-up
    row has one gradient an occurrence; Keras' own Adagrad squares and applies each
    alone there, hence differs from JAX and PyTorch, and from the paper, wherever
    an id is twice in a batch. This one touches the rows of the batch only, except in
    tables of at most 8192 rows or as many as the batch has ids, where a step over
    all rows is faster than to look for duplicates (and the same: a gradient of 0
    changes nothing). On the other backends, whose gradients are as long as the
    table, it is Keras' own.

    Args:
        learning_rate: Float or schedule. Defaults to 0.001.
        initial_accumulator_value: Float, a_0, at least 0: the squared gradient
            below which the step is about that of plain gradient descent. Defaults
            to 0.1.
        epsilon: Float, keeps the root from 0. Defaults to 1e-7.
        **kwargs: Arguments of `keras.optimizers.Adagrad`.

    Example:

    >>> optimizer = fmlayers.optimizers.Adagrad(0.05, initial_accumulator_value=1e-5)

    References:
        Duchi, J., Hazan, E. and Singer, Y. (2011). Adaptive Subgradient Methods
        for Online Learning and Stochastic Optimization. JMLR 12, figure 1
        (diagonal).
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if keras.backend.backend() == "tensorflow":
            gradient = _sum_rows(gradient, variable.shape[0] if variable.shape else 1)
        super().update_step(gradient, variable, learning_rate)


def _sum_rows(gradient: Any, rows: int) -> Any:
    import tensorflow as tf

    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    indices, values = gradient.indices, gradient.values
    if rows <= max(indices.shape[0] or 0, SMALL_TABLE):
        return tf.math.unsorted_segment_sum(values, indices, rows)
    # Moves the sum over a row's occurrences to its first one and zeros the others:
    # the number of slices stays what it was, and XLA compiles static shapes alone.
    order = tf.argsort(indices)
    indices = tf.gather(indices, order)
    values = tf.gather(values, order)
    first = tf.concat([tf.ones_like(indices[:1], bool), indices[1:] != indices[:-1]], 0)
    run = tf.cumsum(tf.cast(first, tf.int32)) - 1
    sums = tf.math.unsorted_segment_sum(values, run, tf.size(indices))
    shape = tf.concat([tf.shape(first), tf.ones(tf.rank(values) - 1, tf.int32)], 0)
    values = tf.where(tf.reshape(first, shape), tf.gather(sums, run), 0)
    return tf.IndexedSlices(values, indices, gradient.dense_shape)
