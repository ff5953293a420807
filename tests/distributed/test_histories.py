import keras
import numpy as np
import pytest

import fmlayers
from tests.distributed import cases
from tests.distributed.groups import results_of_group, run_group

pytest.importorskip("jax")
pytestmark = pytest.mark.slow

PROCESSES = 2
# The model, the optimizer, the table that items and histories share, and the rows from
# which a table is spread.
MODES = {
    "spread": ("fm", "adagrad", "", 1_000),
    "everywhere": ("deepfm", "adagrad", "", 1_000_000),
    # Batches bring their histories along.
    "prepared": ("fm", "lazy_adam", "item", 1_000),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def group(folder):
    """The results of each process, and facts about it."""
    modes = [",".join([name, *map(str, mode)]) for name, mode in MODES.items()]
    run_group("histories.py", folder, PROCESSES, *modes)
    return results_of_group(folder, MODES, PROCESSES)


@pytest.mark.parametrize("name", MODES)
def test_processes_train_as_one(group, name):
    kind, optimizer, table, _ = MODES[name]
    model = cases.history_model(kind, optimizer, table or None)
    batches = cases.batches_with_histories(model) if name == "prepared" else None
    expected = cases.results(model, *cases.data(), cases.BATCH, batches)
    for results, _ in group:
        assert results[name].keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(
                results[name][key], values, rtol=1e-5, atol=1e-5, err_msg=key
            )


@pytest.mark.parametrize("name", MODES)
def test_a_process_has_its_rows_of_the_histories(group, name):
    rows = cases.SEEN + 1
    if name != "everywhere":
        rows = -(-rows // PROCESSES)
    for _, facts in group:
        here = [
            count
            for path, count in facts[name]["here"]
            if path.endswith("seen_embeddings") or path.endswith("item_embeddings")
        ]
        assert set(here) == {rows}


@pytest.mark.parametrize("name", ["spread", "prepared"])
def test_no_collective_is_of_the_size_of_a_table(group, name):
    for _, facts in group:
        found = facts[name]["collectives"]
        assert {"all-gather", "reduce-scatter"} <= {kind for kind, _ in found}
        # The ids or the vectors of the batch.
        assert max(size for _, size in found) <= 2 * cases.BATCH * 2 * 4 < cases.SEEN


@pytest.mark.parametrize("form", ["file", "folder", "on disk"])
def test_a_saved_model_is_that_of_one_process(group, folder, form):
    if form == "file":
        saved = keras.saving.load_model(folder / "saved.keras")
    else:
        on_disk = form == "on disk"
        saved = fmlayers.distributed.load_sharded(folder / "sharded", on_disk=on_disk)
    for name, weight in cases.weights(saved).items():
        np.testing.assert_array_equal(np.asarray(weight), group[0][0]["spread"][name])
    for process, (_, facts) in enumerate(group):
        x, _ = cases.of_process(cases.data(), process, PROCESSES)
        expected = keras.ops.convert_to_numpy(saved(x))
        np.testing.assert_allclose(facts["predictions"], expected, atol=1e-6)


def test_batches_of_a_process_must_not_bring_histories(group):
    for _, facts in group:
        assert "Omit `histories` of `ShuffledBatches`" in facts["error"]
