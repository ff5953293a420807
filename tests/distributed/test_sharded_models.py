import itertools
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from kill_points import kill_points

import fmlayers
from fmlayers.distributed import load_sharded, save_sharded
from fmlayers.retrieval import TopN, merge_top_n
from tests.distributed import cases
from tests.distributed.groups import end_of_group, environment, run_group

pytest.importorskip("jax")
PARTS = [0, 100, 301]  # of the items


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with a model that two processes saved, before one of them was killed."""
    folder = tmp_path_factory.mktemp("sharded")
    codes, outputs = end_of_group("sharded_models.py", folder, 2, "save")
    assert all("saved" in text for text in outputs), outputs
    return folder, codes


@pytest.fixture
def folder(killed):
    return killed[0] / "model"


@pytest.fixture(scope="module")
def expected():
    return cases.exact("fm")


def check_equal(model, expected):
    weights = cases.weights(model)
    for name, weight in cases.weights(expected).items():
        np.testing.assert_array_equal(np.asarray(weights[name]), np.asarray(weight))
    x = cases.exact_inputs()
    scores = (keras.ops.convert_to_numpy(each(x)) for each in (model, expected))
    np.testing.assert_array_equal(*scores)


@pytest.mark.slow
def test_one_process_loads_it_on_another_backend(folder, expected):
    model = load_sharded(folder)
    check_equal(model, expected)
    spread = [
        variable
        for variable in model.optimizer.variables
        if "embeddings" in variable.path
    ]
    assert len(spread) == 6  # two moments and an accumulator for each table
    values = [np.unique(np.asarray(variable)) for variable in spread]
    np.testing.assert_array_equal(np.diff(np.ravel(values)) > 0, True)
    assert not load_sharded(folder, compile=False).compiled


@pytest.mark.slow
def test_three_processes_load_it(killed, expected):
    folder, _ = killed
    run_group("sharded_models.py", folder, 3, "load")
    predictions = keras.ops.convert_to_numpy(expected(cases.exact_inputs()))
    whole = sum(x.vocabulary_size + 1 for x in expected.features[:3])
    assert whole % 2
    items = np.asarray(expected.factors.tables["item"])
    for process in range(3):
        loaded = dict(np.load(folder / f"loaded-{process}.npz"))
        np.testing.assert_array_equal(
            loaded["predictions"], cases.of_process(predictions, process, 3)
        )
        np.testing.assert_array_equal(loaded["rows"], -(-whole // 3))
        assert loaded["slots"].shape == (6, 1)
        assert len(np.unique(loaded["slots"])) == 6
        np.testing.assert_array_equal(loaded["everywhere"], items)
        for name, weight in cases.weights(expected).items():
            np.testing.assert_array_equal(loaded[name], np.asarray(weight))


@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_the_old_folder(killed, expected):
    folder, codes = killed
    assert codes[1] == -9
    assert codes[0] not in (0, -9)
    check_equal(load_sharded(folder / "model"), expected)
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_parts_of_the_catalog_are_answered_from_files(folder, expected):
    rng = np.random.default_rng(0)
    catalog = {
        "item": np.arange(cases.ITEMS),
        "genres": rng.integers(0, cases.GENRES, (cases.ITEMS, 2)),
    }
    queries = {"user": np.array([3, 19_999, 77]), "age": np.float32([0, 1, -2])}
    names = list(catalog)
    whole = TopN(expected, names, cases.ITEMS, k=7).index(catalog)
    answers = []
    for start, stop in itertools.pairwise(PARTS):
        model = load_sharded(folder, on_disk=True)
        assert all(v.shape[0] < cases.USERS for v in model.variables)
        part = {name: x[start:stop] for name, x in catalog.items()}
        answers.append(TopN(model, names, stop - start, k=7).index(part)(queries))
    scores, positions = merge_top_n(answers, PARTS[:-1])
    np.testing.assert_array_equal(scores, np.asarray(whole(queries)[0]))
    np.testing.assert_array_equal(positions, np.asarray(whole(queries)[1]))


@pytest.mark.slow
def test_models_on_disk_run_only_eagerly(folder, expected, tmp_path):
    model = load_sharded(folder, on_disk=True)
    check_equal(model, expected)
    none = {name: x[:0] for name, x in cases.exact_inputs().items()}
    assert model(none).shape == (0, 1)
    with pytest.raises(ValueError, match="can only be called eagerly"):
        model.predict(cases.exact_inputs(), verbose=0)
    with pytest.raises(ValueError, match="can only be called eagerly"):
        model.export(tmp_path / "exported")
    model.save(tmp_path / "saved.keras")
    check_equal(keras.saving.load_model(tmp_path / "saved.keras"), expected)


EXPORTED = """
import sys
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
with np.load(sys.argv[2]) as x:
    print(serve(**{k: tf.constant(v) for k, v in x.items()})["score"].numpy().tolist())
"""


@pytest.mark.slow
def test_an_exported_model_has_the_same_scores(folder, expected, tmp_path):
    load_sharded(folder).export(tmp_path / "exported")
    x = {
        name: values[:8].astype("int64" if values.dtype.kind == "i" else "float32")
        for name, values in cases.exact_inputs().items()
    }
    np.savez(tmp_path / "x.npz", **x)
    files = [str(tmp_path / name) for name in ("exported", "x.npz")]
    output = subprocess.run(
        [sys.executable, "-c", EXPORTED, *files],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    np.testing.assert_array_equal(json.loads(output), np.asarray(expected(x)))


@pytest.mark.slow
def test_damaged_files_are_refused_by_name(folder, tmp_path):
    paths = sorted(folder.iterdir())
    assert len(paths) == 2 * 8 + 2
    for i, path in enumerate((paths[0], paths[-2])):
        copied = tmp_path / f"copy-{i}"
        shutil.copytree(folder, copied)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (copied / path.name).write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            load_sharded(copied)
        (copied / path.name).write_bytes(content[:-1])
        with pytest.raises(ValueError, match=path.name):
            load_sharded(copied, on_disk=True)
        (copied / path.name).write_bytes(b"")
        with pytest.raises(ValueError, match=path.name):
            load_sharded(copied, on_disk=True)
        (copied / path.name).unlink()
        with pytest.raises(ValueError, match=path.name):
            load_sharded(copied)
    with pytest.raises(ValueError, match="load the folder with"):
        keras.saving.load_model(folder / "model.keras")


def small_model(value):
    features = [fmlayers.Categorical("user", 9)]
    model = fmlayers.models.FactorizationMachine(features, 2)
    model.build()
    for variable in model.variables:
        variable.assign(np.full(variable.shape, value, variable.dtype))
    return model


def save_two(folder):
    for value in (1, 2):
        save_sharded(small_model(value), folder / "model")


def load_values(folder):
    values = set()
    if (folder / "model").exists():
        weights = load_sharded(folder / "model").get_weights()
        values = set(np.concatenate([x.ravel() for x in weights]).tolist())
    (folder / "values.json").write_text(json.dumps(list(values)))


@pytest.mark.slow
def test_a_kill_leaves_a_whole_folder_or_none(tmp_path):
    found = []
    for point in kill_points(save_two, tmp_path):
        point.run(load_values)
        (values,) = json.loads((tmp_path / "values.json").read_text()) or [0]
        found.append(values)
    assert found == sorted(found)
    assert set(found) == {0, 1, 2}


def test_errors(tmp_path):
    save_sharded(small_model(1), tmp_path / "model")
    (tmp_path / "model" / "sharded.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"sharded\.json was written by a newer"):
        load_sharded(tmp_path / "model")
    with pytest.raises(ValueError, match=r"sharded\.json cannot be read"):
        load_sharded(tmp_path / "absent")
    with pytest.raises(ValueError, match="`on_disk` must"):
        load_sharded(tmp_path / "model", on_disk=1)
    (tmp_path / "other").mkdir()
    save_sharded(small_model(1), tmp_path / "other")  # it is empty
    for path in (tmp_path, tmp_path / "other" / "model.keras"):
        with pytest.raises(ValueError, match="which has other contents"):
            save_sharded(small_model(1), path)
