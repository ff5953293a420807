"""The files of an export are whole and belong together, or are refused."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from kill_points import kill_points

from fmlayers import Categorical
from fmlayers.data import Encoder
from fmlayers.export import (
    ExportError,
    export,
    read_card,
    read_item_vectors,
    write_item_vectors,
)
from fmlayers.models import FactorizationMachine
from fmlayers.retrieval import TopN

pytestmark = pytest.mark.usefixtures("on_tensorflow")

PATHS = {"saved_model": "served", "litert": "m.tflite", "onnx": "m.onnx"}
FORMATS = pytest.mark.parametrize("format", PATHS)
IMPORTS = ("fmlayers.export.saved_model", "fmlayers.models", "fmlayers.retrieval")


def write(folder, format, version):
    """Exports a model whose bias and whose users are its version."""
    table = pd.DataFrame({"user": [f"{version}-{i}" for i in range(3)]})
    encoder = Encoder({"user": "categorical"}).fit(table)
    model = FactorizationMachine(encoder.features, 2, encoder=encoder)
    model.build()
    model.bias.assign([version])
    details = {"version": version}
    path = folder / PATHS[format]
    export(model, path, format, overwrite=path.exists(), details=details)


def write_vectors(folder, suffix, version):
    model = FactorizationMachine([Categorical("user", 3), Categorical("item", 3)], 2)
    model.build()
    items = model.get_weights()
    model.set_weights([np.full_like(weights, version) for weights in items])
    top = TopN(model, ["item"], num_items=3).index({"item": np.arange(3)})
    keys = [f"{version}-{i}" for i in range(3)]
    path = folder / f"items{suffix}"
    write_item_vectors(top, keys, path, overwrite=path.exists())


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@FORMATS
def test_the_card_names_every_file(format, tmp_path):
    write(tmp_path, format, 1)
    path = tmp_path / PATHS[format]
    card = read_card(path)
    folder = path if path.is_dir() else tmp_path
    card_file = "card.json" if path.is_dir() else f"{path.name}.json"
    assert {*card["files"], card_file} == set(contents(folder))
    assert card["trained"] == {"version": 1}


@FORMATS
def test_a_file_of_another_export_is_refused(format, tmp_path):
    """Each file of the set is exchanged, damaged or removed in turn."""
    for version in (1, 2):
        (tmp_path / str(version)).mkdir()
        write(tmp_path / str(version), format, version)
    one, other = (contents(tmp_path / version) for version in "12")
    path = tmp_path / "1" / PATHS[format]
    tried = 0
    for name, content in one.items():
        for changed in (other.get(name, b"x"), content[:-2], b"", b"{}", None):
            if changed == content:
                continue
            file = tmp_path / "1" / name
            file.unlink()
            if changed is not None:
                file.write_bytes(changed)
            with pytest.raises(ExportError, match=r"served|m\.") as error:
                read_card(path)
            assert str(tmp_path / "1") in str(error.value)
            file.write_bytes(content)
            tried += 1
    assert read_card(path)["trained"] == {"version": 1}
    assert tried >= 4 * len(one)


@pytest.mark.slow
@FORMATS
def test_a_kill_leaves_one_export_or_a_refused_one(format, tmp_path):
    write(tmp_path, format, 1)
    old = contents(tmp_path)
    path = tmp_path / PATHS[format]
    seen = []
    for point in kill_points(write, tmp_path, format, 2, imports=IMPORTS):
        try:
            version = read_card(path)["trained"]["version"]
        except ExportError:
            version = None
        if version == 1:
            now = contents(tmp_path)
            assert {name: now.get(name) for name in old} == old, point
        seen.append(version)
    first, *_, last = seen
    assert first == 1
    if format == "saved_model":
        assert set(seen) <= {1, 2}  # a folder changes in one step
    assert last in (2, None)
    print(f"{format}: {len(seen)} kills")
    assert len(seen) >= 10
    write(tmp_path, format, 3)
    assert read_card(path)["trained"] == {"version": 3}
    assert set(contents(tmp_path)) == set(old)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_vectors_are_read_with_their_keys(suffix, tmp_path):
    write_vectors(tmp_path, suffix, 4)
    vectors, keys = read_item_vectors(tmp_path / f"items{suffix}")
    assert keys == ["4-0", "4-1", "4-2"]
    np.testing.assert_array_equal(vectors, np.full((3, 3), 4, "float32"))


def test_vectors_name_the_model_of_their_queries(tmp_path):
    """An index and a SavedModel of the same weights have the same digest."""
    model = FactorizationMachine([Categorical("user", 3), Categorical("item", 3)], 2)
    top = TopN(model, ["item"], num_items=3).index({"item": np.arange(3)})
    write_item_vectors(top, ["a", "b", "c"], tmp_path / "v.npy")
    record = json.loads((tmp_path / "v.npy.keys.json").read_text("utf-8"))
    for format, path in PATHS.items():
        export(model, tmp_path / path, format)
        card = read_card(tmp_path / path)
        assert card["weights_digest"] == record["weights_digest"]
    model.bias.assign([0.5])
    export(model, tmp_path / "other.onnx", "onnx")
    other = read_card(tmp_path / "other.onnx")["weights_digest"]
    assert other != record["weights_digest"]


def test_keys_of_version_0_1_are_read(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(2, dtype="float32"))
    (tmp_path / "v.npy.keys.json").write_text('["a", "b"]')
    vectors, keys = read_item_vectors(tmp_path / "v.npy")
    np.testing.assert_array_equal(vectors, np.eye(2))
    assert keys == ["a", "b"]
    (tmp_path / "v.npy.keys.json").write_text('["a"]')
    with pytest.raises(ExportError, match="one vector per key"):
        read_item_vectors(tmp_path / "v.npy")


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_broken_vectors_are_refused(suffix, tmp_path, rng):
    for version in (1, 2):
        (tmp_path / str(version)).mkdir()
        write_vectors(tmp_path / str(version), suffix, version)
    one, other = (contents(tmp_path / version) for version in "12")
    path = tmp_path / "1" / f"items{suffix}"
    intact, refused = read_item_vectors(path), []
    for name, content in one.items():
        file = tmp_path / "1" / name
        flips = rng.integers(len(content), size=60)
        broken = [
            content[: len(content) // 2],
            content[:-1],
            b"",
            b"{}",
            b"[]",
            b"\xff",
        ]
        broken += [
            content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :] for i in flips
        ]
        broken += [other[name]] if suffix == ".npy" else []
        for changed in broken:
            file.write_bytes(changed)
            try:
                vectors, keys = read_item_vectors(path)
            except ExportError as error:
                refused.append(str(error))
                continue
            np.testing.assert_array_equal(vectors, intact[0])
            assert keys == intact[1]
        file.write_bytes(content)
    assert len(refused) > 30
    assert all(str(tmp_path / "1") in message for message in refused)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_kill_never_mixes_vectors_and_keys(suffix, tmp_path):
    write_vectors(tmp_path, suffix, 1)
    path = tmp_path / f"items{suffix}"
    kills = 0
    for point in kill_points(write_vectors, tmp_path, suffix, 2, imports=IMPORTS):
        kills += 1
        try:
            vectors, keys = read_item_vectors(path)
        except ExportError:
            continue
        assert {key[0] for key in keys} == {f"{vectors[0, 0]:g}"}, point
    assert kills >= 5


@pytest.mark.slow
@FORMATS
def test_a_full_disk_leaves_the_old_export(format, tiny_disk):
    """On a disk with too little room, the error is one sentence."""
    script = f"""
import sys
from fmlayers import Categorical
from fmlayers.export import export
from fmlayers.models import FactorizationMachine
model = FactorizationMachine([Categorical("user", int(sys.argv[1]))], 16)
try:
    export(model, {str(tiny_disk / PATHS[format])!r}, {format!r}, overwrite=True)
except OSError as error:
    print("one sentence:", error)
    sys.exit(1)
"""

    def run(size):
        return subprocess.run(
            [sys.executable, "-c", script, str(size)],
            capture_output=True,
            text=True,
            check=False,
        )

    first = run(100)
    assert first.returncode == 0, first.stderr
    path = tiny_disk / PATHS[format]
    card, before = read_card(path), contents(tiny_disk)
    second = run(400_000)
    assert second.returncode == 1, second.stderr
    assert second.stdout.startswith("one sentence: ")
    assert "No space left" in second.stdout
    assert "Traceback" not in second.stderr
    assert read_card(path) == card
    assert contents(tiny_disk) == before


def test_a_foreign_card_is_refused(tmp_path):
    write(tmp_path, "onnx", 1)
    card = tmp_path / "m.onnx.json"
    content = json.loads(card.read_text())
    for changed in ({}, {"files": 3}, {**content, "files": {}}):
        card.write_text(json.dumps(changed))
        if changed.get("files") == {}:  # its digest no longer fits
            message = "damaged or was edited"
        else:
            message = "no digests of files"
        with pytest.raises(ExportError, match=message):
            read_card(tmp_path / "m.onnx")
