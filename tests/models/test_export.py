"""Every model has the `export` of `fmlayers.export`."""

import pytest

import fmlayers
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

PAIR = [fmlayers.Categorical("user", 5), fmlayers.Categorical("item", 4)]
MODELS = {
    "mf": lambda: MatrixFactorization(*PAIR, 2),
    "fm": lambda: FactorizationMachine(PAIR, 2),
    "libfm": lambda: LibFM(PAIR, 2),
    "deepfm": lambda: DeepFM(PAIR, 2, hidden_units=[2]),
    "neumf": lambda: NeuralMatrixFactorization(*PAIR, 2, hidden_units=[2]),
    "ensemble": lambda: Ensemble.of(2, lambda: FactorizationMachine(PAIR, 2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_export(name, backend, tmp_path):
    model = MODELS[name]()
    if backend != "tensorflow":
        message = f"'{backend}'.*model.save.*KERAS_BACKEND=tensorflow"
        for format, file in (("saved_model", "m"), ("litert", "m.tflite")):
            with pytest.raises(ValueError, match=message):
                model.export(tmp_path / file, format=format)
        assert list(tmp_path.iterdir()) == []
        return
    import tensorflow as tf

    model.export(str(tmp_path / "m"))
    run = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    specs = run.structured_input_signature[1]
    assert {n: (s.dtype.name, list(s.shape)) for n, s in specs.items()} == {
        "user": ("int64", [None]),
        "item": ("int64", [None]),
    }
    assert set(run.structured_outputs) == {"score"}
