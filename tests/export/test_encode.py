"""docs/examples/encode.py answers exactly as `Encoder` does, for any cells."""

import importlib.util
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmlayers.data import DataError, Encoder
from fmlayers.export import export
from fmlayers.models import FactorizationMachine

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
KINDS = {
    "c": "categorical",
    "m": "multi_categorical",
    "n": "numeric",
    "l": "log1p",
    "q": "quantiles=5",
    "h": "hash=50",
    "mh": "multi_hash=50",
}
# Values that are equal or nearly so, with texts that are not.
FITTED = [
    *("1", "0", "7", "2.5", "0.1", "0.10000000149011612", "True", "False", "b'x'"),
    *("", " 7", "a b", " a ", "x|y", "x", "y", "nan", "None", "inf", "-1", "七人の侍"),
    *(str(i) for i in (2**24 + 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 10**30)),
]


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def objects(cells):
    array = np.empty(len(cells), object)
    for row, cell in enumerate(cells):
        array[row] = cell
    return pd.Series(array, dtype=object)


@pytest.fixture(scope="module")
def fitted():
    singles, lists = objects(FITTED), objects([[x] for x in FITTED])
    numbers = pd.Series(np.linspace(-3, 8, len(FITTED)))
    table = {"c": singles, "h": singles, "m": lists, "mh": lists}
    table |= dict.fromkeys("nlq", numbers)
    return Encoder(KINDS).fit(pd.DataFrame(table))


@pytest.fixture(scope="module")
def vocabularies(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("encode") / "encoder.json"
    fitted.save(path)
    return load("encode").Vocabularies(path)


def answer(encode, error):
    """Return an array as nested lists of texts, or the class of an error."""
    try:
        return [*map(repr, np.asarray(encode()).tolist())]
    except error:
        return "refused"


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.integers(),
    st.sampled_from([10**30, 10**400, -(10**400), 2**53 + 1, 2**64 - 1]),
    st.floats(),
    st.sampled_from([7.0, 1.0, -0.0, 1e22, 1e30, 2.0**53, 3e38, 1e300, math.inf]),
    st.floats(width=32).map(np.float32),
    st.floats(width=16).map(np.float16),
    st.sampled_from([np.float32(0.1), np.longdouble(1.5), np.float64("nan")]),
    st.sampled_from([np.int8(1), np.uint64(2**64 - 1), np.bool_(True), np.str_("x")]),
    st.sampled_from([np.timedelta64(5, "s"), np.timedelta64("NaT", "s")]),
    st.sampled_from([np.datetime64("NaT"), pd.NA, pd.NaT]),
    st.sampled_from([Decimal("1.50"), Decimal("7"), Decimal("NaN"), 1j, b"x", b"7"]),
    st.binary(max_size=3),
    st.sampled_from(FITTED),
    st.text(max_size=4),
    st.text(alphabet="0123456789+-.eE_ \t\n", max_size=8),
    st.from_regex(r"\A[+-]?[0-9]{1,25}\.[0-9]{0,25}(e-?[0-9]{1,2})?\Z"),
    st.sampled_from(
        ["nan", "NaN", "inf", "1e400", "0x1", "\uff11", " 1\n", "x|y", "|", "x||"]
    ),
)
cells = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.lists(scalars, max_size=3).map(tuple),
    st.lists(st.sampled_from(FITTED), max_size=3).map(np.array),
    st.sampled_from([[[]], [{}], {}, {"a": 1}, {"x"}, frozenset("x"), bytearray(b"x")]),
)


@settings(max_examples=400, deadline=None)
@given(rows=st.lists(cells, max_size=5))
def test_any_cells_are_encoded_as_by_the_encoder(rows, fitted, vocabularies):
    for column in KINDS:
        table = fitted.encode, column, objects(rows)
        single = [{column: cell} for cell in rows]
        expected = answer(lambda t=table: t[0](*t[1:]), DataError)
        found = answer(lambda s=single, c=column: vocabularies.encode(s)[c], ValueError)
        assert found == expected, column


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(cells, min_size=2, max_size=5))
def test_a_cell_is_encoded_the_same_beside_any_others(rows, fitted):
    for column in KINDS:
        alone = [
            answer(lambda c=cell, k=column: fitted.encode(k, objects([c])), DataError)
            for cell in rows
        ]
        together = answer(lambda k=column: fitted.encode(k, objects(rows)), DataError)
        if "refused" in alone:
            assert together == "refused"
        elif column not in ("m", "mh"):
            assert together == [text for (text,) in alone]
        else:
            for (text,), other in zip(alone, together, strict=True):
                short, long = json.loads(text), json.loads(other)
                assert long[: len(short)] == short
                assert not any(long[len(short) :])


weights = st.one_of(
    st.integers(-3, 9),
    st.floats(-3, 3, width=32).map(np.float32),
    st.sampled_from(["0.5", " -2e1 ", b"3", 1e38, 1e39, Decimal("1.5"), math.nan]),
    st.booleans(),
)
pairs = st.lists(st.tuples(st.one_of(scalars, st.sampled_from("xy")), weights))
WEIGHTED_CELLS = {
    "one column": st.one_of(
        cells,
        pairs,
        pairs.map(lambda pairs: [[*pair] for pair in pairs]),
        st.dictionaries(scalars, weights, max_size=3),
        st.text(alphabet="xy17:|.-e ", max_size=9),
        st.sampled_from(
            ["x:1|7:-2.5", "7.0:1", ("x", 1), [("x", [1])], {"x": 10**400}]
        ),
    ).map(lambda cell: (cell,)),
    "two columns": st.one_of(
        st.tuples(cells, st.one_of(cells, weights)),
        pairs.map(lambda pairs: ([x for x, _ in pairs], [w for _, w in pairs])),
        st.tuples(st.sampled_from(["x|y", "x||7", ""]), st.sampled_from(["1|2", ""])),
        st.sampled_from([("x||7", "1||2"), ("x", np.float32(2)), ("x", True)]),
    ),
}


@pytest.fixture(scope="module", params=WEIGHTED_CELLS)
def weighted(request, tmp_path_factory):
    """Return an encoder of weighted values, its copy in encode.py, and cells."""
    if request.param == "one column":
        encoder = Encoder({"w": "weighted"})
        table = {"w": objects([[(value, 1)] for value in FITTED])}
    else:
        encoder = Encoder({"w": "weighted"}, weights={"w": "share"})
        table = {
            "w": objects([[x] for x in FITTED]),
            "share": objects([1] * len(FITTED)),
        }
    path = tmp_path_factory.mktemp("encode") / "encoder.json"
    encoder.fit(pd.DataFrame(table)).save(path)
    return encoder, load("encode").Vocabularies(path), WEIGHTED_CELLS[request.param]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_weighted_cells_are_encoded_the_same(data, weighted):
    encoder, vocabularies, strategy = weighted
    rows = data.draw(st.lists(strategy, min_size=1, max_size=4))
    names = [name for name in ("w", "share") if name == "w" or encoder.weights]

    def encoded(rows):
        columns = zip(names, zip(*rows, strict=True), strict=True)
        table = pd.DataFrame({name: objects(cells) for name, cells in columns})
        try:
            return [x.tolist() for x in encoder.transform(table).values()]
        except DataError:
            return "refused"

    def encoded_by_the_example(rows):
        try:
            arrays = vocabularies.encode(
                [dict(zip(names, row, strict=True)) for row in rows]
            )
        except ValueError:
            return "refused"
        return [x.tolist() for x in arrays.values()]

    together = encoded(rows)
    assert encoded_by_the_example(rows) == together
    alone = [encoded([row]) for row in rows]
    if "refused" in alone:
        assert together == "refused"
        return
    for i, arrays in enumerate(alone):
        for (short,), longs in zip(arrays, together, strict=True):
            assert longs[i][: len(short)] == short
            assert not any(longs[i][len(short) :])


@pytest.fixture(scope="module")
def of_vectors(tmp_path_factory):
    """Return an encoder of vectors, and its copy in encode.py."""
    path = tmp_path_factory.mktemp("encode") / "encoder.json"
    encoder = Encoder({"v": "vector"}).fit(pd.DataFrame({"v": [[0.25, 0.3]]}))
    encoder.save(path)
    return encoder, load("encode").Vocabularies(path)


numbers_of_vectors = st.one_of(
    st.floats(),
    st.floats(width=32).map(np.float32),
    st.integers(-3, 9),
    st.sampled_from([3e38, 1e39, -1e38, "0.5", " -2e1 ", b"3", Decimal("1.5"), None]),
    scalars,
)
vectors = st.one_of(
    cells,
    st.lists(numbers_of_vectors, min_size=1, max_size=3),
    st.tuples(numbers_of_vectors, numbers_of_vectors),
    st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=2).map(np.array),
    st.lists(st.floats(width=16), min_size=2, max_size=2).map(np.float16),
    st.text(alphabet="0123|.-e ", max_size=9),
    st.sampled_from([np.ones((1, 2)), np.empty((0, 2)), np.array(math.nan), b"12"]),
    st.sampled_from([[np.array([math.nan]), 1], [[1], 2], "1|2", "1||2", "nan|1"]),
    st.sampled_from(
        [np.array(["1", "2"]), np.array([1j, 2]), np.array([1, 2], "M8[s]")]
    ),
)


@settings(max_examples=400, deadline=None)
@given(rows=st.lists(vectors, max_size=4))
@example(rows=[np.empty((0, 2))])
@example(rows=[b"12"])
@example(rows=[[np.array([math.nan]), 1]])
@example(rows=[[1, -1e38]])
def test_any_vectors_are_encoded_the_same(rows, of_vectors):
    encoder, vocabularies = of_vectors
    expected = answer(lambda: encoder.encode("v", objects(rows)), DataError)
    single = [{"v": cell} for cell in rows]
    assert answer(lambda: vocabularies.encode(single)["v"], ValueError) == expected
    alone = [
        answer(lambda c=cell: encoder.encode("v", objects([c])), DataError)
        for cell in rows
    ]
    if "refused" in alone:
        assert expected == "refused"
    else:
        assert expected == [text for (text,) in alone]


def test_errors_of_vectors_name_the_column_and_the_row(of_vectors):
    encoder, vocabularies = of_vectors
    for cells, message in (
        (
            [None, [1, 2, 3]],
            "Column 'v', row 1: must be a vector of 2 finite numbers or",
        ),
        ([[1, "a"]], "Column 'v', row 0: must be a vector of 2 finite numbers or mis"),
        (
            [[1, 3e38]],
            "Column 'v', row 0: must be a vector of numbers in float32's ran",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            vocabularies.encode([{"v": cell} for cell in cells])
        with pytest.raises(DataError, match=message):
            encoder.encode("v", objects(cells))


@pytest.mark.slow
def test_weighted_values_score_as_by_the_model(
    on_tensorflow, weighted, shaken, tmp_path
):
    import onnxruntime

    encoder, _, _ = weighted
    model = shaken(FactorizationMachine(encoder.features, 3, encoder=encoder))
    path = export(model, tmp_path / "model.onnx", "onnx")
    encode = load("encode")
    card = encode.read_card(path)
    (column,) = card["encoder"]["columns"]
    assert column["weights"] == encoder.inputs[1]
    cells = {"w": ["x|7", "y", None], "share": ["1|-2", 0.5, None]}
    if not encoder.weights:
        cells = {"w": ["x:1|7:-2", [("y", 0.5)], None]}
    rows = pd.DataFrame({name: objects(x) for name, x in cells.items()})
    arrays = encode.Vocabularies(f"{path}.encoder.json").encode(rows.to_dict("records"))
    inputs = encode.model_inputs(card, arrays)
    (found,) = onnxruntime.InferenceSession(path).run(["score"], inputs)
    expected = model.score(encoder.transform(rows)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# Names that TensorFlow and the other formats do not accept.
NAMES = {name: f"{name}, first" for name in KINDS} | {"m": "метки"}
OF_NUMBERS = ("n", "l", "q")


@pytest.fixture(scope="module")
def exports(on_tensorflow, shaken, tmp_path_factory):
    """Return a model, its encoder, and functions that score rows with its exports."""
    import onnxruntime
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    columns = {NAMES[column]: kind for column, kind in KINDS.items()}
    # In serve_raw, "" is missing, and "|" separates values.
    known = [value for value in FITTED if value]
    numbers = np.linspace(-3, 8, len(known))
    table = pd.DataFrame(
        {NAMES[x]: numbers if x in OF_NUMBERS else known for x in KINDS}
    )
    table["other"] = "x"  # a column that the model does not read
    encoder = Encoder({"other": "categorical", **columns}).fit(table)
    model = shaken(FactorizationMachine(encoder.features[1:], 3, encoder=encoder))
    folder = tmp_path_factory.mktemp("exports")
    encode = load("encode")

    def inputs(path, rows):
        vocabularies = encode.Vocabularies(f"{path}.encoder.json")
        card = json.loads(Path(f"{path}.json").read_text("utf-8"))
        return encode.model_inputs(card, vocabularies.encode(rows))

    onnx = export(model, folder / "model.onnx", "onnx")
    session = onnxruntime.InferenceSession(onnx)
    litert = export(model, folder / "model.tflite", "litert")
    runner = Interpreter(str(litert)).get_signature_runner("serving_default")
    served = export(model, folder / "served")
    raw = tf.saved_model.load(str(served)).signatures["serve_raw"]
    entries = json.loads((served / "card.json").read_text("utf-8"))["signatures"]
    names = {e["feature"]: e["name"] for e in entries["serve_raw"]["inputs"]}

    def serve_raw(rows):
        tensors = {}
        for column, kind in columns.items():
            cells = [row.get(column) for row in rows]
            if kind in [KINDS[name] for name in OF_NUMBERS]:
                numbers = [math.nan if cell is None else float(cell) for cell in cells]
                tensors[names[column]] = tf.constant(numbers, tf.float32)
            else:
                lists = [c if isinstance(c, (list, tuple)) else [c] for c in cells]
                lists = [
                    [x for v in values for x in encode._value(v)] for values in lists
                ]
                tensors[names[column]] = tf.constant(["|".join(x) for x in lists])
        return raw(**tensors)["score"].numpy()

    scores = {
        "onnx": lambda rows: session.run(["score"], inputs(onnx, rows))[0],
        "litert": lambda rows: runner(**inputs(litert, rows))["score"],
        "serve_raw": serve_raw,
    }
    return model, encoder, scores


# Values that the text inputs of `serve_raw` can express.
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([7.0, b"x", np.float32(0.1), np.int8(1), np.bool_(True)]),
    st.sampled_from([value for value in FITTED if value and "|" not in value]),
    st.text(alphabet="abxy 17.é七", min_size=1),
)
numbers = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 1000),
    st.floats(-1000, 1000, width=32),
    st.floats(-1000, 1000, width=32).map(np.float32),
    st.sampled_from([math.nan, "7", " -2.5e1 ", b"3"]),
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                **{NAMES[x]: values for x in ("c", "h")},
                **{
                    NAMES[x]: st.one_of(values, st.lists(values, max_size=4))
                    for x in ("m", "mh")
                },
                **{NAMES[x]: numbers for x in OF_NUMBERS},
            },
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_export_scores_any_rows_as_the_model_does(rows, exports):
    model, encoder, scores = exports
    table = {
        column: objects([row.get(column) for row in rows]) for column in encoder.columns
    }
    arrays = encoder.transform(pd.DataFrame(table))
    del arrays["other"]
    expected = model.score(arrays).numpy()
    for name, score in scores.items():
        np.testing.assert_allclose(
            score(rows), expected, rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_errors_name_the_column_and_the_row(fitted, vocabularies):
    for rows, message in (
        (
            [{"n": 1}, {"n": "abc"}],
            "Column 'n', row 1: must be a finite number or miss",
        ),
        ([{"n": 1}, {"n": 1e300}], "Column 'n', row 1: must be a number in float32's"),
        ([{"c": ["x"]}], "Column 'c', row 0: must be a single value. Received: "),
        # Python does not print an integer of that many digits.
        ([{"c": 10**5000}], "Column 'c', row 0: must be a single value. Received: an?"),
        ([{"n": np.timedelta64(5)}], "Column 'n', row 0: must be a finite number or m"),
        ([{"n": 10**5000}], "Column 'n', row 0: must be a finite number or missing."),
        ([{"m": 5}, {"m": [{}]}], "Column 'm', row 1: must be a value or a list of va"),
    ):
        with pytest.raises(ValueError, match=message):
            vocabularies.encode(rows)
        ((column, _),) = rows[0].items()
        with pytest.raises(DataError, match=message):
            fitted.encode(column, objects([row[column] for row in rows]))
