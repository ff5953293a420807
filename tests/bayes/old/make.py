"""Writes the files of a sampler, as this version saves it, and its predictions.

    PYTHONPATH=tests python tests/bayes/old/make.py VERSION

Versions of the format that have a folder stay as they are.
"""

import sys
from pathlib import Path

import numpy as np
from small_fits import data, fit

folder = Path(__file__).parent / f"format-{sys.argv[1]}"
folder.mkdir()
features, inputs, _ = data()
for likelihood in ("normal", "probit"):
    sampler, _ = fit(
        None, 5, features=features, options={"likelihood": likelihood}, burn_in=3
    )
    sampler.save(folder / f"{likelihood}.npz")
    mean, stddev = sampler.predict(inputs, return_std=True)
    model = sampler.to_model(8, collapse=True)
    np.savez_compressed(
        folder / f"{likelihood}-predictions.npz",
        mean=mean,
        stddev=stddev,
        model=sampler.to_model().predict(inputs, verbose=0),
        collapsed=model.predict(inputs, verbose=0),
    )
