import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import fmlayers

ROOT = Path(__file__).parents[1]
FLOORS = (
    "data",
    "export",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "retrieval",
    "runs",
    "tuning",
)
LIGHT = """
import sys
import fmlayers
heavy = {"keras", "tensorflow", "jax", "torch", "pandas", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", ["fmlayers", *(f"fmlayers.{x}" for x in FLOORS)])
def test_all_is_sorted_and_complete(name):
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__)
    values = {key: getattr(module, key) for key in {*dir(module), *vars(module)}}
    public = {
        key
        for key, value in values.items()
        if not key.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith("fmlayers")
    }
    assert public == set(module.__all__)


def test_dir_names_what_is_public():
    found = pkgutil.iter_modules(fmlayers.__path__)
    parts = {module.name for module in found if not module.name.startswith("_")}
    assert dir(fmlayers) == sorted({*fmlayers.__all__, *parts, "__version__"})
    for name in dir(fmlayers):
        getattr(fmlayers, name)
    with pytest.raises(AttributeError, match="'fmlayers' has no attribute 'Layer'"):
        fmlayers.Layer  # noqa: B018


@pytest.mark.parametrize("name", FLOORS)
def test_dir_of_a_part_has_no_helpers(name):
    module = importlib.import_module(f"fmlayers.{name}")
    found = pkgutil.iter_modules(module.__path__)
    public = {key for key in dir(module) if not key.startswith("__")}
    assert public <= {*module.__all__, *(part.name for part in found)}


def test_every_public_name_is_documented():
    for name in (
        "fmlayers",
        "fmlayers.data",
        "fmlayers.export",
        "fmlayers.metrics",
        "fmlayers.models",
        "fmlayers.retrieval",
        "fmlayers.runs",
        "fmlayers.tuning",
    ):
        module = importlib.import_module(name)
        for key in module.__all__:
            assert len(getattr(module, key).__doc__ or "") > 40, f"{name}.{key}"


@pytest.mark.slow
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
    assert "fmlayers._registry" in added
    heavy = ("fmlayers.tuning", "fmlayers.data", "fmlayers.runs")
    for name in (*heavy, "fmlayers.export", "keras_tuner", "matplotlib", "pandas"):
        assert name not in added
    # The table of models, and none of them.
    models = {name for name in added if name.startswith("fmlayers.models.")}
    assert models == {"fmlayers.models.specs"}
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import keras; import fmlayers",
        "import fmlayers; import keras",
        "import fmlayers, importlib.util as u; u.find_spec('keras'); import keras",
    ],
)
def test_a_file_loads_in_whichever_order(imports, tmp_path):
    features = [fmlayers.Categorical(name, 5) for name in ("user", "item")]
    inputs = {feature.name: feature.keras_input() for feature in features}
    vectors = fmlayers.FeatureEmbedding(features, 3)(inputs)
    scores = fmlayers.FMInteraction()(vectors)
    model = keras.Model(inputs, fmlayers.RatingScaler(1, 5)(scores))
    model.save(tmp_path / "model.keras")
    ids = {"user": np.array([1, 2]), "item": np.array([3, 4])}
    np.savez(tmp_path / "ids.npz", **ids)
    script = f"""
{imports}
import sys
assert not [x for x in sys.meta_path if "fmlayers" in type(x).__module__]
import numpy as np
model = keras.models.load_model("model.keras")
np.save("found.npy", model.predict(dict(np.load("ids.npz")), verbose=0))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    expected = model.predict(ids, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=1e-5)


def test_objects_are_pickled():
    feature = fmlayers.Categorical("user", 5)
    assert pickle.loads(pickle.dumps(feature)) == feature
    scaler = pickle.loads(pickle.dumps(fmlayers.RatingScaler(1, 5)))
    assert type(scaler) is fmlayers.RatingScaler
    assert pickle.loads(pickle.dumps(fmlayers.FMInteraction)) is fmlayers.FMInteraction


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
