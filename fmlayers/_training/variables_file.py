"""The variables of a model and its optimizer in a file.

Keras takes four times as long to write a small model, since it searches all attributes
of all layers for variables.
"""

import itertools
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from fmlayers._backend import assign_all_rows, saved_shape
from fmlayers._state_files import read_state, write_state

KIND = "the variables of a model"


def state_variables(model: keras.Model) -> list[Any]:
    """Returns all variables of a compiled model except those of metrics, in order.

    They are its weights, the states of its random generators and the variables of its
    optimizer, which is built if necessary.
    """
    model.optimizer.build(model.trainable_variables)
    metrics = {id(v) for v in model.metrics_variables}
    kept = [v for v in model.variables if id(v) not in metrics]
    return [*kept, *model.optimizer.variables]


def save_variables(model: keras.Model, path: Path) -> None:
    """Writes the state variables of a compiled model to a file, atomically.

    Raises:
        OSError: If the disk is full or `path` cannot be written. The error names
            `path`.
    """
    variables = state_variables(model)
    content = {
        "names": [variable.path for variable in variables],
        "values": [np.asarray(ops.convert_to_numpy(v.value)) for v in variables],
    }
    write_state(path, KIND, content)


def load_variables(model: keras.Model, path: Path) -> None:
    """Loads the state variables of a model that was built and compiled in the same way.

    Raises:
        ValueError: If the file cannot be read, is damaged, or is that of another model.
            The model stays as it is.
    """
    variables = state_variables(model)
    content = read_state(path, KIND)
    values = content["values"]
    found = list(map(_described, content["names"], map(np.shape, values)))
    expected = [_described(v.path, saved_shape(v)) for v in variables]
    for one, other in itertools.zip_longest(found, expected, fillvalue="nothing"):
        if one != other:
            raise ValueError(f"it has {one} where the model has {other}")
    for variable, value in zip(variables, values, strict=True):
        assign_all_rows(variable, value)


def _described(path: str, shape: tuple[int, ...]) -> str:
    """Returns the name and the shape of a variable, without automatic numbers."""
    return f"{re.sub(r'_[0-9]+(?=_|/|$)', '', path)} {tuple(shape)}"
