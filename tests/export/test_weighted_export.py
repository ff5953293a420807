"""Exports of models that read weighted values."""

import numpy as np
import pandas as pd
import pytest

from fmlayers import Categorical, MultiCategorical
from fmlayers.data import DataError, Encoder
from fmlayers.export import export
from fmlayers.models import FactorizationMachine

pytestmark = [pytest.mark.usefixtures("on_tensorflow"), pytest.mark.slow]

TABLE = pd.DataFrame(
    {
        "user": ["ann", "bob", "cy", "ann", "bob"],
        "item": ["x", "y", "z", "y", "x"],
        "genres": ["War:0.5|a:b:-2", "", "Noir:1e-1", "a:b:3||War:0", "Sport:7|War:1"],
        "names": ["War|a:b", "", "Noir", "a:b||War", "Sport|War"],
        "shares": ["0.5|-2", "", "1e-1", "3||0", "7|1"],
    }
)
KINDS = {"user": "categorical", "item": "categorical"}
ENCODERS = {
    "one column": ("genres", None),
    "two columns": ("names", {"names": "shares"}),
}


@pytest.fixture(scope="module", params=ENCODERS)
def model(request, shaken):
    column, weights = ENCODERS[request.param]
    encoder = Encoder({**KINDS, column: "weighted"}, weights=weights).fit(TABLE[:4])
    return shaken(FactorizationMachine(encoder.features, 3, encoder=encoder))


def expected_of(model):
    return model.predict(model.encoder.transform(TABLE), verbose=0)


def signatures(path):
    import tensorflow as tf

    return tf.saved_model.load(str(path)).signatures


def test_raw_values_score_as_encoded_ones(model, tmp_path):
    import tensorflow as tf

    run = signatures(export(model, tmp_path / "fm"))
    expected = expected_of(model)
    column = list(model.encoder.columns)[2]
    texts = {name: TABLE[name].tolist() for name in ("user", "item", column)}
    if model.encoder.weights:
        texts["shares"] = TABLE["shares"].tolist()
    arguments = {name: tf.constant(x) for name, x in texts.items()}
    found = run["serve_raw"](**arguments)["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    values = tf.constant(
        [["War", "a:b"], ["", ""], ["Noir", ""], ["a:b", "War"], ["S", "War"]]
    )
    weights = tf.constant([[0.5, -2], [0, 0], [0.1, 9], [3, 0], [7, 1]], tf.float32)
    name = model.encoder.weights_input(column)
    arguments |= {column: values, name: weights}
    found = run["serve_raw_values"](**arguments)["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    ["War", "5", "War:", "War:x", "War:1|Noir", "War:nan", "War:0x1", "War:1e39"],
)
def test_a_raw_value_without_a_number_error(text, shaken, tmp_path):
    import tensorflow as tf

    encoder = Encoder({**KINDS, "genres": "weighted"}).fit(TABLE)
    model = FactorizationMachine(encoder.features, 3, encoder=encoder)
    run = signatures(export(model, tmp_path / "fm"))["serve_raw"]
    row = {"user": "ann", "item": "x", "genres": text}
    message = "exceeds float32" if text.endswith("e39") else "StringToNumber"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(**{name: tf.constant([x]) for name, x in row.items()})
    with pytest.raises(DataError, match="Column 'genres', row 0"):
        encoder.transform(pd.DataFrame([row]))


def test_items_and_queries_have_weights(model, tmp_path):
    import tensorflow as tf

    items = TABLE.drop_duplicates("item").drop(columns="user")
    run = signatures(export(model, tmp_path / "items", items=items))["recommend"]
    found = run(
        user=tf.constant(["bob"]), exclude=tf.constant([[""]]), k=tf.constant(3)
    )
    table = items.assign(user="bob")
    scores = model.predict(model.encoder.transform(table), verbose=0)[:, 0]
    order = np.argsort(-scores)
    assert [key.decode() for key in found["keys"][0].numpy()] == (
        items["item"].iloc[order].tolist()
    )
    np.testing.assert_allclose(found["scores"][0], scores[order], rtol=1e-5)

    run = signatures(export(model, tmp_path / "query", items=items[["item"]]))
    texts = {name: TABLE[name].tolist()[:1] for name in model.encoder.columns}
    if model.encoder.weights:
        texts["shares"] = TABLE["shares"].tolist()[:1]
    del texts["item"]
    found = run["recommend"](
        **{name: tf.constant(x) for name, x in texts.items()},
        exclude=tf.constant([[""]]),
        k=tf.constant(3),
    )
    table = pd.concat([TABLE[:1]] * 3).assign(item=["x", "y", "z"])
    scores = model.predict(model.encoder.transform(table), verbose=0)[:, 0]
    np.testing.assert_allclose(found["scores"][0], np.sort(scores)[::-1], rtol=1e-5)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
def test_formats(format, combiner, shaken, rng, tmp_path):
    features = [
        Categorical("user", 9),
        MultiCategorical("genres", 5, combiner=combiner, weights="shares"),
    ]
    model = shaken(FactorizationMachine(features, 3))
    ids = rng.integers(-1, 7, (40, 4))
    weights = rng.normal(size=(40, 4)).astype("float32")
    weights[:9] = 0.0
    batch = {"user": rng.integers(0, 9, 40), "genres": ids, "shares": weights}
    expected = model.predict(batch, verbose=0)
    suffix = {"litert": ".tflite", "onnx": ".onnx"}.get(format, "")
    path = export(model, tmp_path / f"fm{suffix}", format)
    if format == "saved_model":
        import tensorflow as tf

        arrays = {name: tf.constant(x) for name, x in batch.items()}
        found = signatures(path)["serving_default"](**arrays)["score"]
    elif format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        found = Interpreter(model_path=str(path)).get_signature_runner()(**batch)[
            "score"
        ]
    else:
        import onnxruntime

        (found,) = onnxruntime.InferenceSession(str(path)).run(["score"], batch)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
