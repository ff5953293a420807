"""Whole or not at all, and never over what is not an export."""

import json

import keras
import numpy as np
import pytest

import fmlayers
from fmlayers.export import export, exporter

pytestmark = pytest.mark.usefixtures("on_tensorflow")

PATHS = {"saved_model": "model", "litert": "model.tflite", "onnx": "model.onnx"}


@pytest.fixture(scope="module")
def small(every_kind):
    return fmlayers.models.MatrixFactorization(*every_kind[:2], 2)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("format", PATHS)
def test_what_is_there_is_replaced_whole_or_not_at_all(format, small, tmp_path):
    path = tmp_path / PATHS[format]
    assert export(small, path, format) == path
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"model.* exists: .*`overwrite=True`"):
        export(small, path, format)
    assert contents(tmp_path) == before
    # The last that is written, the card, cannot be.
    with pytest.raises(TypeError, match="not JSON serializable"):
        export(small, path, format, overwrite=True, details={"by": object()})
    assert contents(tmp_path) == before
    if format == "saved_model":
        (path / "left.txt").write_text("of the old one")
    export(small, path, format, overwrite=True, details={"by": "us"})
    after = contents(tmp_path)
    assert after.keys() == before.keys()
    card = "model/card.json" if format == "saved_model" else f"{path.name}.json"
    assert json.loads(after[card])["trained"] == {"by": "us"}


@pytest.mark.parametrize("format", PATHS)
def test_a_failure_leaves_nothing(format, small, tmp_path):
    path = tmp_path / PATHS[format]
    with pytest.raises(TypeError, match="not JSON serializable"):
        export(small, path, format, details={"by": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("format", PATHS)
def test_what_is_no_export_is_never_touched(format, overwrite, small, tmp_path):
    folder = tmp_path / PATHS[format]
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not an export of the format"):
        export(small, folder, format, overwrite=overwrite)
    assert contents(tmp_path) == {f"{folder.name}/thesis.tex": b"years of work"}
    file = tmp_path / "file"
    file.write_text("years of work")
    if format == "saved_model":
        with pytest.raises(FileExistsError, match="is not an export of the format"):
            export(small, file, format, overwrite=overwrite)
        assert file.read_text() == "years of work"


def test_an_empty_folder_is_free(small, tmp_path):
    (tmp_path / "1").mkdir()
    export(small, tmp_path / "1")
    assert (tmp_path / "1" / "saved_model.pb").is_file()


def test_folders_above_are_made(small, tmp_path):
    export(small, tmp_path / "models" / "mf" / "1")
    assert [path.name for path in (tmp_path / "models" / "mf").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("m", {"format": "pickle"}, "`format` must be .*Received: format='pickle'"),
        ("m", {"weights": "int4"}, "`weights` must be .*Received: weights='int4'"),
        ("m", {"weights": "int8"}, '`weights` must be "float32" in a SavedModel'),
        ("m", {"format": "litert"}, r"`path` must end in '\.tflite'"),
        ("m.tflite", {"format": "onnx"}, r"`path` must end in '\.onnx'"),
        (
            "m.onnx",
            {"format": "onnx", "items": [1]},
            "`items` must be None .*`recommend`",
        ),
        ("m", {"items": [1]}, "`items` need an encoder of all inputs"),
    ],
)
def test_argument_errors(path, options, message, small, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(small, tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_of_other_columns_error(every_kind, encoder, tmp_path):
    other = fmlayers.Categorical("director", 5)
    model = fmlayers.models.FactorizationMachine([other, *every_kind[:2]], 2)
    message = r"`encoder` must have .* lacks \['director'\]. Received: .* \['user',"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "model", encoder=encoder)


def test_a_file_is_of_two_gigabytes_at_most(small, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "MAX_FILE_BYTES", 100)
    with pytest.raises(
        ValueError, match='smaller than 2 GB.*Use the format "saved_model"'
    ):
        export(small, tmp_path / "m.onnx", "onnx")
    export(small, tmp_path / "m")


def test_other_formats_are_keras_own(small, tmp_path):
    with pytest.raises(ValueError, match="(?i)unrecognized format.*pickle"):
        small.export(tmp_path / "m", format="pickle")


def test_verbose_tells_where(small, tmp_path, capsys):
    small.export(tmp_path / "m", verbose=True)
    assert f"Saved at {tmp_path / 'm'}" in capsys.readouterr().out
    small.export(tmp_path / "quiet")
    assert str(tmp_path) not in capsys.readouterr().out


def test_people_s_own_models_by_one_call(every_kind, tmp_path):
    import tensorflow as tf

    inputs = {f.name: f.keras_input() for f in every_kind[:4]}
    vectors = fmlayers.FeatureEmbedding(every_kind[:4], 2)(inputs)
    model = keras.Model(inputs, fmlayers.FMInteraction(name="pairs")(vectors))
    path = export(model, tmp_path / "model")
    run = tf.saved_model.load(str(path)).signatures["serving_default"]
    specs = {
        name: (spec.dtype.name, spec.shape.rank)
        for name, spec in run.structured_input_signature[1].items()
    }
    assert specs == {
        "user": ("int64", 1),
        "item": ("int64", 1),
        "genres": ("int64", 2),
        "age": ("float32", 1),
    }
    assert list(run.structured_outputs) == ["pairs"]


@pytest.mark.parametrize(
    "format", ["litert", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_an_id_outside_that_is_an_error_gives_nan_where_none_can_be_raised(
    format, every_kind, tmp_path
):
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    model = fmlayers.models.MatrixFactorization(
        *every_kind[:2], 2, out_of_range="error"
    )
    path = export(model, tmp_path / PATHS[format], format)
    batch = {"user": np.array([1, -1, 2]), "item": np.array([2, 3, 20])}
    if format == "onnx":
        (found,) = onnxruntime.InferenceSession(path).run(["score"], batch)
    else:
        found = Interpreter(str(path)).get_signature_runner()(**batch)["score"]
    assert np.isnan(found[:, 0]).tolist() == [False, True, True]


@pytest.mark.slow
def test_nothing_of_a_former_export_is_left(machine, small, tmp_path):
    path = export(machine, tmp_path / "m.tflite", "litert")
    assert (tmp_path / "m.tflite.encoder.json").is_file()
    export(small, path, "litert", overwrite=True)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"m.tflite", "m.tflite.md", "m.tflite.json"}
