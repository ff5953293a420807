import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from kill_points import kill_points

from fmlayers import _files
from fmlayers._files import (
    MARK,
    publish,
    put_in_place,
    remove_leftovers,
    whole_file,
    whole_files,
    whole_folder,
)


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


@pytest.fixture(params=["in one step", "in two steps"])
def exchange(request, monkeypatch):
    """Replaces folders as Linux does, and as other systems do."""
    if request.param == "in two steps":
        monkeypatch.setattr(_files, "_exchange", lambda one, other: False)


@pytest.mark.parametrize("name", ["served.replaced", ".served-old", f".served{MARK}1"])
def test_other_folders_stay(name, exchange, tmp_path):
    """Whatever their names, folders that somebody else made are not touched."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work")
    for content in ("one", "two"):
        with whole_folder(tmp_path / "served") as written:
            (written / "content").write_text(content)
    assert (tmp_path / name / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "served" / "content").read_text() == "two"
    assert {path.name for path in tmp_path.iterdir()} == {name, "served"}


def killed(script, folder):
    """Runs a script in another process, which kills itself."""
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    script = f"""
import os, signal
from pathlib import Path
from fmlayers import _files
folder = Path({str(folder)!r})
{script.replace("KILL", kill)}
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_leftovers_of_killed_processes_are_removed(tmp_path):
    killed(
        """
with _files.whole_folder(folder / "served") as written:
    (written / "half").write_text("half")
    with _files.whole_file(folder / "half.json") as file:
        file.write_text("half")
        KILL
""",
        tmp_path,
    )
    left = [path for path in tmp_path.iterdir() if MARK in path.name]
    assert len(left) == 2
    with whole_file(tmp_path / "other") as written:
        assert [path for path in tmp_path.iterdir() if MARK in path.name] == [written]
        with whole_folder(tmp_path / "folder"):
            remove_leftovers(tmp_path)
            assert written.exists()  # this process lives
    assert {path.name for path in tmp_path.iterdir()} == {"other", "folder"}


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_folder_moved_aside_is_moved_back(tmp_path):
    put_old(tmp_path / "served", "folder")
    killed(
        """
_files._exchange = lambda one, other: False
replace = Path.replace
def kill_later(path, target):
    if path.name != "served":
        KILL
    return replace(path, target)
Path.replace = kill_later
with _files.whole_folder(folder / "served") as written:
    (written / "new").write_text("new")
""",
        tmp_path,
    )
    assert not (tmp_path / "served").exists()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["served", "old"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2")
def test_a_replaced_folder_gets_a_temporary_name_before_it_is_removed(
    tmp_path, monkeypatch
):
    """A kill in between leaves nothing under the name of the folder that was moved."""
    put_old(tmp_path / "served", "folder")
    (tmp_path / "served.partial").mkdir()
    (tmp_path / "served.partial" / "new").write_text("new")
    monkeypatch.setattr(_files, "discard", lambda path: None)
    put_in_place(tmp_path / "served.partial", tmp_path / "served")
    (left,) = {path.name for path in tmp_path.iterdir()} - {"served"}
    assert left.startswith(f".served{MARK}")
    assert (tmp_path / left / "old").read_text() == "old"
    assert (tmp_path / "served" / "new").read_text() == "new"


def test_a_folder_is_published_only_where_nothing_is(tmp_path):
    for name in ("one", "other", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a").write_text("a")
    (tmp_path / "other" / "b").write_text("b")
    with pytest.raises(FileExistsError, match="File exists: .*other'"):
        publish(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "other" / "b").read_text() == "b"
    publish(tmp_path / "one", tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "other"}
    assert (tmp_path / "empty" / "a").read_text() == "a"


def test_leftovers_of_another_host_stay_for_a_week(tmp_path):
    names = [f".a.json{MARK}00000000-1-{i:08}.json" for i in range(2)]
    for name in names:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / names[0], (0, 0))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


def test_a_folder_that_cannot_be_removed_only_warns(exchange, tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    put_old(tmp_path / "served", "folder")
    monkeypatch.setattr(_files, "_remove", fail)
    written = tmp_path / "written"
    written.mkdir()
    (written / "new").write_text("new")
    with pytest.warns(UserWarning, match="could not be removed: .*Permission denied"):
        put_in_place(written, tmp_path / "served")
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["new"]


@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_full_disk_names_the_target(writer, tmp_path):
    def write():
        with writer(tmp_path / "target"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device: .*target'") as error:
        write()
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", [whole_file, whole_files, whole_folder])
def test_an_error_names_the_target_and_no_temporary_path(writer, tmp_path):
    for target in (tmp_path / "none" / "target", Path("/proc/target")):
        with (
            pytest.raises(OSError, match=f"No such file .*'{target}'$") as error,
            writer(target),
        ):
            pass
        assert MARK not in str(error.value)


def test_contents_reach_the_disk_before_their_names(tmp_path, monkeypatch):
    """Files and folders are flushed, then renamed, then the folder that names them."""
    events = []
    sync, replace = os.fsync, type(tmp_path).replace

    def flush(number):
        events.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        sync(number)

    def rename(path, target):
        events.append("rename")
        return replace(path, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs the names of open files")
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(type(tmp_path), "replace", rename)
    with whole_folder(tmp_path / "served") as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text("x")
    part = str(folder / "part")
    assert sorted(events[:3]) == [str(folder), part, f"{part}/file"]
    assert events[3:] == ["rename", str(tmp_path)]
    events.clear()
    with whole_file(tmp_path / "file") as written:
        written.write_text("x")
    assert events == [str(written), "rename", str(tmp_path)]


def write_file(folder, content, in_one_step=True):
    with whole_file(folder / "served") as written:
        written.write_text(content)


def write_folder(folder, content, in_one_step=True):
    if not in_one_step:
        _files._exchange = lambda one, other: False
    with whole_folder(folder / "served") as written:
        for name in ("a", "b"):
            (written / name).write_text(content)


def write_files(folder, content, in_one_step=True):
    with whole_files(folder / "served") as written:
        for name in ("served", "served.json"):
            written.with_name(name).write_text(content)


@pytest.mark.slow
@pytest.mark.parametrize("in_one_step", [True, False])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("write", [write_file, write_folder, write_files])
def test_a_kill_at_any_operation(write, old, in_one_step, tmp_path):
    """Each file and folder is old or new, and the next write cleans up."""
    if old:
        write(tmp_path, "old")
    last = ["new"] * (2 - (write is write_file))
    kills = 0
    for point in kill_points(write, tmp_path, "new", in_one_step):
        kills += 1
        remove_leftovers(tmp_path)
        texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert set(texts) <= {"old", "new"}, point
        if old or ("new" in texts and write is not write_files):
            assert (tmp_path / "served").exists(), point
        if write is not write_files:
            assert len(set(texts)) <= 1, point
        assert not [path for path in tmp_path.iterdir() if MARK in path.name], point
        point.run(write, "new", in_one_step)
        texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert texts == last, point
    assert kills >= 5


def test_files_are_moved_together_and_the_first_one_last(tmp_path, monkeypatch):
    moved = []
    replace = type(tmp_path).replace

    def rename(path, target):
        moved.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", rename)
    write_files(tmp_path, "new")
    assert moved == ["served.json", "served"]

    def fail():
        with whole_files(tmp_path / "other") as written:
            written.with_name("other.json").write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert {path.name for path in tmp_path.iterdir()} == {"served", "served.json"}
