"""A run's export knows what the run knows."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from fmlayers.data import Encoder, sources, synthetic
from fmlayers.runs import Run, TrainingConfig, train
from fmlayers.runs.recommender import Recommender

pytestmark = pytest.mark.usefixtures("on_tensorflow")

ANSWER = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load("served")
for line in json.load(sys.stdin):
    run = loaded.signatures[line["signature_name"]]
    specs = run.structured_input_signature[1]
    given = {n: tf.constant(x, specs[n].dtype) for n, x in line["inputs"].items()}
    found = {n: x.numpy() for n, x in run(**given).items()}
    plain = lambda v: v.decode() if isinstance(v, bytes) else v
    lists = {n: [[*map(plain, row)] for row in x.tolist()] for n, x in found.items()}
    print(json.dumps(lists))
assert "fmlayers" not in sys.modules
"""


@pytest.fixture(scope="module")
def on_tensorflow():
    """Skip on backends that do not export, before other fixtures do."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exports are TensorFlow's")


@pytest.fixture(scope="module")
def films():
    return synthetic(num_users=30, num_items=25, num_ratings=300)


@pytest.fixture(scope="module")
def film_run(films, tmp_path_factory):
    config = TrainingConfig(
        features=["user", "item", "age", "sex", "genres", "year", "day"],
        dim=3,
        max_epochs=2,
        batch_size=32,
        validation_fraction=0.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "synthetic", lambda: films)
        out = tmp_path_factory.mktemp("runs") / "films"
        return train(config, out)


@pytest.fixture(scope="module")
def served(film_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    film_run.export(folder / "served")
    return folder / "served"


@pytest.fixture(scope="module")
def card(served):
    return json.loads((served / "card.json").read_text("utf-8"))


def answers(served, requests):
    """Ask a process that has TensorFlow alone."""
    result = subprocess.run(
        [sys.executable, "-I", "-c", ANSWER],
        input=json.dumps(requests),
        cwd=served.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_lists_are_those_of_the_run(film_run, served, card):
    recommender = Recommender(film_run)
    users = ["3", "7", "nobody"]
    scores, positions = recommender.top_n(users, 4, known={"age": 30})
    expected = recommender.catalog.keys.to_numpy()[positions].tolist()
    rows = recommender.queries.table.reindex(users)
    request = {
        "signature_name": "recommend",
        "inputs": {
            "user": users,
            "age": [30.0, 30.0, 30.0],
            "sex": rows["sex"].fillna("").tolist(),
            "day": [""] * 3,
            "exclude": [[""]] * 3,
            "k": 4,
        },
    }
    requests = [request, *(s["request"] for s in card["signatures"].values())]
    found, *examples = answers(served, requests)
    assert found["keys"] == expected
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    # The card's answers are what another process gets.
    for signature, example in zip(card["signatures"].values(), examples, strict=True):
        answer = signature["answer"]["outputs"]
        assert answer.keys() == example.keys()
        for name, values in answer.items():
            if name == "keys":
                assert values == example[name]
            else:
                np.testing.assert_allclose(values, example[name], rtol=1e-5)


def test_the_card_tells_what_the_run_knows(film_run, served, card):
    assert card["model"] == "FactorizationMachine"
    assert card["trained"]["metrics"]["rmse"] == film_run.metrics["rmse"]
    config = film_run.metrics["config"]
    assert card["trained"]["data"]["fingerprint"] == config["fingerprint"]
    sizes = {f["name"]: f.get("vocabulary_size") for f in card["features"]}
    assert sizes["user"] == len(film_run.encoder.vocabulary("user")) + 1
    assert sizes["age"] is None
    assert list(card["signatures"]) == [
        "serving_default",
        "serve_raw",
        "serve_raw_values",
        "recommend",
        "query_vectors",
    ]
    text = (served / "README.md").read_text("utf-8")
    assert config["fingerprint"] in text
    assert f"{film_run.metrics['rmse']:.6g}" in text
    assert "| `genres` | int64 | (batch, length) | ids 1 ..." in text
    assert "| `genres` | string | (batch,) | values, " in text
    assert 'separated by "\\|"' in text
    assert "| `keys` | string | (batch, k) |" in text
    for signature in card["signatures"].values():
        assert json.dumps(signature["request"], ensure_ascii=False) in text
        assert json.dumps(signature["answer"], ensure_ascii=False) in text
    encoder = Encoder.load(served / "encoder.json")
    assert encoder.get_config() == film_run.encoder.get_config()


@pytest.mark.slow
def test_tensorflow_s_own_command_reads_it(served, card):
    command = Path(sys.executable).parent / "saved_model_cli"
    result = subprocess.run(
        [command, "show", "--dir", served, "--all"],
        capture_output=True,
        text=True,
        check=True,
    )
    shown = result.stdout
    for name, signature in card["signatures"].items():
        block = shown.split(f"signature_def['{name}']:")[1].split("signature_def[")[0]
        for entry in (*signature["inputs"], *signature["outputs"]):
            kind = "inputs" if entry in signature["inputs"] else "outputs"
            start = f"{kind}['{entry['name']}'] tensor_info:"
            dtype = block.split(start)[1].split("dtype: ")[1].split()[0]
            assert (
                dtype
                == {
                    "int64": "DT_INT64",
                    "int32": "DT_INT32",
                    "float32": "DT_FLOAT",
                    "string": "DT_STRING",
                }[entry["dtype"]]
            )


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_item_vectors(suffix, film_run, tmp_path):
    from fmlayers.export import query_vectors, read_item_vectors

    path = film_run.export(tmp_path / f"v.{suffix}", "item_vectors")
    recommender = Recommender(film_run)
    vectors, keys = read_item_vectors(path)
    assert keys == list(recommender.catalog.keys)
    assert vectors.shape == (len(keys), 4)
    scores, positions = recommender.top_n(["3"], len(keys))
    queries = recommender.queries.encode(["3"])
    query, constant = (np.asarray(x) for x in query_vectors(recommender.index, queries))
    products = (vectors @ query.T)[:, 0]
    np.testing.assert_allclose(products[positions[0]] + constant, scores, atol=1e-5)


def test_a_run_without_a_side_has_no_lists(films, tmp_path):
    config = TrainingConfig(
        features=["age", "sex"], dim=2, max_epochs=1, validation_fraction=0.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "synthetic", lambda: films)
        run = train(config, tmp_path / "run")
    run.export(tmp_path / "served")
    card = json.loads((tmp_path / "served" / "card.json").read_text("utf-8"))
    assert "recommend" not in card["signatures"]
    assert "serve_raw" in card["signatures"]


def test_no_item_vectors_error(films, tmp_path):
    config = TrainingConfig(
        model="neumf",
        features=["user", "item"],
        dim=2,
        max_epochs=1,
        validation_fraction=0.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "synthetic", lambda: films)
        run = train(config, tmp_path / "run")
    with pytest.raises(ValueError, match="item vectors.*NeuralMatrixFactorization"):
        Run(run.path).export(tmp_path / "v.npy", "item_vectors")
