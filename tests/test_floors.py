"""A module imports only from its floor and those below, and nothing private."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top to the ground; the first that a module's name begins with is its floor.
FLOORS = {
    "fmlayers.cli": 5,
    "fmlayers.__main__": 5,
    "fmlayers.tuning": 4,
    "fmlayers.runs": 3,
    "fmlayers.models": 2,
    "fmlayers": 1,
}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ("models", "tuning"):
        parts = ("fmlayers", *parts)
    return ".".join(parts).removesuffix(".__init__")


def sources():
    for folder in ("fmlayers", "models", "tuning"):
        for path in (ROOT / folder).rglob("*.py"):
            if not any(parent.is_symlink() for parent in path.parents):
                yield name_of(path), ast.parse(path.read_text("utf-8"))


MODULES = dict(sources())


def floor_of(name):
    return next(
        floor
        for start, floor in FLOORS.items()
        if name == start or name.startswith(f"{start}.")
    )


def imported_by(tree, *, lazy):
    """Yield the modules of the package that code imports when it runs.

    Args:
        tree: The code.
        lazy: Whether imports inside functions count.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (x.name for x in node.names if x.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                part = f"{node.module}.{name.name}"
                if part in MODULES:
                    yield part
                elif node.module in MODULES:
                    yield node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.orelse:
                yield from imported_by(statement, lazy=lazy)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported_by(node, lazy=lazy)


def test_all_modules_are_read():
    assert {"fmlayers", "fmlayers.models.deepfm", "fmlayers.tuning.study"} <= set(
        MODULES
    )
    assert {floor_of(name) for name in MODULES} == {1, 2, 3, 4, 5}
    assert "fmlayers.runs.evaluation" in imported_by(
        MODULES["fmlayers.runs.run"], lazy=False
    )


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_from_below(name):
    above = {
        other
        for other in imported_by(MODULES[name], lazy=True)
        if floor_of(other) > floor_of(name)
    }
    assert not above


def test_no_import_is_circular():
    graph = {
        name: set(imported_by(tree, lazy=False)) - {name}
        for name, tree in MODULES.items()
    }
    while graph:
        free = {name for name, others in graph.items() if not others & graph.keys()}
        assert free, f"circular: {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in free}


def test_floor_1_reaches_up_for_an_export_alone():
    """`model.export` imports the exports when it is called, as Keras does."""
    folders = {"fmlayers.data", "fmlayers.export", "fmlayers.retrieval"}
    lazy = {
        (name, other)
        for name, tree in MODULES.items()
        if floor_of(name) == 1 and not any(name.startswith(x) for x in folders)
        for other in set(imported_by(tree, lazy=True))
        - set(imported_by(tree, lazy=False))
        if any(other.startswith(x) for x in folders)
    }
    assert {name for name, _ in lazy} == {"fmlayers._exportable"}


def private_imports(name, tree):
    """Yield what a module imports of another package's private modules and names.

    Private modules at the root of `fmlayers` are for every floor; what is private in
    them is not.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{x.name}" for x in node.names]
        elif isinstance(node, ast.Import):
            imported = [x.name for x in node.names]
        else:
            continue
        for parts in (full_name.split(".") for full_name in imported):
            for i, part in enumerate(parts):
                owner = ".".join(parts[:i])
                is_private = part.startswith("_") and not part.endswith("__")
                if is_private and i > 1 and parts[0] == "fmlayers":
                    if not f"{name}.".startswith(f"{owner}."):
                        yield ".".join(parts[: i + 1])
                    break


def test_no_package_imports_what_is_private_in_another():
    seen = {x for name, tree in MODULES.items() for x in private_imports(name, tree)}
    assert not seen


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from fmlayers._checks import integer", []),
        ("from fmlayers._checks import _error", ["fmlayers._checks._error"]),
        ("from fmlayers import _checks, data", []),
        ("from fmlayers.data import _stream", ["fmlayers.data._stream"]),
        ("import fmlayers.data._stream as stream", ["fmlayers.data._stream"]),
        ("def f():\n from fmlayers.data._stream import _x", ["fmlayers.data._stream"]),
        ("from fmlayers.runs.run import _x", ["fmlayers.runs.run._x"]),
        ("from fmlayers.layers._fields import x", []),
    ],
)
def test_private_imports_are_seen(code, expected):
    assert list(private_imports("fmlayers.layers.one", ast.parse(code))) == expected
