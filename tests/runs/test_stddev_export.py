"""A SavedModel of a sampled run returns standard deviations, without fmlayers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from checks import check_error

import fmlayers
from fmlayers.export import export
from fmlayers.models import FactorizationMachine
from fmlayers.runs import TrainingConfig, train

GIBBS = {"method": "gibbs", "sweeps": 14, "chains": 2, "dim": 3}
ANSWER = """
import json, sys
import numpy as np
import tensorflow as tf

answers = {}
for name in ("stars", "labels", "counts"):
    signature = tf.saved_model.load(f"{sys.argv[1]}/{name}").signatures[
        "predict_with_std_raw"
    ]
    rows = json.load(open(f"{sys.argv[1]}/{name}.json"))
    inputs = {
        key: tf.constant(np.array(rows[key], spec.dtype.as_numpy_dtype), spec.dtype)
        for key, spec in signature.structured_input_signature[1].items()
    }
    outputs = signature(**inputs)
    answers[name] = {key: x.numpy()[:, 0].tolist() for key, x in outputs.items()}
json.dump(answers, sys.stdout)
assert "fmlayers" not in sys.modules
"""


@pytest.fixture(scope="module")
def runs(ratings, films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    counts = ratings.assign(rating=np.expm1(ratings["rating"]).round())
    changes = {
        "stars": ({"histories": True}, films),
        "labels": ({"task": "binary", "positive_threshold": 4.0}, ratings),
        "counts": ({"target_transform": "log1p"}, counts),
    }
    return {
        name: train(TrainingConfig(**GIBBS, **settings), folder / name, dataset=table)
        for name, (settings, table) in changes.items()
    }


@pytest.mark.slow
def test_a_fresh_process_has_the_standard_deviations(runs, tmp_path):
    expected = {}
    for name, run in runs.items():
        table = run.test_table().head(40)
        _, expected[name] = run.predict_with_std(table)
        run.export(tmp_path / name)
        columns = {c: [_text(x) for x in table[c]] for c in run.encoder.inputs}
        (tmp_path / f"{name}.json").write_text(json.dumps(columns))
    command = [sys.executable, "-c", ANSWER, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for name, outputs in json.loads(result.stdout).items():
        np.testing.assert_allclose(outputs["std"], expected[name], rtol=1e-4)
        assert np.std(outputs["std"]) > 0


def _text(value):
    return str(value) if np.isscalar(value) else "|".join(value)


def test_other_formats_have_no_standard_deviations(tmp_path):
    model = FactorizationMachine([fmlayers.Categorical("user", 4)], dim=2)
    message = "`stddev` must be None for the format 'onnx'"
    path = tmp_path / "model.onnx"
    check_error(message, lambda: export(model, path, "onnx", stddev=abs))
