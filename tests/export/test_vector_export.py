"""Exports of models that read dense vectors."""

import numpy as np
import pandas as pd
import pytest

from fmlayers import RatingScaler, Vector
from fmlayers.data import Encoder
from fmlayers.export import export
from fmlayers.models import DeepFM, FactorizationMachine

pytestmark = [pytest.mark.usefixtures("on_tensorflow"), pytest.mark.slow]

KINDS = {"user": "categorical", "item": "categorical", "text": "vector"}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    vectors = list(rng.normal(scale=3.0, size=(6, 4)).astype("float32"))
    vectors[2] = None
    items = [f"i{n}" for n in range(6)]
    return pd.DataFrame({"user": ["ann", "bob"] * 3, "item": items, "text": vectors})


@pytest.fixture(scope="module")
def encoder(table):
    return Encoder(KINDS).fit(table)


def raw(table):
    """Returns the raw vectors of a table."""
    missing = np.full(4, np.nan, "float32")
    return np.stack([missing if x is None else x for x in table["text"]])


def signatures(path):
    import tensorflow as tf

    return tf.saved_model.load(str(path)).signatures


@pytest.mark.parametrize("cls", [FactorizationMachine, DeepFM])
def test_raw_values_and_recommendations(cls, table, encoder, shaken, tmp_path):
    import tensorflow as tf

    model = shaken(cls(encoder.features, 3, RatingScaler(1, 5), encoder=encoder))
    items = table[["item", "text"]]
    run = signatures(export(model, tmp_path / "fm", items=items))
    expected = model.predict(encoder.transform(table), verbose=0)
    for name in ("serve_raw", "serve_raw_values"):
        found = run[name](
            user=tf.constant(table["user"].tolist()),
            item=tf.constant(table["item"].tolist()),
            text=tf.constant(raw(table)),
        )
        np.testing.assert_allclose(found["rating"], expected, rtol=1e-5)
    pairs = items.assign(user="bob")
    ratings = model.predict(encoder.transform(pairs), verbose=0)[:, 0]
    found = run["recommend"](
        user=tf.constant(["bob"]), exclude=tf.constant([[""]]), k=tf.constant(6)
    )
    order = np.argsort(-ratings)
    keys = [key.decode() for key in found["keys"][0].numpy()]
    assert keys == items["item"].iloc[order].tolist()
    np.testing.assert_allclose(found["ratings"][0], ratings[order], rtol=1e-4)

    query = table[["item"]]
    run = signatures(export(model, tmp_path / "query", items=query))["recommend"]
    found = run(
        user=tf.constant(["ann"]),
        text=tf.constant(raw(table)[1:2]),
        exclude=tf.constant([[""]]),
        k=tf.constant(6),
    )
    pairs = query.assign(user="ann", text=[table["text"][1]] * 6)
    ratings = model.predict(encoder.transform(pairs), verbose=0)[:, 0]
    np.testing.assert_allclose(found["ratings"][0], np.sort(ratings)[::-1], rtol=1e-4)


@pytest.mark.parametrize("format", ["saved_model", "litert", "onnx"])
def test_formats(format, encoder, shaken, rng, tmp_path):
    features = [*encoder.features[:2], Vector("text", 4, use_bias=True)]
    model = shaken(FactorizationMachine(features, 3))
    x = rng.normal(size=(40, 4)).astype("float32")
    x[:5], x[5:9, 1] = np.nan, np.nan
    user, item = rng.integers(-1, 5, (2, 40))
    batch = {"user": user, "item": item, "text": x}
    expected = model.predict(batch, verbose=0)
    suffix = {"litert": ".tflite", "onnx": ".onnx"}.get(format, "")
    path = export(model, tmp_path / f"fm{suffix}", format)
    if format == "saved_model":
        import tensorflow as tf

        arrays = {name: tf.constant(x) for name, x in batch.items()}
        found = signatures(path)["serving_default"](**arrays)["score"]
    elif format == "litert":
        from ai_edge_litert.interpreter import Interpreter

        run = Interpreter(model_path=str(path)).get_signature_runner()
        found = run(**batch)["score"]
    else:
        import onnxruntime

        (found,) = onnxruntime.InferenceSession(str(path)).run(["score"], batch)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
