import json
import math

import pytest

from fmlayers._digests import check_digest, digest_of, digests_of
from fmlayers._json_files import SEAL, read_json, write_json

RECORD = {"a": 1, "rate": 0.1, "names": ["é", None, True], "inner": {"b": [1.5, 2]}}


@pytest.fixture
def path(tmp_path):
    write_json(tmp_path / "record.json", RECORD)
    return tmp_path / "record.json"


def test_a_record_is_read_as_it_was_written(path):
    assert read_json(path) == RECORD
    assert set(json.loads(path.read_text("utf-8"))) == {*RECORD, SEAL}
    write_json(path, {"a": (1, 2)})
    assert read_json(path) == {"a": [1, 2]}


def test_a_record_without_a_seal_is_read(path):
    """Versions before 0.2.0 wrote none."""
    path.write_text(json.dumps(RECORD), "utf-8")
    assert read_json(path) == RECORD


def test_json_has_no_nan(path):
    write_json(path, {"x": [math.nan, -math.inf, {"y": math.inf}, 1.0]})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert read_json(path) == {"x": [None, None, {"y": None}, 1.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a JSON file"),
        (b"{", "is not a JSON file"),
        (b"\xff\xfe{}", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b"[1]", "must contain a JSON object"),
        (b"9" * 10_000, "is not a JSON file"),
    ],
)
def test_foreign_content_is_refused(content, message, path):
    path.write_bytes(content)
    with pytest.raises(_Broken, match="record.json") as error:
        read_json(path, _Broken)
    assert message in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for name in ("missing.json", "."):
        with pytest.raises(_Broken, match="cannot be read"):
            read_json(tmp_path / name, _Broken)


def test_every_changed_byte_is_noticed(path):
    """Of each byte one bit is flipped: the record is equal or refused."""
    intact = path.read_bytes()
    refused = 0
    for i in range(len(intact)):
        path.write_bytes(intact[:i] + bytes([intact[i] ^ 1]) + intact[i + 1 :])
        try:
            content = read_json(path)
            assert {name: content[name] for name in RECORD} == RECORD
        except ValueError:
            refused += 1
    assert refused > 0.8 * len(intact)  # the rest is white space


def test_digests(path):
    assert digests_of(path.parent, [path.name]) == {path.name: digest_of(path)}
    check_digest(path, digest_of(path))
    digest = digest_of(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(_Broken, match=r"record\.json is damaged or was replaced"):
        check_digest(path, digest, _Broken)
    path.unlink()
    with pytest.raises(_Broken, match=r"record\.json cannot be read"):
        check_digest(path, digest, _Broken)


class _Broken(ValueError):
    pass
