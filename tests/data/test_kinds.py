"""The kinds `log1p`, `quantiles=N` and `hash=N` of columns."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fmlayers import Categorical, MultiCategorical, Numeric
from fmlayers.data import DataError, Encoder, ShardedBatches, write_shards
from fmlayers.data.numbers import Distribution
from fmlayers.data.siphash import siphash


def fitted(kind, cells):
    return Encoder({"x": kind}).fit(pd.DataFrame({"x": pd.Series(cells)}))


def objects(*cells):
    return pd.Series(cells, dtype=object)


def test_log1p_is_standardized():
    x = np.array([0.0, 3.0, -7.0, 1e6, np.nan])
    encoder = fitted("log1p", x)
    assert encoder.features == [Numeric("x")]
    expected = [math_log1p(value) for value in x]
    mean, deviation = np.nanmean(expected), np.nanstd(expected)
    np.testing.assert_allclose(encoder.scale("x"), (mean, deviation))
    found = encoder.encode("x", objects(0, "3", -7.0, 10**6, None))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (expected - mean) / deviation, rtol=1e-5)
    assert np.isfinite(encoder.encode("x", objects(1e308, -1e308))).all()
    with pytest.raises(DataError, match="Column 'x', row 0: must be a finite number"):
        encoder.encode("x", objects("many"))


def math_log1p(x):
    return np.sign(x) * np.log(1 + abs(x))


def test_quantiles_have_about_the_same_number_of_rows(rng):
    x = rng.lognormal(size=1000)
    encoder = fitted("quantiles=8", x)
    assert encoder.features == [Categorical("x", 9, mask_zero=True)]
    ids = encoder.encode("x", pd.Series(x))
    assert ids.dtype == np.int32
    assert np.bincount(ids, minlength=9).tolist() == [0, *[125] * 8]
    order = np.argsort(x)
    assert (np.diff(ids[order]) >= 0).all()
    outside = encoder.encode("x", objects(-1e300, 1e300, None, np.nan, str(x.max())))
    assert outside.tolist() == [1, 8, 0, 0, 8]


def test_ties_of_quantiles_merge():
    x = [0.0] * 90 + [1.0, 2.0, 3.0, 4.0, 5.0] * 2
    encoder = fitted("quantiles=20", x)
    ids = encoder.encode("x", pd.Series(x))
    assert set(ids.tolist()) == set(range(1, encoder.features[0].vocabulary_size))
    assert set(ids[:90]) == {1}
    assert 1 not in ids[90:]
    assert encoder.vocabulary("x")[:1] == ["(-inf, 0.5]"]
    assert encoder.decode("x", [1, 0]) == ["(-inf, 0.5]", None]


@pytest.mark.parametrize("cells", [[], [None, np.nan], [7.0, 7.0, None]])
def test_quantiles_of_one_number_or_none(cells):
    encoder = fitted("quantiles=4", pd.Series(cells, dtype=object))
    assert encoder.features[0].vocabulary_size == 2
    assert encoder.vocabulary("x") == ["(-inf, inf)"]
    assert encoder.encode("x", objects(7, -1, None)).tolist() == [1, 1, 0]


def test_quantiles_survive_rounding_to_float32(rng):
    x = rng.integers(0, 1000, 5000) / 1000
    encoder = fitted("quantiles=50", x)
    np.testing.assert_array_equal(
        encoder.encode("x", pd.Series(x)),
        encoder.encode("x", pd.Series(x.astype("float32"))),
    )
    low = 1.0
    edge_case = [low, np.nextafter(low, 2)]
    found = fitted("quantiles=2", edge_case).encode("x", pd.Series(edge_case))
    assert found.tolist() == [1, 2]


def test_quantiles_of_parts_are_those_of_the_whole(rng):
    table = pd.DataFrame({"x": rng.normal(size=900).round(2)})
    whole = Encoder({"x": "quantiles=7"}).fit(table)
    parts = Encoder({"x": "quantiles=7"}).fit(table[i : i + 100] for i in range(9))
    again = Encoder({"x": "quantiles=7"}).fit(
        table[i : i + 100] for i in range(0, 900, 100)
    )
    assert again.get_config() == whole.get_config()
    assert parts.get_config() != whole.get_config()


def test_the_memory_of_quantiles_is_bounded(rng):
    x = rng.normal(size=50_000)
    exact, bounded = Distribution(), Distribution(limit=2000)
    for part in np.split(x, 50):
        exact.add(part)
        bounded.add(part)
    assert len(bounded.numbers) <= 2000
    assert bounded.counts.sum() == len(x)
    assert bounded.numbers[-1] == x.max()
    for edges in (exact.edges(10), bounded.edges(10)):
        shares = np.diff(np.searchsorted(np.sort(x), edges))
        np.testing.assert_allclose(shares, 5000, rtol=0.1)


def test_siphash_has_the_published_values():
    key = tuple(np.frombuffer(bytes(range(16)), "<u8"))
    texts = ["", "\0", bytes(range(15)).decode()]
    published = [0x726FDB47DD0E0E31, 0x74F839C593DC67FD, 0xA129CA6149BE45E5]
    assert siphash(texts, key).tolist() == published
    assert siphash([]).tolist() == []


def test_siphash_is_that_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    texts = ["", "a", "1234567", "12345678", "é七", "x" * 255, "y" * 256, "z" * 1000]
    expected = tf.strings.to_hash_bucket_strong(texts, 2**62, key=[0, 0])
    np.testing.assert_array_equal(siphash(texts) % np.uint64(2**62), expected)


def test_a_hash_is_the_same_in_every_process():
    encoder = Encoder({"x": "hash=1000"})
    texts = ["ann", "bob", "七人の侍", "7"]
    ids = encoder.encode("x", objects(*texts))
    # Saved models depend on these numbers.
    assert ids.tolist() == [451, 859, 207, 706]
    script = (
        "import pandas as pd; from fmlayers.data import Encoder; print(Encoder("
        f"{{'x': 'hash=1000'}}).encode('x', pd.Series({texts!r})).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.stdout.strip().endswith(str(ids.tolist()))


def test_hashes_are_ids_without_a_vocabulary():
    encoder = Encoder({"x": "hash=50"})
    assert encoder.is_fitted
    assert encoder.features == [Categorical("x", 51, mask_zero=True)]
    ids = encoder.encode("x", objects(7, 7.0, "7", None, np.nan, "", "8", True, "True"))
    assert ids.dtype == np.int32
    assert len(set(ids[:3].tolist())) == 1
    assert ids[3:6].tolist() == [0, 0, 0]
    assert ids[7] == ids[8] > 0
    many = encoder.encode("x", pd.Series(np.arange(5000)))
    assert set(many.tolist()) == set(range(1, 51))
    assert np.bincount(many)[1:].min() > 60
    with pytest.raises(ValueError, match=r"`column` must be one of \[\]"):
        encoder.vocabulary("x")
    with pytest.raises(DataError, match="row 1: must be a single value"):
        encoder.encode("x", objects("a", ["b"]))
    fit = encoder.fit(pd.DataFrame({"x": ["a", "b"]}))
    assert fit.get_config()["vocabularies"] == {}


def test_several_values_are_hashed_like_one():
    columns = {"tags": "multi_hash=99", "shares": "weighted_hash=99"}
    encoder = Encoder(columns)
    table = pd.DataFrame({"tags": ["a|b", "", ["b"]], "shares": ["a:2|b:3", None, ""]})
    found = encoder.fit(table).transform(table)
    a, b = Encoder({"x": "hash=99"}).encode("x", objects("a", "b"))
    assert found["tags"].tolist() == [[a, b], [0, 0], [b, 0]]
    assert found["shares"].tolist() == [[a, b], [0, 0], [0, 0]]
    assert found["shares_weights"].tolist() == [[2, 3], [0, 0], [0, 0]]
    assert encoder.features == [
        MultiCategorical("tags", 100),
        MultiCategorical("shares", 100, weights="shares_weights"),
    ]
    ragged = encoder.without_padding(found)
    assert ragged["tags"][1].tolist() == [0, 2, 2, 3]
    assert ragged["shares_weights"][0].tolist() == [2, 3]


@pytest.mark.parametrize("kind", ["log1p", "quantiles=3", "hash=9", "multi_hash=9"])
def test_an_encoder_is_saved(kind, tmp_path):
    table = pd.DataFrame({"x": [1, 2, 5, 9, 20, 70], "user": list("aabbcc")})
    encoder = Encoder({"x": kind, "user": "categorical"}).fit(table)
    encoder.save(tmp_path / "encoder.json")
    loaded = Encoder.load(tmp_path / "encoder.json")
    assert loaded.get_config() == encoder.get_config()
    assert loaded.features == encoder.features
    assert ("edges" in encoder.get_config()) == (kind == "quantiles=3")
    for name, x in encoder.transform(table).items():
        np.testing.assert_array_equal(loaded.transform(table)[name], x)
    unfitted = Encoder({"x": kind, "user": "categorical"})
    assert not Encoder.from_config(unfitted.get_config()).is_fitted


@pytest.mark.parametrize(
    "edges",
    [
        {"x": [1.0, 1.0]},
        {"x": [2.0, 1.0]},
        {"x": [float("nan")]},
        {"x": ["1"]},
        {"x": 3},
        {},
        {"y": [1.0]},
        [],
    ],
)
def test_edges_that_were_edited_are_refused(edges, tmp_path):
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "z": 0.0})
    config = Encoder({"x": "quantiles=3", "z": "numeric"}).fit(table).get_config()
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps({**config, "edges": edges}))
    with pytest.raises(DataError, match=r"encoder\.json is not a saved encoder"):
        Encoder.load(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hash", r"one of the kinds \('categorical', .*'hash=N'.*Received: 'hash' for"),
        ("numeric=3", "one of the kinds .*Received: 'numeric=3' for column 'x'"),
        ("hash=0", "of the kinds hash=N with an integer N from 1 to 2,147,483,646"),
        ("hash=2147483647", "of the kinds hash=N with an integer N"),
        ("hash=1e5", "of the kinds hash=N with an integer N"),
        ("hash=", "of the kinds hash=N with an integer N"),
        ("quantiles=1", "of the kinds quantiles=N with an integer N from 2 to"),
        ("quantiles=٣", "of the kinds quantiles=N with an integer N"),
        (7, "one of the kinds .*Received: 7 for column 'x'"),
    ],
)
def test_kinds_errors(kind, message):
    with pytest.raises(ValueError, match=message):
        Encoder({"x": kind})


def test_shards_keep_every_kind(tmp_path, rng):
    pytest.importorskip("pyarrow")
    columns = {"a": "log1p", "b": "quantiles=5", "c": "hash=40", "d": "multi_hash=40"}
    table = pd.DataFrame({name: rng.integers(0, 99, 60) for name in columns})
    table["rating"] = np.arange(60.0)
    encoder = Encoder(columns).fit(table)
    write_shards([table[:30], table[30:]], tmp_path, encoder, group_size=15)
    expected = encoder.transform(table)
    data = ShardedBatches(tmp_path, 20, seed=0)
    for inputs, targets in data.stream().take(len(data)).as_numpy_iterator():
        rows = targets.astype(int)
        for name in "abc":
            np.testing.assert_array_equal(inputs[name], expected[name][rows])
        values, _ = inputs["d"]
        np.testing.assert_array_equal(values[:20], expected["d"][rows, 0])
