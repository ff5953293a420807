import os
import stat

import pytest

from fmlayers._files import put_in_place, whole_file, whole_folder


@pytest.mark.parametrize("old", [None, "old, and longer than the new content"])
def test_file_is_replaced_whole(old, tmp_path):
    target = tmp_path / "metrics.tar.json"
    if old is not None:
        target.write_text(old)
    with whole_file(target) as written:
        assert written.parent == tmp_path
        assert written.suffix == ".json"
        written.write_text("ne")
        assert (target.read_text() if target.exists() else None) == old
        written.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_keeps_what_was_there(old, error, tmp_path):
    target = tmp_path / "weights.h5"
    if old is not None:
        target.write_text(old)

    def write():
        with whole_file(target) as written:
            written.write_text("half")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == [old] * bool(old)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_follows_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "file") as written:
            written.write_text("text")
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask
    assert after == umask


def put_old(target, old):
    if old == "file":
        target.write_text("old")
    if old in ("folder", "empty"):
        target.mkdir()
    if old == "folder":
        (target / "old").write_text("old")


@pytest.mark.parametrize("old", [None, "empty", "folder", "file"])
def test_folder_is_replaced_whole(old, tmp_path):
    target = tmp_path / "served"
    put_old(target, old)
    with whole_folder(target) as written:
        assert written.parent == tmp_path
        (written / "new").write_text("new")
        assert (target / "old").exists() == (old == "folder")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]
    if os.name != "nt":
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("old", [None, "empty", "folder", "file"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_keeps_the_folder_that_was_there(old, error, tmp_path):
    target = tmp_path / "served"
    put_old(target, old)

    def write():
        with whole_folder(target) as written:
            (written / "half").write_text("half")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == {
        None: [],
        "empty": ["served"],
        "folder": ["served", "old"],
        "file": ["served"],
    }[old]


def test_what_cannot_be_put_in_place_leaves_what_was_there(tmp_path):
    target = tmp_path / "served"
    put_old(target, "folder")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "gone", target)
    assert (target / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
