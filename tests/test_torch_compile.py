import keras
import numpy as np
import pytest
from test_composition import BATCH, RATINGS, fm_model


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_torch_compiles_the_training_step():
    if keras.backend.backend() != "torch":
        pytest.skip("torch.compile is PyTorch's")
    models = [fm_model(), fm_model()]
    models[1].set_weights(models[0].get_weights())
    for model, jit_compile in zip(models, (False, True), strict=True):
        model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=jit_compile)
        for _ in range(2):
            model.train_on_batch(BATCH, RATINGS)
    for eager, compiled in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-6)
