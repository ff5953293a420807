"""Columns of values with weights."""

import numpy as np
import pandas as pd
import pytest

from fmlayers import MultiCategorical
from fmlayers.data import (
    DataError,
    Dataset,
    Encoder,
    ShardedBatches,
    read_table,
    without_padding,
    write_shards,
)
from fmlayers.data.columns import describe_columns
from fmlayers.data.sources import infer_columns

WEIGHTED = {"genres": "weighted"}
TEXTS = ["War:0.5|Drama:2", "Drama:-1", "", None, "a:b:3|War:1e-2|", "Drama:2"]
IDS = [[2, 1], [1, 0], [0, 0], [0, 0], [3, 2], [1, 0]]
WEIGHTS = [[0.5, 2], [-1, 0], [0, 0], [0, 0], [3, 0.01], [2, 0]]
CELLS = {
    "texts": TEXTS,
    "pairs": [
        [("War", 0.5), ("Drama", 2)],
        (["Drama", "-1"],),
        [],
        float("nan"),
        np.array([["a:b", 3], ["War", 0.01], [None, 5]], object),
        [("Drama", np.float32(2.0))],
    ],
    "dicts": [
        {"War": 0.5, "Drama": 2},
        {"Drama": -1},
        {},
        None,
        {"a:b": 3, "War": 0.01},
        {"Drama": 2.0},
    ],
}
BESIDE = {
    "texts": (
        ["War|Drama", "Drama", "", None, "a:b|War", "Drama"],
        ["0.5|2", "-1", "", None, "3|1e-2", "2"],
    ),
    "lists": (
        [["War", "Drama"], ("Drama",), [], None, np.array(["a:b", "War"]), "Drama"],
        [[0.5, 2], ["-1"], [], np.nan, np.array([3, 0.01]), 2.0],
    ),
    "gaps": (
        [["War", None, "Drama"], "Drama", None, [], "a:b||War", ["Drama"]],
        [[0.5, None, 2], "-1", [], None, "3||0.01", [2]],
    ),
}


def check(found, name="genres_weights"):
    assert list(found) == ["genres", name]
    np.testing.assert_array_equal(found["genres"], IDS)
    np.testing.assert_allclose(found[name], WEIGHTS, rtol=1e-6)
    assert found["genres"].dtype == np.int32
    assert found[name].dtype == np.float32


@pytest.mark.parametrize("form", CELLS)
def test_cells_of_values_and_weights(form):
    table = pd.DataFrame({"genres": pd.Series(CELLS[form], dtype=object)})
    encoder = Encoder(WEIGHTED).fit(table)
    assert encoder.vocabulary("genres") == ["Drama", "War", "a:b"]
    check(encoder.transform(table))
    assert encoder.inputs == ["genres", "genres_weights"]
    assert encoder.features == [MultiCategorical("genres", 4, weights="genres_weights")]


@pytest.mark.parametrize("form", BESIDE)
def test_weights_in_another_column(form):
    values, weights = (pd.Series(x, dtype=object) for x in BESIDE[form])
    table = pd.DataFrame({"genres": values, "shares": weights, "other": 1})
    encoder = Encoder(WEIGHTED, weights={"genres": "shares"}).fit(table[::-1])
    check(encoder.transform(table), "shares")
    check(encoder.transform(table.set_index(np.arange(6)[::-1])), "shares")
    assert encoder.features[0].weights == "shares"
    ids = encoder.encode("genres", table["genres"])
    np.testing.assert_array_equal(ids, encoder.transform(table)["genres"])
    with pytest.raises(DataError, match=r"lacks the columns \['shares'\]"):
        encoder.transform(table.drop(columns="shares"))


@pytest.mark.parametrize("weights", [None, {"genres": "shares"}])
def test_an_encoder_is_saved(weights, tmp_path):
    values, shares = BESIDE["texts"]
    table = pd.DataFrame({"genres": values if weights else TEXTS, "shares": shares})
    encoder = Encoder(WEIGHTED, weights=weights).fit(table)
    encoder.save(tmp_path / "encoder.json")
    loaded = Encoder.load(tmp_path / "encoder.json")
    assert loaded.get_config() == encoder.get_config()
    assert ("weights" in encoder.get_config()) == bool(weights)
    check(loaded.transform(table), "shares" if weights else "genres_weights")


def test_unknown_values_keep_their_weights():
    encoder = Encoder(WEIGHTED).fit(pd.DataFrame({"genres": ["War:1"]}))
    found = encoder.transform(pd.DataFrame({"genres": ["Noir:0.5|War:2", None]}))
    np.testing.assert_array_equal(found["genres"], [[-1, 1], [0, 0]])
    np.testing.assert_array_equal(found["genres_weights"], [[0.5, 2], [0, 0]])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("Drama", "must contain values with weights.*'Drama'"),
        ("War:1|Drama", "must contain values with weights"),
        (":1", "must contain values with weights"),
        ("War:", "the weight of 'War' must be a finite number. Received: ''"),
        ("War:x", "the weight of 'War' must be a finite number. Received: 'x'"),
        ("War:1|Drama:nan", "the weight of 'Drama' must be a finite number"),
        ("War:inf", "the weight of 'War' must be a finite number"),
        ({"War": None}, "the weight of 'War' must be a finite number.*None"),
        ({"War": True}, "the weight of 'War' must be a finite number.*True"),
        ([("War", [1])], "the weight of 'War' must be a finite number"),
        (["War", 1], "must contain values with weights"),
        ([("War", 1, 2)], "must contain values with weights"),
        (3.5, "must contain values with weights.*3.5"),
        ([(["War"], 1)], "must contain values with weights"),
        ({"War"}, "must contain values with weights"),
        (np.array("War"), "must contain values with weights"),
        ({10**5000: 1}, "must contain.*an integer of more than"),
        ({"War": 10**5000}, "the weight of 'War' must.*an integer of more than"),
        ("War:1_0", "the weight of 'War' must be a finite number"),
        ("War:1e39", "the weight of 'War' must be a number in float32's range"),
        ({"War": np.bool_(True)}, "the weight of 'War' must be a finite number"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_a_bad_cell_names_column_and_row(cell, message, method):
    cells = ["War:1", "", None, cell, cell]
    table = pd.DataFrame({"genres": pd.Series(cells, dtype=object, index=range(7, 12))})
    encoder = Encoder(WEIGHTED).fit(table[:2])
    with pytest.raises(DataError, match=rf"^Column 'genres', row 3: {message}"):
        getattr(encoder, method)(table)


def test_values_are_compared_as_text():
    cells = [
        [(True, 1)],
        [(1, 2)],
        {1.0: 3},
        "1:4",
        [("True", 5)],
        [(np.float32(1), 6)],
    ]
    table = pd.DataFrame({"genres": pd.Series(cells, dtype=object)})
    encoder = Encoder(WEIGHTED).fit(table)
    assert encoder.vocabulary("genres") == ["1", "True"]
    found = encoder.transform(table)
    assert found["genres"].tolist() == [[2], [1], [1], [1], [2], [1]]
    assert found["genres_weights"].tolist() == [[1], [2], [3], [4], [5], [6]]


def test_values_beside_their_weights_are_compared_as_text():
    values, weights = [True, 1, 1.0, "1", ["True"]], [1, "2", [3.0], b"4", (5,)]
    columns = {"genres": values, "shares": weights}
    table = pd.DataFrame({k: pd.Series(x, dtype=object) for k, x in columns.items()})
    encoder = Encoder(WEIGHTED, weights={"genres": "shares"}).fit(table)
    found = encoder.transform(table)
    assert found["genres"].tolist() == [[2], [1], [1], [1], [2]]
    assert found["shares"].tolist() == [[1], [2], [3], [4], [5]]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_values_are_dropped(missing):
    cells = [missing, [(missing, 1), ("War", 2)], {missing: None}]
    table = pd.DataFrame({"genres": pd.Series(cells, dtype=object)})
    found = Encoder(WEIGHTED).fit(table).transform(table)
    assert found["genres"].tolist() == [[0], [1], [0]]
    assert found["genres_weights"].tolist() == [[0], [2], [0]]


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ("War|Drama", "1", "one weight per value. Received: 2 values and 1 weights"),
        ("War", None, "one weight per value. Received: 1 values and 0 weights"),
        (None, "1", "one weight per value. Received: 0 values and 1 weights"),
        ("War|Drama", "1|", "the weight of 'Drama' must be a finite number"),
        (["War"], [np.nan], "the weight of 'War' must be a finite number"),
        ([["War"]], 1, "must be a value or a list of values, with one weight"),
        ({"War"}, 1, "must be a value or a list of values, with one weight"),
        ("War", {1}, "the weight of 'War' must be a finite number"),
    ],
)
def test_bad_weights_in_another_column_name_the_row(values, weights, message):
    table = pd.DataFrame({"genres": ["War", values], "shares": ["1", weights]})
    encoder = Encoder(WEIGHTED, weights={"genres": "shares"}).fit(table[:1])
    for method in (encoder.fit, encoder.transform):
        with pytest.raises(DataError, match=rf"^Column 'genres', row 1: .*{message}"):
            method(table)


@pytest.mark.parametrize(
    ("columns", "weights", "message"),
    [
        (
            {"genres": "multi_categorical"},
            {"genres": "w"},
            "`weights` must map columns",
        ),
        (WEIGHTED, {"tags": "w"}, "`weights` must map columns of the kind"),
        (WEIGHTED, {"genres": 3}, "`weights` must map columns of the kind"),
        (
            {**WEIGHTED, "genres_weights": "numeric"},
            None,
            "rename the column 'genres_we",
        ),
        ({**WEIGHTED, "w": "numeric"}, {"genres": "w"}, "rename the column 'w'"),
        ({"genres": "heavy"}, None, r"one of the kinds \('categorical'.*'heavy'"),
    ],
)
def test_bad_arguments(columns, weights, message):
    with pytest.raises(ValueError, match=message):
        Encoder(columns, weights=weights)


def test_without_padding_keeps_weights_beside_their_ids():
    encoder = Encoder(WEIGHTED).fit(pd.DataFrame({"genres": TEXTS}))
    inputs = encoder.transform(pd.DataFrame({"genres": ["War:0|Drama:2", "", "a:b:3"]}))
    ragged = encoder.without_padding(inputs)
    values, splits = ragged["genres_weights"]
    np.testing.assert_array_equal(values, [0, 2, 3])
    np.testing.assert_array_equal(ragged["genres"][1], splits)
    with pytest.raises(
        ValueError, match=r"`present` .*\(2,\) for ids of shape \(1, 2\)"
    ):
        without_padding(np.ones((1, 2)), np.ones(2))


def test_shards_keep_weights_beside_their_ids(tmp_path):
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    cells = [
        "|".join(f"g{i}:{rng.normal():.3f}" for i in range(rng.integers(4)))
        for _ in range(90)
    ]
    table = pd.DataFrame({"genres": cells, "rating": np.arange(90.0)})
    encoder = Encoder(WEIGHTED).fit(table)
    write_shards([table[:40], table[40:]], tmp_path, encoder, group_size=16)
    encoded = encoder.transform(table)
    data = ShardedBatches(tmp_path, 20, seed=0)
    rows = 0
    for inputs, targets in data.stream().take(len(data)).as_numpy_iterator():
        values, splits = inputs["genres"]
        weights, weight_splits = inputs["genres_weights"]
        np.testing.assert_array_equal(splits, weight_splits)
        assert len(values) == len(weights)
        for i, row in enumerate(targets.astype(int)):
            span = slice(splits[i], splits[i + 1])
            present = values[span] != 0
            real = encoded["genres"][row] != 0
            np.testing.assert_array_equal(
                values[span][present], encoded["genres"][row][real]
            )
            np.testing.assert_array_equal(
                weights[span][present], encoded["genres_weights"][row][real]
            )
            rows += 1
    assert rows == 80


def test_columns_of_a_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    shares = [[("War", 0.5), ("Drama", 2.0)], [], None]
    maps = pa.array(shares, pa.map_(pa.string(), pa.float32()))
    path = tmp_path / "rows.parquet"
    columns = {"user": ["u", "v", "w"], "item": ["x"] * 3, "rating": [1.0, 2.0, 3.0]}
    parquet.write_table(pa.table({**columns, "genres": maps, "tags": TEXTS[:3]}), path)
    for text_columns in ((), ("genres", "tags")):
        table = read_table(path, text_columns=text_columns)
        dataset = Dataset("rows", table)
        kinds = infer_columns(dataset, ["genres", "tags:weighted"])
        assert kinds == {"genres": "weighted", "tags": "weighted"}
        found = Encoder(kinds).fit(table).transform(table)
        np.testing.assert_array_equal(
            found["genres_weights"], [[0.5, 2], [0, 0], [0, 0]]
        )
        np.testing.assert_array_equal(found["tags_weights"], WEIGHTS[:3])
    lines = describe_columns(dataset, kinds)
    assert lines[1:3] == [
        "genres  weighted       2   66.7 %  War:0.5|Drama:2",
        "tags    weighted       2   33.3 %  War:0.5|Drama:2",
    ]
    assert infer_columns(dataset)["tags"] == "multi_categorical"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([("War", None)], "float32"),
        ([("War", float("nan"))], "float32"),
        ([("War", "x")], "string"),
    ],
)
def test_a_map_without_numbers_names_the_row(cells, kind, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    maps = pa.array([[], cells], pa.map_(pa.string(), getattr(pa, kind)()))
    parquet.write_table(pa.table({"genres": maps}), tmp_path / "rows.parquet")
    message = "row 2: column 'genres' must have values or lists of values"
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "rows.parquet")
