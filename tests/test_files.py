import os
import stat

import pytest

from fmlayers._files import whole_file


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
