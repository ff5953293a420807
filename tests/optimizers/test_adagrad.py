import keras
import numpy as np
import pytest

from fmlayers import Categorical, FeatureEmbedding
from fmlayers.optimizers import Adagrad
from fmlayers.optimizers.adagrad import SMALL_TABLE


@pytest.mark.parametrize("users", [6, SMALL_TABLE + 1])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_as_the_dense_formula_says(jit_compile, users, rng, backend):
    if backend == "torch" and jit_compile:
        pytest.skip("torch.compile is checked by check_layer and test_torch_compile.py")
    dim, steps = 3, 4
    layer = FeatureEmbedding(
        [Categorical("user", users)], dim, embeddings_initializer="random_normal"
    )
    inputs = {"user": keras.Input((), dtype="int32", name="user")}
    model = keras.Model(inputs, layer(inputs))
    optimizer = Adagrad(0.3, initial_accumulator_value=0.01)
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)

    table = layer.get_weights()[0].astype("float64")
    accumulator = np.full_like(table, 0.01)
    for _ in range(steps):
        ids = rng.integers(0, 4, size=8)  # with duplicates; two rows never occur
        target = rng.normal(size=(8, 1, dim)).astype("float32")
        model.train_on_batch({"user": ids}, target)
        gradient = np.zeros_like(table)
        for i, y in zip(ids, target[:, 0], strict=True):
            gradient[i] += 2.0 * (table[i] - y) / target.size
        accumulator += gradient**2
        table -= 0.3 * gradient / np.sqrt(accumulator + 1e-7)
    np.testing.assert_allclose(layer.get_weights()[0], table, rtol=1e-4, atol=1e-5)


def test_is_restored_by_its_name():
    optimizer = Adagrad(0.3, initial_accumulator_value=0.01, clipnorm=1.0)
    clone = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(clone) is Adagrad
    assert clone.get_config() == optimizer.get_config()
