"""A model of clicks gives their probability beside the score, in every format."""

import json

import keras
import numpy as np
import pytest

import fmlayers
from fmlayers.export import export
from fmlayers.export.signature import signature_of

pytestmark = pytest.mark.usefixtures("on_tensorflow")

LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)
SHARES = keras.losses.BinaryCrossentropy()
BATCH = {"user": np.array([1, 2, 29, 7]), "item": np.array([3, 4, 19, 0])}


def expected_of(model):
    return 1.0 / (1.0 + np.exp(-np.asarray(model.score(BATCH), "float64")))


def answers(path, format):
    if format == "saved_model":
        import tensorflow as tf

        run = tf.saved_model.load(str(path)).signatures["serving_default"]
        return {n: x.numpy() for n, x in run(**_constants()).items()}
    if format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(str(path)).get_signature_runner()(**BATCH)
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, BATCH), strict=True))


def _constants():
    import tensorflow as tf

    return {name: tf.constant(x) for name, x in BATCH.items()}


@pytest.mark.parametrize(
    ("format", "file"),
    [("saved_model", "m"), ("litert", "m.tflite"), ("onnx", "m.onnx")],
)
def test_the_same_probability_in_every_format(
    format, file, every_kind, shaken, tmp_path
):
    model = shaken(fmlayers.models.MatrixFactorization(*every_kind[:2], 2))
    model.compile(loss=LOGITS)
    path = export(model, tmp_path / file, format)
    found = answers(path, format)
    assert found.keys() == {"score", "probability"}
    np.testing.assert_allclose(found["probability"], expected_of(model), atol=1e-6)
    name = "m/card.json" if format == "saved_model" else f"{file}.json"
    card = json.loads((tmp_path / name).read_text("utf-8"))
    outputs = card["signatures"]["serving_default"]["outputs"]
    assert {
        "name": "probability",
        "dtype": "float32",
        "shape": [None, 1],
        "meaning": "the probability of a positive example",
    } in outputs


def test_raw_values_give_it_too(encoder, films, shaken, tmp_path):
    import tensorflow as tf

    model = fmlayers.models.FactorizationMachine(encoder.features, 2, encoder=encoder)
    shaken(model).compile(loss=LOGITS)
    model.export(tmp_path / "model")
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    for name in ("serve_raw", "serve_raw_values"):
        assert "probability" in signatures[name].structured_outputs


def make(every_kind, scaler=None):
    return fmlayers.models.MatrixFactorization(*every_kind[:2], 2, scaler=scaler)


def unit(method="sigmoid", highest=1):
    return fmlayers.RatingScaler(0, highest, method)


@pytest.mark.parametrize(
    ("scaler", "loss", "has"),
    [
        (None, LOGITS, True),
        (None, [LOGITS], True),
        (None, keras.losses.BinaryFocalCrossentropy(from_logits=True), True),
        (None, SHARES, False),
        (None, fmlayers.losses.BPR(), False),
        (None, "mse", False),
        (None, None, False),
        (unit, SHARES, True),
        (unit, LOGITS, False),
        (unit, "mse", False),
        (lambda: unit("clip"), SHARES, False),
        (lambda: unit(highest=5), SHARES, False),
    ],
)
def test_the_compiled_loss_tells(scaler, loss, has, every_kind, shaken):
    model = shaken(make(every_kind, scaler and scaler()))
    if loss is not None:
        model.compile(loss=loss)
    signature = signature_of(model)
    assert ("probability" in signature.outputs) == has
    found = signature.function(BATCH)
    assert found.keys() == set(signature.outputs)
    if has:
        np.testing.assert_allclose(found["probability"], expected_of(model), rtol=1e-5)


def test_an_argument_has_the_last_word(every_kind, shaken):
    model = shaken(make(every_kind))
    found = signature_of(model, probability=True).function(BATCH)
    np.testing.assert_allclose(found["probability"], expected_of(model), rtol=1e-5)
    model.compile(loss=LOGITS)
    assert "probability" not in signature_of(model, probability=False).outputs
    model = make(every_kind, fmlayers.RatingScaler(1, 5))
    top = fmlayers.retrieval.TopN(make(every_kind), ["item"], 20)
    with pytest.raises(ValueError, match="`probability` must be.*TopN"):
        signature_of(top, probability=True)
    with pytest.raises(ValueError, match=r"`probability` must be.*RatingScaler\(0, 1"):
        signature_of(model, probability=True)


def test_a_loaded_model_and_an_ensemble(every_kind, shaken, tmp_path):
    model = fmlayers.models.Ensemble.of(2, lambda: shaken(make(every_kind)))
    model.compile("sgd", LOGITS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = signature_of(loaded).function(BATCH)
    np.testing.assert_allclose(found["probability"], expected_of(model), rtol=1e-5)


@pytest.mark.parametrize("name", ["click", "rating"])
def test_a_functional_model_of_logits(name, every_kind, shaken):
    inputs = {feature.name: feature.keras_input() for feature in every_kind[:2]}
    vectors = fmlayers.FeatureEmbedding(every_kind[:2], 2)(inputs)
    model = shaken(keras.Model(inputs, fmlayers.FMInteraction(name=name)(vectors)))
    model.compile(loss=LOGITS)
    signature = signature_of(model)
    assert list(signature.outputs) == [name, "probability"]
    found = signature.function(BATCH)
    expected = 1.0 / (1.0 + np.exp(-np.asarray(found[name])))
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-5)
