"""Every example in the docstrings of the public names runs."""

import doctest
import importlib
import inspect

import keras
import keras_tuner
import numpy as np
import pandas as pd
import pytest

import fmlayers

MODULES = (
    "fmlayers",
    "fmlayers.bayes",
    "fmlayers.data",
    "fmlayers.distributed",
    "fmlayers.explain",
    "fmlayers.export",
    "fmlayers.layers",
    "fmlayers.losses",
    "fmlayers.metrics",
    "fmlayers.models",
    "fmlayers.optimizers",
    "fmlayers.plots",
    "fmlayers.retrieval",
    "fmlayers.runs",
    "fmlayers.tuning",
)
GLOBALS = {
    "fmlayers": fmlayers,
    "keras": keras,
    "keras_tuner": keras_tuner,
    "np": np,
    "pd": pd,
}
SLOW = ("fmlayers.models.LibFM",)


def documented():
    """Return each public object with an example, once, by its first public name."""
    names = {}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if any("Example:" in text for text in docstrings(value)):
                names.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return names.values()


def docstrings(value):
    members = vars(value).values() if isinstance(value, type) else ()
    methods = [x for x in members if inspect.isroutine(x) or isinstance(x, property)]
    return [each.__doc__ or "" for each in (value, *methods)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(
            name, value, id=name, marks=pytest.mark.slow if name in SLOW else ()
        )
        for name, value in documented()
    ],
)
def test_example(name, value):
    if name.startswith("fmlayers.export.") and keras.backend.backend() != "tensorflow":
        pytest.skip("exports need TensorFlow")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(value, name, globs=GLOBALS):
        runner.run(test, clear_globs=False)
        if "Example:" in test.docstring:
            assert test.examples, test.name
    assert runner.failures == 0
    assert runner.tries > 0
