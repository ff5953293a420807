"""Import, train, tune, save, load, by the installed wheel alone: `smoke.py ROOT`."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

import fmlayers
from fmlayers.data import Encoder, synthetic
from fmlayers.models import FactorizationMachine

LOAD = """
import sys, keras, numpy as np, fmlayers
model = keras.models.load_model("model.keras")
inputs = dict(np.load("inputs.npz"))
np.save("found.npy", model.predict(inputs, verbose=0))
"""


def main() -> None:
    installed = Path(fmlayers.__file__).resolve()
    assert Path(sys.argv[1]).resolve() not in installed.parents, installed
    table = synthetic(num_users=50, num_items=40, num_ratings=1000).table()
    encoder = Encoder(
        {"user": "categorical", "item": "categorical", "genres": "multi_categorical"}
    ).fit(table)
    inputs = encoder.transform(table)
    model = FactorizationMachine(
        encoder.features, 4, fmlayers.RatingScaler(1, 5), encoder=encoder
    )
    model.compile("adam", loss="mse")
    losses = model.fit(inputs, table["rating"], epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0], losses
    model.save("model.keras")
    np.savez("inputs.npz", **inputs)
    subprocess.run([sys.executable, "-c", LOAD], check=True)
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(np.load("found.npy"), expected, rtol=1e-6)
    subprocess.run(
        [
            *(str(Path(sys.executable).parent / "fmlayers"), "train", "--out", "run"),
            *("--dim", "4", "--max-epochs", "2"),
        ],
        check=True,
    )
    keras.models.load_model("run/model.keras")
    subprocess.run(
        [
            *(str(Path(sys.executable).parent / "fmlayers"), "tune", "--out", "study"),
            *("--dim", "4", "--max-epochs", "1", "--max-trials", "2"),
        ],
        check=True,
    )
    keras.models.load_model("study/best/model.keras")
    print("the installed wheel trains, tunes, saves and loads")


if __name__ == "__main__":
    main()
