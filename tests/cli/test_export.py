import json

import keras
import pytest

from fmlayers import cli

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports are TensorFlow's", allow_module_level=True)


def export(run, *options):
    return cli.main(["export", str(run), *map(str, options)])


@pytest.mark.slow
def test_a_saved_model(film_run, tmp_path, capsys):
    out = tmp_path / "films" / "1"
    assert export(film_run, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    card = json.loads((out / "card.json").read_text("utf-8"))
    assert "recommend" in card["signatures"]
    assert export(film_run, "--out", out) == 1
    assert "replace it with `overwrite=True` (`--overwrite`)" in capsys.readouterr().err
    assert export(film_run, "--out", out, "--overwrite") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "name"), [("litert", "m.tflite"), ("onnx", "m.onnx")]
)
def test_files(format, name, film_run, tmp_path, capsys):
    out = tmp_path / name
    options = ("--format", format, "--weights", "float16", "--out", out)
    assert export(film_run, *options) == 0
    beside = {path.name for path in tmp_path.iterdir()}
    assert beside == {name, f"{name}.md", f"{name}.json", f"{name}.encoder.json"}
    card = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    assert card["weights"] == "float16"
    assert "fingerprint" in card["trained"]["data"]


def test_item_vectors(film_run, tmp_path):
    out = tmp_path / "items.parquet"
    assert export(film_run, "--format", "item_vectors", "--out", out) == 0
    assert out.is_file()


def test_a_refused_export(film_run, tmp_path, capsys):
    out = tmp_path / "m"
    assert export(film_run, "--format", "onnx", "--out", out) == 1
    assert "`path` must end in '.onnx'" in capsys.readouterr().err
    assert not out.exists()
