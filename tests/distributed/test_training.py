import json

import numpy as np
import pytest

from tests.distributed import cases
from tests.distributed.groups import run_group

pytest.importorskip("jax")
pytestmark = pytest.mark.slow

PROCESSES = 2
MODES = {
    "mf": ("sgd", 1_000),  # tables over hosts, with dense gradients
    "fm": ("adagrad", 1_000),  # with gradients of rows
    "deepfm": ("lazy_adam", 1_000_000),  # all weights on every host
}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """The results of each process, and facts about it."""
    folder = tmp_path_factory.mktemp("group")
    names = [f"{name},{optimizer},{rows}" for name, (optimizer, rows) in MODES.items()]
    run_group("training.py", folder, PROCESSES, *names)
    return [
        (
            {name: dict(np.load(folder / f"{name}-{i}.npz")) for name in MODES},
            json.loads((folder / f"facts-{i}.json").read_text()),
        )
        for i in range(PROCESSES)
    ]


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
