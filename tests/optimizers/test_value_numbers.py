import keras
import numpy as np
import pytest

from fmlayers import Categorical
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad
from fmlayers.optimizers._rows import MAX_DENSE_ROWS

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the graphs of TensorFlow"
)


def test_equal_operations_on_equal_inputs_have_the_same_number():
    import tensorflow as tf

    from fmlayers.optimizers._value_numbers import ValueNumbers

    numbers = ValueNumbers()
    weight = tf.Variable([1, 2, 3])

    @tf.function
    def trace(x, y):
        def rows(ids, size=5):
            return tf.reshape(tf.where(ids < size, ids, size), [-1])

        same = [rows(x), rows(x)]
        others = [rows(y), rows(x, 6), tf.reshape(x, [-1])]
        split = tf.split(x, 3)
        others += [*split, tf.cast(x, tf.int64), tf.cast(x, tf.int16)]
        others += [weight.read_value(), weight.read_value()]
        others += [tf.random.uniform([3]), tf.random.uniform([3])]
        first, second = map(numbers.number, same)
        assert first == second
        assert len({first, *map(numbers.number, others)}) == 1 + len(others)
        return x

    trace(tf.constant([1, 2, 3]), tf.constant([4, 5, 6]))
    eager = tf.constant([1]), tf.constant([1])
    assert numbers.number(eager[0]) == numbers.number(eager[0])
    assert numbers.number(eager[0]) != numbers.number(eager[1])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_tables_of_a_column_share_the_search_for_duplicates(jit_compile, rng):
    """Of vectors and of first-order weights."""
    import tensorflow as tf

    features = [Categorical("user", MAX_DENSE_ROWS), Categorical("item", 5)]
    model = FactorizationMachine(features, 3)
    optimizer = Adagrad()
    model.build()
    optimizer.build(model.trainable_variables)
    ids = {name: rng.integers(0, 5, 8) for name in ("user", "item")}
    ids = {name: tf.constant(column) for name, column in ids.items()}

    @tf.function(jit_compile=jit_compile)
    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(ids) ** 2)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)

    graph = step.get_concrete_function(ids).graph
    kinds = [op.type for op in graph.get_operations()]
    search, write = "Unique", "ResourceScatterUpdate"
    if jit_compile:
        search, write = "ResourceScatterUpdate", "ResourceScatterAdd"
    assert kinds.count(write) == 2 * 2  # of vectors and weights
    assert kinds.count(search) == 1
    assert np.isfinite(model.predict(ids, verbose=0)).all()
