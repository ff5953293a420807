import importlib
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fmlayers

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name",
    [
        "fmlayers",
        "fmlayers.data",
        "fmlayers.export",
        "fmlayers.layers",
        "fmlayers.metrics",
        "fmlayers.models",
        "fmlayers.optimizers",
        "fmlayers.retrieval",
        "fmlayers.training",
        "fmlayers.tuning",
    ],
)
def test_all_is_sorted_and_complete(name):
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__)
    public = {
        key
        for key in vars(module)
        if not key.startswith("_")
        and not inspect.ismodule(vars(module)[key])
        and getattr(vars(module)[key], "__module__", "").startswith("fmlayers")
    }
    assert public == set(module.__all__)


def test_every_public_name_is_documented():
    for name in (
        "fmlayers",
        "fmlayers.data",
        "fmlayers.export",
        "fmlayers.metrics",
        "fmlayers.models",
        "fmlayers.retrieval",
        "fmlayers.training",
        "fmlayers.tuning",
    ):
        module = importlib.import_module(name)
        for key in module.__all__:
            assert len(getattr(module, key).__doc__ or "") > 40, f"{name}.{key}"


def test_import_is_light():
    script = """
import sys, keras
before = set(sys.modules)
import fmlayers
print("ADDED", *sorted(set(sys.modules) - before))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    added = set(result.stdout.split("ADDED")[1].split())
    assert "fmlayers.layers.fm_interaction" in added
    heavy = ("fmlayers.models", "fmlayers.tuning", "fmlayers.data", "fmlayers.training")
    for name in (*heavy, "fmlayers.export", "keras_tuner", "matplotlib", "pandas"):
        assert name not in added


def test_wheel_holds_fmlayers_alone(tmp_path):
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(ROOT)),
        ],
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.split("/")[0] for name in names}
        assert tops == {"fmlayers", f"fmlayers-{fmlayers.__version__}.dist-info"}
        for floor in ("models", "tuning"):
            link = archive.getinfo(f"fmlayers/{floor}/__init__.py")
            assert link.external_attr >> 28 != 0o12  # a file, not a link
            assert archive.read(link) == (ROOT / floor / "__init__.py").read_bytes()
        code = archive.read("fmlayers/models/__init__.py").decode()
        assert "import FactorizationMachine" in code
        assert "fmlayers/py.typed" in names


def test_floors_import_only_from_below():
    below = {"fmlayers": ("models", "tuning"), "models": ("tuning",)}
    for floor, above in below.items():
        for path in (ROOT / floor).rglob("*.py"):
            inside = path.relative_to(ROOT / floor)
            if floor == "fmlayers" and inside.parts[0] in (*above, "cli"):
                continue
            code = path.read_text("utf-8")
            for name in above:
                assert f"from fmlayers.{name}" not in code, path
                assert f"import fmlayers.{name}" not in code, path
