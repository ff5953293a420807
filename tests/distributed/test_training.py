import keras
import numpy as np
import pytest

from tests.distributed import cases
from tests.distributed.groups import results_of_group, run_group

pytest.importorskip("jax")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow

PROCESSES = 2
MODES = {
    "mf": ("sgd", 1_000),  # tables over hosts, with dense gradients
    "fm": ("adagrad", 1_000),  # with gradients of rows
    "deepfm": ("lazy_adam", 1_000_000),  # all weights on every host
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def group(folder):
    """The results of each process, and facts about it."""
    (folder / "shards").mkdir()
    cases.write_shards(folder / "shards")
    names = [f"{name},{optimizer},{rows}" for name, (optimizer, rows) in MODES.items()]
    run_group("training.py", folder, PROCESSES, *names)
    return results_of_group(folder, MODES, PROCESSES)


@pytest.mark.parametrize("name", MODES)
def test_processes_train_as_one(group, name):
    optimizer, _ = MODES[name]
    x, y = cases.data()
    expected = cases.results(cases.compiled(name, optimizer), x, y, cases.BATCH)
    for results, _ in group:
        assert results[name].keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(
                results[name][key], values, rtol=1e-5, atol=1e-5, err_msg=key
            )


@pytest.mark.parametrize("name", ["mf", "fm"])
def test_a_process_has_its_rows_of_tables_and_slots(group, name):
    whole = cases.USERS + 1 + cases.ITEMS + 1 + (cases.GENRES + 1) * (name == "fm")
    for _, facts in group:
        here = {
            path: rows for path, rows in facts[name]["here"] if "embeddings" in path
        }
        # The vectors and the first-order weights, with one slot each.
        assert len(here) == 4
        assert set(here.values()) == {-(-whole // PROCESSES)}


def test_no_collective_is_of_the_size_of_a_table(group):
    for _, facts in group:
        for name in ("mf", "fm"):
            found = facts[name]["collectives"]
            assert {"all-gather", "reduce-scatter"} <= {kind for kind, _ in found}
            # Two fields of one id and one of three, and their vectors.
            assert (
                max(size for _, size in found) <= 2 * cases.BATCH * 5 * 3 < cases.USERS
            )
        # Those of the step with all weights on every host are seen, too.
        dense = facts["deepfm"]["collectives"]
        assert "all-reduce" in {kind for kind, _ in dense}


def test_each_process_predicts_its_rows(group, folder):
    x, _ = cases.of_process(cases.data(), 0, PROCESSES)
    saved = keras.saving.load_model(folder / "saved.keras")
    few = {name: values[:3] for name, values in x.items()}
    # As saved, after more training; `few` was predicted before.
    assert saved.predict(few, verbose=0).shape == (3, 1)
    assert [len(facts["few"]) for _, facts in group] == [3, 0]
    model = cases.compiled("fm", "adagrad")
    for name, weight in cases.weights(model).items():
        weight.assign(group[0][0]["fm"][name])
    expected = model.predict(few, verbose=0).ravel()
    np.testing.assert_allclose(group[0][1]["few"], expected, atol=1e-6)


def test_a_saved_model_is_that_of_one_process(group, folder):
    saved = keras.saving.load_model(folder / "saved.keras")
    alone = keras.saving.load_model(folder / "saved.keras", compile=False)
    cases.set_weights(alone)
    alone.load_weights(folder / "saved.weights.h5")
    gathered = keras.saving.load_model(folder / "gathered")
    for loaded in (saved, alone, gathered):
        for name, weight in cases.weights(loaded).items():
            np.testing.assert_array_equal(np.asarray(weight), group[0][0]["fm"][name])
    x, y = cases.data()
    loss = saved.fit(x, y, batch_size=cases.BATCH, shuffle=False, verbose=0)
    for _, facts in group:
        assert facts["saved"]["difference"] == 0.0
        # Of the model, and of the one loaded in both processes.
        for losses in facts["saved"]["next losses"]:
            np.testing.assert_allclose(losses, loss.history["loss"], rtol=1e-5)


def test_processes_train_on_shards_as_one(group, folder):
    """A batch consists of the batches of all workers."""
    workers = [cases.batches_of(folder / "shards", i, PROCESSES) for i in range(2)]
    steps = len(workers[0])
    model, losses = cases.sharded_model(folder / "shards"), []
    for batches in zip(*(x.stream().take(2 * steps) for x in workers), strict=True):
        x, y = keras.tree.map_structure(lambda *x: np.concatenate(x), *batches)
        losses += model.fit(x, y, batch_size=len(y), verbose=0).history["loss"]
    assert steps > 3
    expected = np.reshape(losses, (2, steps)).mean(axis=1)
    for _, facts in group:
        np.testing.assert_allclose(facts["shards"]["losses"], expected, rtol=1e-5)
        assert "set `list_length` of `ShardedBatches`" in facts["shards"]["pairs"]


def test_no_process_holds_a_whole_table(group):
    peaks = [facts["peak"] for _, facts in group]
    if None in peaks:
        pytest.skip("the peak of a process cannot be reset here")
    trained, saved = zip(*peaks, strict=True)
    assert max(trained) < 1.0, peaks
    assert min(trained) > 1 / PROCESSES  # the rows of a process, at least
    assert max(saved) < 0.5, peaks  # pieces of 65,536 rows of 2,000,000


def test_early_stopping_agrees(group):
    (_, first), (_, second) = group
    assert first["early"] == second["early"]
    assert first["early"]["restored"] == min(first["early"]["losses"])
    assert len(first["early"]["losses"]) < 5
    assert first["early"]["moved"] > 0.01


def test_errors_reach_all_processes(group, folder):
    (_, first), (_, second) = group
    for facts in (first, second):
        errors = facts["errors"]
        assert "padded with 0" in errors["pairs"]
        assert "'genres'" in errors["pairs"]
        assert "`rows` must be equal on all processes" in errors["rows"]
        assert "[10, 11]" in errors["rows"]
        assert "`steps` must be equal" in errors["steps"]
        assert "must have 3 processes" in errors["group"]
    assert "FileNotFoundError" in first["errors"]["path"]
    assert "`save` failed on process 0" in second["errors"]["path"]
    assert "File too large: " in first["errors"]["full"]
    assert "saved.keras'" in first["errors"]["full"]
    assert "`save` failed on process 0" in second["errors"]["full"]
    assert "`save_weights` must be called by all" in first["errors"]["alone"]
    assert not list(folder.glob(".*")), "temporary files"
