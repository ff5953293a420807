"""Smaller weights: half the size, an eighth of the error that one would fear."""

import numpy as np
import pytest

import fmlayers
from fmlayers.export import export
from fmlayers.models import MatrixFactorization

pytestmark = pytest.mark.usefixtures("on_tensorflow")

# Relative to float32: the size at most, and the largest error of a score of standard
# deviation 0.7.
EXPECTED = {
    ("litert", "float16"): (0.6, 2e-3),
    ("litert", "int8"): (0.4, 5e-2),
    ("onnx", "float16"): (0.6, 2e-3),
    ("onnx", "int8"): (0.4, 5e-2),
}


def scores_of(path, batch):
    if path.suffix == ".onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(path).run(["score"], batch)[0]
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner()(**batch)["score"]


@pytest.fixture(scope="module")
def large(shaken):
    """Return a model whose weights outweigh the graph."""
    features = [fmlayers.Categorical(name, 2000) for name in ("user", "item")]
    return shaken(MatrixFactorization(*features, 64))


@pytest.fixture(scope="module")
def whole(large, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {
        "litert": export(large, folder / "m.tflite", "litert"),
        "onnx": export(large, folder / "m.onnx", "onnx"),
    }


@pytest.mark.parametrize(("format", "weights"), EXPECTED)
def test_size_and_error(format, weights, large, whole, tmp_path, rng):
    size, error = EXPECTED[format, weights]
    path = tmp_path / whole[format].name
    export(large, path, format, weights=weights)
    assert path.stat().st_size < size * whole[format].stat().st_size
    # With ids outside, which read the row of the unknown.
    batch = {name: rng.integers(-1, 2001, 1000) for name in ("user", "item")}
    expected = large.score(batch).numpy()
    assert 0.5 < np.std(expected) < 1.0
    found = scores_of(path, batch)
    assert 0.0 < np.abs(found - expected).max() < error
    exact = np.abs(scores_of(whole[format], batch) - expected).max()
    assert exact < 1e-5
