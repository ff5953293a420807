"""The variables of a model and its optimizer in a file.

Keras takes four times as long to write a small model, since it searches all attributes
of all layers for variables.
"""

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
    shapes = [tuple(saved_shape(v)) for v in variables]
    values = content["values"]
    if [np.shape(x) for x in values] != shapes:
        saved = dict(zip(content["names"], map(np.shape, values), strict=True))
        expected = {v.path: shape for v, shape in zip(variables, shapes, strict=True)}
        raise ValueError(
            f"{path} must be the file of a model with the variables {expected}. "
            f"Received: {saved}."
        )
    for variable, value in zip(variables, values, strict=True):
        assign_all_rows(variable, value)
