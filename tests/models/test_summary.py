"""A summary has each layer's output shape and counts each weight once."""

import re

import keras
import numpy as np
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

USER, ITEM = fmlayers.Categorical("user", 5), fmlayers.Categorical("item", 4)
FEATURES = [
    fmlayers.MultiCategorical("genres", 6),
    USER,
    ITEM,
    fmlayers.Numeric("age", use_bias=True),
    fmlayers.History("rated", 4, of="user", num_keys=5, values="item", num_pairs=3),
]
SCALER = fmlayers.RatingScaler(1, 5)
MODELS = {
    "fm": lambda: FactorizationMachine(FEATURES, 2, SCALER),
    "libfm": lambda: LibFM(FEATURES, 2, batch_normalization=True, positive=True),
    "deepfm": lambda: DeepFM(FEATURES, 2, hidden_units=[3, 2]),
    "part": lambda: MODELS["deepfm"]().part("deep"),
    "mf": lambda: MatrixFactorization(USER, ITEM, 2, scaler=SCALER),
    "neumf": lambda: NeuralMatrixFactorization(
        USER, ITEM, 2, SCALER, hidden_units=[3, 2], mlp_dim=4
    ),
    "ensemble": lambda: Ensemble.of(2, MODELS["deepfm"]),
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # which Keras' printing cuts off at


def summary(model):
    lines = []
    model.summary(print_fn=lines.append, line_length=200, expand_nested=True)
    return "\n".join(str(line) for line in lines)


@pytest.mark.parametrize("name", MODELS)
def test_summary(name):
    model = MODELS[name]()
    if hasattr(model, "factors"):
        model.factors.fields({"user": np.array([1])}, ["user"])  # which builds
    text = summary(model)
    assert "?" not in text, text
    assert "unbuilt" not in text, text
    total = int(re.search(r"Total params: ([\d,]+)", text)[1].replace(",", ""))
    weights = {id(weight): weight for weight in model.weights}.values()
    assert total == sum(int(np.prod(weight.shape)) for weight in weights)


def test_the_shapes_are_those_of_a_call():
    text = summary(MODELS["deepfm"]())
    shapes = dict(re.findall(r"(\w+) \(\w+\)\s+│ (\([^)]*\))", text))
    assert shapes == {
        "factors": "(None, 5, 2)",
        "linear": "(None, 5, 1)",
        "interaction": "(None, 1)",
        "tower": "(None, 2)",
        "output": "(None, 1)",
    }


def test_the_members_of_an_ensemble_have_shapes():
    text = summary(MODELS["ensemble"]())
    assert text.count("(None, 5, 2)") == 2
    assert len(re.findall(r"\(DeepFM\)\s+│ \(None, 1\)", text)) == 2


def test_a_file_s_model_has_its_summary(tmp_path):

    model = MODELS["ensemble"]()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert "?" not in summary(loaded)
