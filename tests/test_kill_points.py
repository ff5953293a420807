import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from kill_points import kill_points


def _write(folder):
    (folder / "new").mkdir()
    (folder / "new" / "a").write_text("new")
    (folder / "new" / "a").rename(folder / "b")
    (folder / "link").symlink_to("b")
    (folder / "old").read_text()
    (folder.parent / "outside").write_text("not counted")
    (folder.parent / "outside").rename(folder / "new" / "c")
    shutil.rmtree(folder / "new")
    os.chdir(folder)
    Path("old").write_text("new")


# The operations of `_write`, with what is in the folder after a kill.
OPERATIONS = {
    "before os.mkdir new": "old=old",
    "before open new/a": "new/ old=old",
    "after open new/a": "new/ new/a= old=old",
    "before os.rename new/a b": "new/ new/a=new old=old",
    "before os.symlink link": "b=new new/ old=old",
    "before os.rename new/c": "b=new link=new new/ old=old",
    "before os.remove new/c": "b=new link=new new/ new/c=not counted old=old",
    "before os.rmdir new": "b=new link=new new/ old=old",
    "before open old": "b=new link=new old=old",
    "after open old": "b=new link=new old=",
}


def _fail(folder):
    print("printed before")
    (folder / "a").touch()
    raise RuntimeError("no reason")


def _end_by_another_signal(folder):
    (folder / "a").touch()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(folder):
    (folder / "a").touch()
    sys.exit(3)


def _look_around(folder, imported):
    (folder / "a").touch()
    assert imported in sys.modules


def _content(folder):
    return " ".join(
        f"{path.relative_to(folder)}"
        + ("/" if path.is_dir() else "=" + path.read_text())
        for path in sorted(folder.rglob("*"))
    )


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def test_kills_before_and_after_each_operation_of_a_restored_folder(folder):
    left = {}
    for point in kill_points(_write, folder):
        left[point.operation] = _content(folder)
        assert point.number == len(left) - 1
    assert left == OPERATIONS
    assert _content(folder) == "b=new link=new old=new"


def test_a_point_runs_a_function_to_the_end(folder):
    points = kill_points(_write, folder)
    point = next(points)
    point.run(_write)
    assert _content(folder) == "b=new link=new old=new"
    with pytest.raises(AssertionError, match=r"(?s)ended with 1.*no reason"):
        point.run(_fail)
    assert next(points).number == 1


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (_fail, r"(?s)_fail ended with 1:.*printed before.*RuntimeError: no reason"),
        (_end_by_another_signal, "ended with -15"),
        (_leave, "(?s)ended with 3.*SystemExit"),
    ],
)
def test_a_process_that_does_not_die_by_a_kill_fails_the_test(folder, action, message):
    points = kill_points(action, folder)
    assert [next(points).operation for _ in range(2)] == [
        "before open a",
        "after open a",
    ]
    with pytest.raises(AssertionError, match=message):
        next(points)


def test_modules_are_imported_before_the_first_fork(folder):
    points = kill_points(_look_around, folder, "colorsys", imports=["colorsys"])
    assert len(list(points)) == 2
    with pytest.raises(AssertionError, match="_look_around ended with 1"):
        list(kill_points(_look_around, folder, "colorsys"))
