"""On every backend: the vectors are NumPy's."""

import keras
import numpy as np
import pandas as pd
import pytest

import fmlayers
from fmlayers.export import (
    item_vectors,
    query_vectors,
    read_item_vectors,
    write_item_vectors,
)
from fmlayers.models import Ensemble, FactorizationMachine, MatrixFactorization
from fmlayers.retrieval import TopN

USER = fmlayers.Categorical("user", 9)
ITEM = fmlayers.Categorical("item", 12)
MODELS = {
    "mf": lambda: MatrixFactorization(USER, ITEM, 3, bias_initializer="ones"),
    "no bias": lambda: MatrixFactorization(USER, ITEM, 3, use_bias=False),
    "fm": lambda: FactorizationMachine([USER, ITEM], 3, bias_initializer="ones"),
    "ensemble": lambda: Ensemble.of(
        2, lambda: FactorizationMachine([USER, ITEM], 3, bias_initializer="ones")
    ),
}
KEYS = ["a,b", 'say "no"', "七人の侍", "", "new\nline", *map(str, range(7))]


@pytest.fixture
def top(shaken):
    model = shaken(MODELS["fm"]())
    return TopN(model, ["item"], 12).index({"item": np.arange(12)})


@pytest.mark.parametrize("name", MODELS)
def test_products_are_the_scores(name, shaken):
    model = shaken(MODELS[name]())
    top = TopN(model, ["item"], 12).index({"item": np.arange(12)})
    users = np.array([0, 3, 8, -1])
    vectors, constants = (
        keras.ops.convert_to_numpy(x) for x in query_vectors(top, {"user": users})
    )
    items = item_vectors(top)
    assert items.dtype == np.float32
    assert items.shape == (12, vectors.shape[1])
    pairs = {"user": np.repeat(users, 12), "item": np.tile(np.arange(12), 4)}
    expected = keras.ops.convert_to_numpy(model.score(pairs)).reshape(4, 12)
    np.testing.assert_allclose(vectors @ items.T + constants, expected, atol=1e-5)


def test_keys_are_kept_in_both_forms(top, tmp_path):
    path = write_item_vectors(top, KEYS, tmp_path / "vectors" / "v.npy")
    np.testing.assert_array_equal(np.load(path), item_vectors(top))
    assert read_item_vectors(path)[1] == KEYS
    table = pd.read_parquet(write_item_vectors(top, KEYS, tmp_path / "v.parquet"))
    assert table["key"].tolist() == KEYS
    np.testing.assert_array_equal(np.stack(table["vector"]), item_vectors(top))


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_what_is_there_stays(suffix, top, tmp_path):
    path = tmp_path / f"v{suffix}"
    path.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"v\..* exists: .*`overwrite=True`"):
        write_item_vectors(top, KEYS, path)
    assert path.read_text() == "years of work"
    write_item_vectors(top, KEYS, path, overwrite=True)
    assert path.stat().st_size > 100


def test_errors(top, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in '\.npy' or '\.parquet'"):
        write_item_vectors(top, KEYS, tmp_path / "v.csv")
    with pytest.raises(ValueError, match="one entry per item, 12 in all. Received: 2"):
        write_item_vectors(top, KEYS[:2], tmp_path / "v.npy")
    assert list(tmp_path.iterdir()) == []
