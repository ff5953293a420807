import zipfile
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np


def weights(path):
    """Return the arrays of a run, a `.keras` or a `.weights.h5` file, by path."""
    path = Path(path)
    path = path / "model.keras" if path.is_dir() else path
    content = path.read_bytes()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            content = archive.read("model.weights.h5")
    arrays = {}

    def add(name, part):
        if isinstance(part, h5py.Dataset):
            arrays[name] = np.array(part)

    with h5py.File(BytesIO(content)) as file:
        file.visititems(add)
    return arrays


def is_same(found, expected):
    """Return whether the arrays are equal to the last bit."""
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )
