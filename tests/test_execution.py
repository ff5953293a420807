"""How TensorFlow executes training steps."""

import keras
import numpy as np
import pytest

from fmlayers._training.array_pipelines import from_function
from fmlayers._training.execution import forget_functions, whole_epochs

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow executes steps"
)


class Line(keras.Model):
    """A weight times the input. It counts how often its training step is traced."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="ones")
        self.traces = 0
        self.built = True

    def call(self, x):
        return self.weight * x

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def compiled(**options):
    model = Line()
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    model.optimizer.build(model.trainable_variables)
    return model


def numbers():
    """Return an endless dataset of batches of two rows, all of them different."""
    import tensorflow as tf

    def batch(position):
        x = np.full((2,), 1.0 / (1.0 + position), "float32")
        return x, x * x

    return from_function(batch, (tf.TensorSpec((2,)), tf.TensorSpec((2,))))


def fitted(model, steps, epochs=3, **options):
    return model.fit(
        numbers(),
        steps_per_epoch=steps,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        **options,
    ).history


class Steps(keras.callbacks.Callback):
    """Records the steps that are done at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(int(self.model.optimizer.iterations))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("at_once", [1, 4, 13, 20])
def test_epochs_end_after_their_steps(at_once, jit_compile):
    """Of 13 steps, whatever their divisors, with the losses of single steps."""
    expected = compiled()
    losses = fitted(expected, 13)["loss"]
    model = compiled(steps_per_execution=at_once, jit_compile=jit_compile)
    steps = Steps()
    with whole_epochs(model, 13):
        found = fitted(model, 13, callbacks=[steps])["loss"]
    assert steps.seen == [13, 26, 39]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    np.testing.assert_allclose(model.weight, expected.weight, rtol=1e-5)


def test_steps_are_traced_once():
    model = compiled(steps_per_execution=4)
    for steps, at_once in ((13, 4), (5, 5), (2, 5)):
        model.steps_per_execution = at_once
        with whole_epochs(model, steps):
            fitted(model, steps)
    assert model.traces == 1
    assert int(model.optimizer.iterations) == 3 * (13 + 5 + 2)
    model.compile(keras.optimizers.SGD(0.02), "mse")  # what was traced is stale
    with whole_epochs(model, 2):
        fitted(model, 2)
    assert model.traces == 2


def test_the_limit_of_keras_on_the_steps():
    model = compiled(steps_per_execution=4)
    keras.config.set_max_steps_per_epoch(6)
    try:
        with whole_epochs(model, 13), pytest.warns(UserWarning, match="Limiting"):
            fitted(model, 13)
    finally:
        keras.config.set_max_steps_per_epoch(None)
    assert int(model.optimizer.iterations) == 3 * 6


def test_strategies_are_refused():
    import tensorflow as tf

    model = compiled()
    with (
        tf.distribute.MirroredStrategy(["CPU:0"]).scope(),
        pytest.raises(RuntimeError, match="not support.*MirroredStrategy"),
        whole_epochs(model, 2),
    ):
        pass


def test_forgotten_functions_are_traced_again():
    model = compiled()
    for traces in (1, 2):
        with whole_epochs(model, 2):
            fitted(model, 2)
        assert model.traces == traces
        forget_functions(model)


def test_keras_trains_as_usual_after_it():
    model = compiled(steps_per_execution=4)
    with pytest.raises(RuntimeError, match="no more"), whole_epochs(model, 3):
        raise RuntimeError("no more")
    assert model.train_function is None
    x = np.ones(6, "float32")
    model.fit(x, x, batch_size=2, verbose=0)
    assert int(model.optimizer.iterations) == 3
