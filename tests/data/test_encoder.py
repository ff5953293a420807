import json
import subprocess
import sys
from decimal import Decimal

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmlayers import Categorical, MultiCategorical, Numeric
from fmlayers.data import DataError, Encoder
from fmlayers.data.numbers import as_numbers
from fmlayers.models import FactorizationMachine

CORRUPT = r"encoder\.json (is not a (saved encoder|JSON file): |must contain a JSON)"
COLUMNS = {"user": "categorical", "genres": "multi_categorical", "age": "numeric"}
TABLE = pd.DataFrame(
    {
        "user": ["ann", "bob", "ann", None],
        "genres": ["War|Drama", ("Drama",), [], None],
        "age": [20.0, 30.0, np.nan, 70.0],
    }
)
HARD = [
    'a "quoted" one',
    "it's",
    "comma, semicolon; tab\t",
    "two\nlines\r\n",
    "海の灯台",
    "Ещё",
    "e\u0301 is not \u00e9",
    "é",
    "🎬",
    " spaces ",
    "nan",
    "None",
    "NA",
    "nul\0l",
]


def encode(fitted, values=None, kind="categorical", **options):
    """Return the vocabulary of `fitted` and the ids of `values`."""
    encoder = Encoder({"x": kind}, **options).fit(pd.DataFrame({"x": fitted}))
    table = pd.DataFrame({"x": fitted if values is None else values})
    return encoder.vocabulary("x"), encoder.transform(table)["x"]


def objects(*values):
    return pd.Series(values, dtype=object)


def assert_same(encoder, other):
    assert other.columns == encoder.columns
    assert list(other.columns) == list(encoder.columns)
    assert other.get_config() == encoder.get_config()
    assert other.features == encoder.features
    for name, ids in encoder.transform(TABLE).items():
        np.testing.assert_array_equal(other.transform(TABLE)[name], ids)


def test_features_describe_the_inputs():
    encoder = Encoder(COLUMNS).fit(TABLE)
    assert encoder.features == [
        Categorical("user", 3, mask_zero=True),
        MultiCategorical("genres", 3),
        Numeric("age"),
    ]
    inputs = encoder.transform(TABLE)
    assert list(inputs) == list(COLUMNS)
    np.testing.assert_array_equal(inputs["user"], [1, 2, 1, 0])
    np.testing.assert_array_equal(inputs["genres"], [[2, 1], [1, 0], [0, 0], [0, 0]])
    # Of 20, 30 and 70 the mean is 40 and the variance 1400 / 3.
    expected = np.array([-20, -10, np.nan, 30]) / np.sqrt(1400 / 3)
    np.testing.assert_allclose(inputs["age"], expected, rtol=1e-6)
    types = {name: ids.dtype.name for name, ids in inputs.items()}
    assert types == {"user": "int32", "genres": "int32", "age": "float32"}


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_unknown_and_missing_are_told_apart(missing):
    vocabulary, ids = encode(["a", "b"], objects("a", missing, "c", "b"))
    assert vocabulary == ["a", "b"]
    np.testing.assert_array_equal(ids, [1, 0, -1, 2])
    # Missing in the training rows, it is no value either.
    vocabulary, ids = encode(objects("a", missing, missing), objects(missing, "a"))
    assert vocabulary == ["a"]
    np.testing.assert_array_equal(ids, [0, 1])


def test_multi_valued_cells():
    fitted = objects("A|B", ["B", "C"], ("B",))
    cells = objects(
        "C|A",
        ["A", "new", "B"],
        ("new",),
        None,
        np.nan,
        [],
        (),
        "",
        "A||C|",
        [None, "B", np.nan],
        np.array(["C"]),
        "B",
    )
    vocabulary, ids = encode(fitted, cells, "multi_categorical")
    assert vocabulary == ["B", "A", "C"]
    expected = [
        [3, 2, 0],
        [2, -1, 1],
        [-1, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [2, 3, 0],
        [1, 0, 0],
        [3, 0, 0],
        [1, 0, 0],
    ]
    np.testing.assert_array_equal(ids, expected)


def test_multi_valued_cells_of_numbers_and_another_separator():
    vocabulary, ids = encode(
        objects("7;8", [7.0, 9], 7),
        objects((7, "8", 9.0), "7|8", 8.0),
        "multi_categorical",
        separator=";",
    )
    assert vocabulary == ["7", "8", "9"]
    np.testing.assert_array_equal(ids, [[1, 2, 3], [-1, 0, 0], [2, 0, 0]])


@pytest.mark.parametrize("cells", [[], [None, None], [[], ""]])
def test_multi_valued_column_without_a_value(cells):
    vocabulary, ids = encode(
        objects(*cells), objects(None, "A", *cells), "multi_categorical"
    )
    assert vocabulary == []
    np.testing.assert_array_equal(ids[:2], [[0], [-1]])
    np.testing.assert_array_equal(ids[2:], np.zeros((len(cells), 1)))


def test_order_is_by_frequency_then_by_text():
    values = ["b", "10", "c", "9", "c", "a", "b", "é", "Z", "c"]
    assert encode(values)[0] == ["c", "b", "10", "9", "Z", "a", "é"]
    assert encode(values[::-1])[0] == ["c", "b", "10", "9", "Z", "a", "é"]
    cells = objects("x|y", "y", ("x", "y"), "w", "w|x")
    assert encode(cells, kind="multi_categorical")[0] == ["x", "y", "w"]


@pytest.mark.parametrize("fitted", [[1, 2, 2], [1.0, 2.0, 2.0], ["1", "2", "2"]])
def test_a_number_and_its_text_are_the_same(fitted):
    vocabulary, ids = encode(
        fitted, objects(1, 1.0, "1", np.int8(1), np.float32(1.0), 2, "2.0", 1.5, -1)
    )
    assert vocabulary == ["2", "1"]
    np.testing.assert_array_equal(ids, [2, 2, 2, 2, 2, 1, -1, -1, -1])
    mixed = objects("3", 3, 3.0, 4)
    assert encode(mixed)[0] == ["3", "4"]
    np.testing.assert_array_equal(encode(mixed)[1], [1, 1, 1, 2])


def test_ids_of_64_bits_are_exact():
    large = [2**63 - 1, 2**63 - 2, 2**53 + 1, 2**53, -(2**63)]
    for values in (
        np.array(large, "int64"),
        pd.array([*large, None], dtype="Int64"),
        [str(value) for value in large],
    ):
        vocabulary, ids = encode(values)
        assert vocabulary == sorted(map(str, large))
        assert len(set(ids[:5].tolist())) == 5
        _, ids = encode(values, objects(2**53 + 1, "9007199254740992", 2**53 + 2))
        assert [vocabulary[i - 1] for i in ids[:2]] == [
            "9007199254740993",
            "9007199254740992",
        ]
        assert ids[2] == -1
    unsigned = np.array([2**64 - 1, 2**64 - 2], "uint64")
    np.testing.assert_array_equal(encode(unsigned)[1], [2, 1])


@pytest.mark.parametrize("dtype", [object, "str", "category"])
def test_hard_strings_are_told_apart(dtype, tmp_path):
    table = pd.DataFrame({"x": pd.Series([*HARD, ""], dtype=dtype)})
    encoder = Encoder({"x": "categorical"}).fit(table)
    assert encoder.vocabulary("x") == sorted([*HARD, ""])
    encoder.save(tmp_path / "encoder.json")
    loaded = Encoder.load(tmp_path / "encoder.json")
    ids = loaded.transform(table)["x"]
    assert sorted(ids) == list(range(1, len(HARD) + 2))
    assert loaded.decode("x", ids) == [*HARD, ""]


def test_rare_values_are_unknown():
    vocabulary, ids = encode(["a", "a", "a", "b", "b", "c", None], min_count=2)
    assert vocabulary == ["a", "b"]
    np.testing.assert_array_equal(ids, [1, 1, 1, 2, 2, -1, 0])
    vocabulary, ids = encode(
        objects("A|B", "A", "C|A", "B"), kind="multi_categorical", min_count=2
    )
    assert vocabulary == ["A", "B"]
    np.testing.assert_array_equal(ids, [[1, 2], [1, 0], [-1, 1], [2, 0]])
    vocabulary, ids = encode(["a", "b"], min_count=2)
    assert vocabulary == []
    np.testing.assert_array_equal(ids, [-1, -1])


def test_numbers_are_scaled_by_the_fitted_rows_alone():
    encoder = Encoder({"x": "numeric"}).fit(pd.DataFrame({"x": [1.0, 3.0]}))
    later = pd.DataFrame({"x": objects(100, "5", None, np.nan, pd.NA, True)})
    np.testing.assert_array_equal(
        encoder.transform(later)["x"], [98, 3, np.nan, np.nan, np.nan, -1]
    )
    # Again, of other rows: nothing of the first ones is left.
    encoder.fit(pd.DataFrame({"x": pd.array([0, None, 20], dtype="Int64")}))
    np.testing.assert_array_equal(
        encoder.transform(later.iloc[:3])["x"], [9, -0.5, np.nan]
    )


@pytest.mark.parametrize("value", [0.0, 5, 0.1, 1e9 + 0.1])
@pytest.mark.parametrize("rows", [1, 3, 10])
def test_constant_numbers(value, rows):
    # The mean of three times 0.1 isn't 0.1: rounding must not become the deviation.
    encoder = Encoder({"x": "numeric"}).fit(pd.DataFrame({"x": [value] * rows}))
    scaled = encoder.transform(pd.DataFrame({"x": [value, value + 2, np.nan]}))["x"]
    np.testing.assert_allclose(scaled, [0, 2, np.nan], atol=1e-5)


@pytest.mark.parametrize(
    "missing", [[np.nan, np.nan], [None, None], pd.array([None], dtype="Int64"), []]
)
def test_numbers_that_are_all_missing(missing):
    encoder = Encoder({"x": "numeric"}).fit(pd.DataFrame({"x": missing}))
    scaled = encoder.transform(pd.DataFrame({"x": [2.5, np.nan]}))["x"]
    np.testing.assert_array_equal(scaled, [2.5, np.nan])


def test_times_are_not_numbers():
    # As integers of nanoseconds, a missing one would be a number like any other.
    times = pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2020-01-03", None])})
    with pytest.raises(DataError, match="Column 'day'"):
        Encoder({"day": "numeric"}).fit(times)


def test_durations_are_not_numbers():
    table = pd.DataFrame({"day": pd.to_timedelta([1, None], unit="D")})
    with pytest.raises(DataError, match="Column 'day'"):
        Encoder({"day": "numeric"}).fit(table)


@pytest.mark.parametrize(
    "wrong",
    ["tall", "", np.inf, -np.inf, "inf", (1,), [1], 10**400, "1e400", "1_0", 1j, {}],
)
def test_what_is_not_a_number_is_named(wrong):
    good = pd.DataFrame({"height": [1.0, 2.0]})
    table = pd.DataFrame({"height": objects(1, None, wrong, "no")})
    table.index = list("abcd")
    encoder = Encoder({"height": "numeric"}).fit(good)
    for use in (encoder.transform, Encoder({"height": "numeric"}).fit):
        with pytest.raises(DataError, match=r"Column 'height', row 2: must be") as info:
            use(table)
        assert str(info.value).endswith(f"Received: {wrong!r}.")


@pytest.mark.parametrize("large", [1e39, -1e300, "1e39", 10**39])
def test_numbers_beyond_float32_are_named(large):
    encoder = Encoder({"x": "numeric"}).fit(pd.DataFrame({"x": [1.0, 3.0]}))
    with pytest.raises(DataError, match="Column 'x', row 1: must be a number in float"):
        encoder.encode("x", objects(3e38, large))


def test_texts_are_read_as_exact_numbers():
    encoder = Encoder({"x": "numeric"}).fit(pd.DataFrame({"x": [0.0, 0.0]}))
    texts = ["+1.144270316174876197126", " 7.5\n", b"-.5", "1.e3", "+9007199254740993"]
    numbers = np.array([1.1442703161748762, 7.5, -0.5, 1e3, 9007199254740992])
    found = encoder.encode("x", objects(*texts))
    np.testing.assert_array_equal(found, numbers.astype("float32"))
    np.testing.assert_array_equal(as_numbers("x", objects(*texts)), numbers)


@pytest.mark.parametrize("kind", ["categorical", "multi_categorical"])
@pytest.mark.parametrize("wrong", [{}, {"x"}, [["x"]], [{}], np.array([["x"]])])
def test_cells_that_are_no_values_are_named(wrong, kind):
    encoder = Encoder({"x": kind}).fit(pd.DataFrame({"x": ["x"]}))
    for use in (encoder.transform, Encoder({"x": kind}).fit):
        with pytest.raises(DataError, match="Column 'x', row 1: must be a") as info:
            use(pd.DataFrame({"x": objects("x", wrong)}))
        assert str(info.value).endswith(f"value. Received: {wrong!r}.") or (
            str(info.value).endswith(f"list of values. Received: {wrong!r}.")
        )


def test_a_list_is_no_single_value():
    encoder = Encoder({"x": "categorical"}).fit(pd.DataFrame({"x": ["x"]}))
    with pytest.raises(DataError, match="row 0: must be a single value. Received: "):
        encoder.encode("x", objects(["x"]))


def test_equal_values_with_different_texts_are_told_apart():
    for values in ([1, True, 1.0], [True, 1, 1.0], [Decimal("1.0"), 1, True]):
        vocabulary, ids = encode(["1", "True", "1.0"], objects(*values))
        assert [vocabulary[i - 1] for i in ids] == [text(value) for value in values]
        lists = objects(*([value] for value in values))
        vocabulary, ids = encode(
            objects("1", "True", "1.0"), lists, "multi_categorical"
        )
        assert [vocabulary[i - 1] for (i,) in ids] == [text(value) for value in values]


def test_a_float32_is_the_same_value_in_every_column():
    value = np.float32(0.1)
    fitted = pd.Series([value], dtype="float32")
    for values in (fitted, objects(value), objects(value, "x")):
        vocabulary, ids = encode(fitted, values)
        assert vocabulary == ["0.10000000149011612"]
        assert ids[0] == 1


def test_the_index_of_a_table_does_not_matter():
    encoder = Encoder(COLUMNS).fit(TABLE)
    shuffled = TABLE.set_axis([3, 3, 0, 1])
    for name, ids in encoder.transform(shuffled).items():
        np.testing.assert_array_equal(ids, encoder.transform(TABLE)[name])
    assert Encoder(COLUMNS).fit(shuffled).get_config() == encoder.get_config()


def test_no_rows():
    inputs = Encoder(COLUMNS).fit(TABLE).transform(TABLE.iloc[:0])
    assert [len(ids) for ids in inputs.values()] == [0, 0, 0]
    assert [ids.ndim for ids in inputs.values()] == [1, 2, 1]


def test_decode():
    encoder = Encoder(COLUMNS).fit(TABLE)
    assert encoder.decode("user", [2, 0, -1, 1, 3]) == ["bob", None, None, "ann", None]
    with pytest.raises(ValueError, match=r"`column` must be one of \['user', 'genres"):
        encoder.decode("age", [1])


cells = st.one_of(st.none(), st.text(max_size=5), st.integers(), st.floats())


@given(fitted=st.lists(cells), later=st.lists(cells))
def test_decode_inverts_transform(fitted, later):
    encoder = Encoder({"x": "categorical"}).fit(pd.DataFrame({"x": objects(*fitted)}))
    size = encoder.features[0].vocabulary_size
    seen = {text(value) for value in fitted} - {None}
    assert size == len(seen) + 1
    values = fitted + later
    ids = encoder.transform(pd.DataFrame({"x": objects(*values)}))["x"]
    assert ids.shape == (len(values),)
    for value, id_, back in zip(values, ids, encoder.decode("x", ids), strict=True):
        assert -1 <= id_ < size
        assert back == (text(value) if text(value) in seen else None)
        assert (id_ == 0) == (text(value) is None)


lists = st.lists(st.text(alphabet="ABé,\n", max_size=2), max_size=4)


@given(fitted=st.lists(lists), later=st.lists(lists, min_size=1))
def test_decode_inverts_transform_of_lists(fitted, later):
    encoder = Encoder({"x": "multi_categorical"})
    encoder.fit(pd.DataFrame({"x": objects(*fitted)}))
    size = encoder.features[0].vocabulary_size
    seen = {value for cell in fitted for value in cell}
    ids = encoder.transform(pd.DataFrame({"x": objects(*later)}))["x"]
    for cell, row in zip(later, ids, strict=True):
        assert ((row >= -1) & (row < size)).all()
        known = [value if value in seen else None for value in cell]
        assert encoder.decode("x", row) == known + [None] * (len(row) - len(cell))
        assert not row[len(cell) :].any()


def text(value):
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        (r"`columns` must not be empty. Received: columns=\{\}.", ({},)),
        ("Received: 'text' for column 'x'.", ({"x": "text"},)),
    ],
)
def test_columns_errors(match, arguments):
    with pytest.raises(ValueError, match=match):
        Encoder(*arguments)


@pytest.mark.parametrize(
    ("option", "value"), [("min_count", 0), ("min_count", -1), ("separator", "")]
)
def test_option_errors(option, value):
    with pytest.raises(
        ValueError, match=f"`{option}` must .*Received: {option}={value!r}"
    ):
        Encoder({"x": "categorical"}, **{option: value})


def test_not_fitted_errors():
    encoder = Encoder(COLUMNS)
    assert not encoder.is_fitted
    for use in (
        lambda: encoder.features,
        lambda: encoder.transform(TABLE),
        lambda: encoder.vocabulary("user"),
        lambda: encoder.decode("user", [1]),
    ):
        with pytest.raises(ValueError, match=r"must be fitted .*: call `fit\(\)`"):
            use()
    assert encoder.fit(TABLE) is encoder
    assert encoder.is_fitted


def test_missing_column_errors():
    fitted = Encoder(COLUMNS).fit(TABLE)
    for use in (Encoder(COLUMNS).fit, fitted.transform):
        with pytest.raises(
            DataError, match=r"lacks the columns \['user', 'age'\]. It has \['genres'\]"
        ):
            use(TABLE[["genres"]])


def test_round_trips_keep_the_encoder(tmp_path):
    encoder = Encoder(COLUMNS, min_count=2, separator="/").fit(TABLE)
    assert_same(encoder, Encoder.from_config(encoder.get_config()))
    assert_same(
        encoder, Encoder.from_config(json.loads(json.dumps(encoder.get_config())))
    )
    assert_same(
        encoder,
        keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(encoder)
        ),
    )
    encoder.save(tmp_path / "encoder.json")
    loaded = Encoder.load(tmp_path / "encoder.json")
    assert_same(encoder, loaded)
    assert (loaded.min_count, loaded.separator) == (2, "/")
    unfitted = Encoder.from_config(Encoder(COLUMNS).get_config())
    assert not unfitted.is_fitted


def test_select_keeps_the_chosen_columns():
    table = pd.DataFrame(
        {"a": ["x", "y"], "tags": ["p|q", "q"], "shares": ["1|2", "3"], "age": [1, 5]}
    )
    kinds = {"a": "categorical", "tags": "weighted", "age": "numeric"}
    encoder = Encoder(kinds, weights={"tags": "shares"}).fit(table)
    for names in (["a"], ["age", "tags"], list(kinds)):
        chosen = encoder.select(names)
        assert list(chosen.columns) == names
        expected = encoder.transform(table, names)
        found = chosen.transform(table)
        assert found.keys() == expected.keys()
        for name, x in found.items():
            np.testing.assert_array_equal(x, expected[name])
    with pytest.raises(ValueError, match="`columns` must be among"):
        encoder.select(["a", "b"])


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "encoder.json"
    encoder = Encoder(COLUMNS).fit(TABLE)
    encoder.save(path)
    saved = path.read_bytes()

    def fails(self, text, *args, **kwargs):
        self.write_bytes(text.encode()[:10])
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", fails)
    with pytest.raises(OSError, match="disk full"):
        encoder.fit(TABLE.iloc[:1]).save(path)
    assert path.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"columns": {}}',
        '{"columns": {"user": "categorical"}, "min_co',
        b"\xff\xfe\x00",
        {"more": 1},
        {"vocabularies": {"user": "ann", "genres": []}},
        {"vocabularies": {"user": ["ann"], "other": []}},
        {"scales": {"age": [1.0]}},
        {"scales": {"age": ["a", "b"]}},
    ],
)
def test_a_corrupt_file_is_refused(content, tmp_path):
    path = tmp_path / "encoder.json"
    if isinstance(content, dict):
        content = json.dumps(Encoder(COLUMNS).fit(TABLE).get_config() | content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=CORRUPT):
        Encoder.load(path)


@pytest.mark.slow
def test_saved_inside_a_model(tmp_path):
    encoder = Encoder(COLUMNS | {"x": "categorical"}, min_count=1)
    table = TABLE.assign(x=HARD[:4])
    model = FactorizationMachine(encoder.fit(table).features, 4, encoder=encoder)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    table.to_json(tmp_path / "table.json")
    later = table.assign(user=["bob", "new", None, "ann"])
    expected = model.predict(encoder.transform(later), verbose=0)
    model.save(tmp_path / "model.keras")

    script = f"""
import json, sys
import keras
import fmlayers

model = keras.models.load_model({str(tmp_path / "model.keras")!r})
import pandas as pd
table = pd.DataFrame(json.loads(sys.stdin.read()))
inputs = model.encoder.transform(table)
predicted = model.predict(inputs, verbose=0).tolist()
print(json.dumps([model.encoder.get_config(), predicted]))
"""
    rows = later.astype(object).where(later.notna(), None).to_dict("list")
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    config, predicted = json.loads(done.stdout.splitlines()[-1])
    assert config == encoder.get_config()
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)


def test_fit_on_parts_equals_fit_on_the_whole(rng):
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 30, 200).astype(str),
            "genres": [("War", "Drama", "Play")[: rng.integers(4)] for _ in range(200)],
            "age": np.where(rng.random(200) < 0.2, np.nan, rng.normal(1e6, 2.0, 200)),
        }
    )
    table.loc[:9, "age"] = np.nan  # a part without a number
    whole = Encoder(COLUMNS, min_count=2).fit(table)
    parts = (table[start : start + 10] for start in range(0, 200, 10))
    found = Encoder(COLUMNS, min_count=2).fit(parts)
    for column in ("user", "genres"):
        assert found.vocabulary(column) == whole.vocabulary(column)
    age = table["age"].to_numpy()
    expected = (age - np.nanmean(age)) / np.nanstd(age)
    for encoder in (whole, found):
        encoded = encoder.transform(table)["age"]
        np.testing.assert_allclose(encoded, expected, rtol=1e-5, atol=1e-6)


def test_numbers_that_do_not_vary_in_parts_are_not_blown_up():
    tables = [pd.DataFrame({"age": [0.1, 0.1, np.nan]})] * 3
    encoder = Encoder({"age": "numeric"}).fit(iter(tables))
    np.testing.assert_array_equal(encoder.transform(tables[0])["age"], [0, 0, np.nan])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabularies": {"user": ["b", "a", "b"]}}, "of 'user' has 'b' twice"),
        ({"vocabularies": {"user": ["b", 1]}}, "of 'user' must be a list of text"),
        ({"vocabularies": {"user": "ab"}}, "of 'user' must be a list of text"),
        ({"vocabularies": []}, "must be dicts"),
        ({"scales": {"age": [1.0, 0.0]}}, "scale of 'age' must be .*positive"),
        ({"scales": {"age": [1.0, -1.0]}}, "scale of 'age' must be"),
        ({"scales": {"age": [float("nan"), 1.0]}}, "scale of 'age' must be"),
        ({"scales": {"age": [None, 1.0]}}, "scale of 'age' must be"),
        ({"scales": {"age": [1.0, 1.0, 1.0]}}, "scale of 'age' must be"),
        ({"columns": ["user"]}, "`columns` must be a dict"),
    ],
)
def test_a_wrong_config_is_refused(change, message, tmp_path):
    """It may come from a file of the encoder or of a model."""
    encoder = Encoder({"user": "categorical", "age": "numeric"})
    encoder.fit(pd.DataFrame({"user": ["a", "b"], "age": [1.0, 2.0]}))
    config = encoder.get_config() | change
    with pytest.raises(ValueError, match=message):
        Encoder.from_config(config)
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match=rf"encoder\.json is not a saved .*{message}"):
        Encoder.load(path)


def test_a_file_with_fewer_values_than_were_saved_is_refused(tmp_path):
    path = tmp_path / "encoder.json"
    Encoder(COLUMNS).fit(TABLE).save(path)
    content = json.loads(path.read_text())
    assert content["vocabularies"]["user"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"encoder\.json is damaged or was edited"):
        Encoder.load(path)
    del content["sha256"]  # as in files of version 0.1.0
    path.write_text(json.dumps(content))
    Encoder.load(path)
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        Encoder.load(tmp_path / "none.json")


def test_tiny_numbers_have_a_positive_scale():
    encoder = Encoder({"age": "numeric"}).fit(pd.DataFrame({"age": [1e-200, 2e-200]}))
    assert encoder.scale("age")[1] == 1.0
