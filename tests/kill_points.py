"""Kills a function at each of its file operations, to test what a kill leaves behind.

    def write(folder):
        fmlayers.data.write_shards(TABLE, folder / "shards", ENCODER)

    @pytest.mark.slow
    def test_a_kill_leaves_all_or_nothing(tmp_path):
        points = 0
        for point in kill_points(write, tmp_path):
            ...               # check what is in `tmp_path` now
            point.run(write)  # run it again, in a fresh process, to the end
            ...               # check again
            points += 1
        assert points >= 10

A fresh process imports the module of the function and then forks once per point, so
that the modules are imported once. It must not run a TensorFlow or JAX operation before
the fork: put none at the level of the module.
"""

import importlib.util
import inspect
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

# The audit events that change files, with the positions of the paths and of the file
# descriptors to which they are relative.
_EVENTS = {
    "open": [(0, None)],
    "os.chmod": [(0, 2)],
    "os.link": [(0, 2), (1, 3)],
    "os.mkdir": [(0, 2)],
    "os.remove": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)],
    "os.rmdir": [(0, 1)],
    "os.symlink": [(1, 2)],
    "os.truncate": [(0, None)],
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def kill_points(action, folder, *args, imports=(), numbers=None):
    """Yields a `Point` after each process that was killed by SIGKILL.

    The first process is killed before the first file operation of `action` under
    `folder`, the next one before the second, until one reaches the end. An operation is
    a change of names (make, rename, link, remove), of permissions, or an opening to
    write, which counts twice: before it, and after it, when the file is created or
    truncated and nothing is written. What is written between two operations is complete
    at the latter, except for Python's buffers. Operations outside Python, such as those
    of HDF5 and Arrow on a path, are not seen, nor is `os.open` with `dir_fd`.

    Before each process, `folder` is restored to the content that it had at first.

    Args:
        action: Function at the level of a module, called as `action(folder, *args)`.
        folder: `Path` of the folder whose operations count. It must contain all
            temporary files, too.
        *args: Further arguments of `action`, which can be pickled.
        imports: Names of modules to import before the first fork.
        numbers: Optional indices of the points, in order. Defaults to all.

    Raises:
        AssertionError: If a process fails or dies in another way.
    """
    folder = Path(folder).resolve()
    with tempfile.TemporaryDirectory() as kept, _Forks(imports) as forks:
        shutil.copytree(folder, Path(kept) / "folder", symlinks=True)
        for number in itertools.count() if numbers is None else numbers:
            _restore(Path(kept) / "folder", folder)
            operation = forks.run(action, (folder, *args), folder, number)
            if operation is None:
                return
            yield Point(number, operation, folder, forks)


class Point:
    """A point at which a process was killed.

    Attributes:
        number: Integer, the index of the point.
        operation: String, the operation that the process was about to do, or had just
            done, with the paths relative to the folder.
    """

    def __init__(self, number, operation, folder, forks):
        self.number = number
        self.operation = operation
        self._folder = folder
        self._forks = forks

    def __repr__(self):
        return f"point {self.number}: {self.operation}"

    def run(self, action, *args):
        """Runs `action(folder, *args)` to the end in a fresh process.

        Raises:
            AssertionError: If it fails.
        """
        self._forks.run(action, (self._folder, *args), self._folder, None)


class _Forks:
    """A process that imports modules and runs functions in forks of itself."""

    def __init__(self, imports):
        self._imports = tuple(imports)

    def __enter__(self):
        self._pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self._pipe.send((sys.path, self._imports))
        return self

    def __exit__(self, *error):
        self._pipe.close()
        self._process.wait()

    def run(self, action, args, folder, number):
        """Returns the operation at which the process was killed, or `None`."""
        place = (inspect.getsourcefile(action), action.__qualname__)
        self._pipe.send((place, pickle.dumps(args), folder, number))
        try:
            status, operation, output = self._pipe.recv()
        except EOFError:
            raise AssertionError("the process that forks ended") from None
        if operation is not None:
            died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            assert died, f"not killed at {operation}, status {status}:\n{output}"
        else:
            code = os.waitstatus_to_exitcode(status)
            assert code == 0, f"{place[1]} ended with {code}:\n{output}"
        return operation


def _restore(kept, folder):
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)


def _serve(pipe):
    sys.path[:], imports = pipe.recv()
    for name in imports:
        importlib.import_module(name)
    modules = {}
    while True:
        try:
            (file, function), args, folder, number = pipe.recv()
        except EOFError:
            return
        if file not in modules:
            modules[file] = _load(file, f"killed_{len(modules)}")
        with tempfile.TemporaryFile() as output:
            operation, killed = os.pipe()
            child = os.fork()
            if not child:
                pipe.close()
                os.close(operation)
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                _run(getattr(modules[file], function), args, folder, number, killed)
            os.close(killed)
            with os.fdopen(operation) as reported:
                text = reported.read()
            _, status = os.waitpid(child, 0)
            output.seek(0)
            shown = output.read().decode(errors="replace")
        pipe.send((status, text or None, shown))


def _load(file, name):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _run(function, args, folder, number, killed):
    """Runs a function in the child, which ends here."""
    code = 1
    try:
        if number is not None:
            sys.addaudithook(_killing_at(number, str(folder), killed))
        function(*pickle.loads(args))
        code = 0
    except SystemExit as stop:
        traceback.print_exc()
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _killing_at(number, folder, killed):
    count = 0

    def kill(operation):
        os.write(killed, operation.encode(errors="replace"))
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, args):
        nonlocal count
        if event not in _EVENTS or (event == "open" and not _writes(args)):
            return
        paths = [_path(args, *places) for places in _EVENTS[event]]
        inside = [p for p in paths if p and (p + os.sep).startswith(folder + os.sep)]
        if not inside:
            return
        shown = [os.path.relpath(p, folder) for p in inside]
        if count == number:
            kill(f"before {event} {' '.join(shown)}")
        count += 1
        if event != "open":
            return
        if count == number:
            count += 1  # for the audit event of the next line
            os.open(paths[0], args[2], 0o600)
            kill(f"after {event} {' '.join(shown)}")
        count += 1

    return hook


def _writes(args):
    return isinstance(args[2], int) and bool(args[2] & _WRITING)


def _path(args, path, relative_to):
    """Returns the absolute path of an event, or `None` for a file descriptor."""
    if not isinstance(args[path], str | bytes | os.PathLike):
        return None
    name = Path(os.fsdecode(args[path]))
    # In some versions of Python, an event lacks the file descriptor.
    start = args[relative_to] if relative_to and relative_to < len(args) else -1
    if isinstance(start, int) and start >= 0:
        name = Path(f"/proc/self/fd/{start}").resolve() / name
    return str(name.parent.resolve() / name.name)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
