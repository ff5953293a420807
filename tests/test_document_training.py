"""Every example of the documents that calls `fit` learns, as it is written.

Each call of `fit` in a Python block runs as it stands. The compiled model is then
trained on generated rows with its own inputs, of which pairs of fields make the rating.
"""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import fmlayers
import fmlayers.data

ROOT = Path(__file__).parents[1]
TRAINING_ROWS, HELD_OUT_ROWS, EPOCHS = 8000, 1000, 6
IDS = 60  # of a feature at most, so that a row has many examples


def blocks_of(path):
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S)


def examples():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        # The examples of distributed training need JAX.
        needs_jax = any("KERAS_BACKEND" in block for block in blocks_of(path))
        if not needs_jax and any(".fit(" in block for block in blocks_of(path)):
            yield pytest.param(path, id=path.name)


class Fits(ast.NodeTransformer):
    """Turns `x.fit(...)` into `_fit(number, x, ...)`."""

    found = 0

    def visit_Call(self, node):
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "fit":
            node.args[:0] = [ast.Constant(self.found), node.func.value]
            node.func = ast.Name("_fit", ast.Load())
            self.found += 1
        return node


@pytest.mark.slow
@pytest.mark.parametrize("path", list(examples()))
def test_examples_learn(path, tmp_path, monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the documents show the default backend")
    monkeypatch.chdir(tmp_path)
    ran = set()

    def fit(number, fitted, *arguments, **options):
        result = fitted.fit(*arguments, **options)
        if isinstance(fitted, keras.Model):
            check_learns(fitted, features_of(fitted, namespace))
        ran.add(number)
        return result

    namespace = {"__name__": "example", "_fit": fit}
    fits = Fits()
    trees = [fits.visit(ast.parse(block)) for block in blocks_of(path)]
    for tree in trees:
        if len(ran) < fits.found:
            code = compile(ast.fix_missing_locations(tree), path.name, "exec")
            exec(code, namespace)
    assert ran == set(range(fits.found))


def features_of(model, namespace):
    features = getattr(model, "features", None) or namespace.get("features")
    assert features, f"which features has {model!r}? Extend `features_of`."
    return features


def check_learns(model, features):
    """Checks that the compiled model beats the mean of what it is trained on."""
    rng = np.random.default_rng(0)
    inputs, ratings = planted(rng, features, TRAINING_ROWS + HELD_OUT_ROWS)
    truth = targets(model, ratings)
    train, test = np.split(np.arange(len(truth)), [TRAINING_ROWS])
    model.fit(
        {name: x[train] for name, x in inputs.items()},
        truth[train],
        epochs=EPOCHS,
        verbose=0,
    )
    held_out = {name: x[test] for name, x in inputs.items()}
    predicted = model.predict_on_batch(held_out)[:, 0].astype("float64")
    mean = np.full(len(test), truth[train].mean())
    if is_binary(model):
        predicted = 1.0 / (1.0 + np.exp(-predicted))
    error, error_of_mean = (
        error_of(model, prediction, truth[test]) for prediction in (predicted, mean)
    )
    assert error < 0.9 * error_of_mean


def planted(rng, features, rows):
    """Returns inputs, and ratings from 1 to 5 that pairs of fields make."""
    inputs, fields = {}, []
    for feature in features:
        if isinstance(feature, fmlayers.History):
            continue  # of ids that are there
        if isinstance(feature, fmlayers.Numeric):
            x = rng.normal(size=rows).astype("float32")
            inputs[feature.name] = x
            fields.append(0.3 * x[:, np.newaxis] * rng.normal(size=4))
            continue
        size = min(feature.vocabulary_size, IDS)
        table = rng.normal(size=(size, 4))
        if isinstance(feature, fmlayers.MultiCategorical):
            table[0] = 0.0  # pads
            ids = rng.integers(0, size, (rows, 3))
            fields.append(0.3 * table[ids].sum(axis=1))
        else:
            ids = rng.integers(1, size, rows)
            fields.append(table[ids])
        inputs[feature.name] = ids
    vectors = np.stack(fields, axis=1)
    squares = np.square(vectors).sum(axis=(1, 2))
    score = np.square(vectors.sum(axis=1)).sum(axis=1) - squares
    score += vectors[:, :, 0].sum(axis=1)
    score = (score - score.mean()) / score.std()
    return inputs, np.clip(3.0 + 1.2 * score, 1.0, 5.0).astype("float32")


def is_binary(model):
    loss = keras.losses.get(model.loss)
    if isinstance(loss, keras.losses.BinaryCrossentropy):
        assert loss.from_logits, "scores are logits"
        return True
    assert model.loss == "mse", f"how is {model.loss!r} compared? Extend `is_binary`."
    return False


def targets(model, ratings):
    return (ratings > 3.0).astype("float32") if is_binary(model) else ratings


def error_of(model, prediction, truth):
    """Returns the log loss of probabilities, or the RMSE of ratings."""
    if is_binary(model):
        return -np.log(np.where(truth > 0.5, prediction, 1.0 - prediction)).mean()
    return np.sqrt(np.square(prediction - truth).mean())
