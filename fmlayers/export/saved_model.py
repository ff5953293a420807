"""Export to SavedModels, with several signatures."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from fmlayers.export.signature import Entry, Signature

NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*:[0-9]+")


@contextmanager
def plain_names(model: keras.Model) -> Iterator[None]:
    """Temporarily renames the variables of a model to names that TensorFlow can save.

    Keras accepts any name, such as that of a feature in another script.
    """
    variables = [variable.value for variable in model.variables]
    names = [variable._handle_name for variable in variables]
    try:
        for i, (variable, name) in enumerate(zip(variables, names, strict=True)):
            if not NAME.fullmatch(name):
                variable._handle_name = f"variable_{i}:0"
        yield
    finally:
        for variable, name in zip(variables, names, strict=True):
            variable._handle_name = name


def trace(signature: Signature) -> Any:
    """Returns the concrete function of a signature, with named inputs."""
    specs = {
        entry.name: tf.TensorSpec(entry.shape, entry.dtype, name=entry.name)
        for entry in signature.inputs
    }
    return tf.function(signature.function, autograph=False).get_concrete_function(specs)


def tables_of(model: keras.Model) -> list[Any]:
    """Returns the tables of a model's lookup layers, which are not weights."""
    return [
        value
        for layer in model._flatten_layers()
        for value in vars(layer).values()
        if isinstance(value, tf.saved_model.experimental.TrackableResource)
    ]


def outputs_of(signature: Signature, traced: Any) -> list[Entry]:
    """Returns the outputs of a signature, with the shapes from tracing."""
    return [
        Entry(
            name,
            traced.structured_outputs[name].dtype.name,
            tuple(traced.structured_outputs[name].shape),
            meaning,
        )
        for name, meaning in signature.outputs.items()
    ]


def write(
    folder: Path,
    model: keras.Model,
    traced: dict[str, Any],
    resources: Sequence[Any],
) -> None:
    """Writes a SavedModel.

    Args:
        folder: An empty folder to write to.
        model: The model, whose weights the functions read.
        traced: Dict from the name of a signature to its concrete function.
        resources: Tables and variables that the functions read besides the weights.
    """
    module = tf.Module()
    module.weights_read = [variable.value for variable in model.variables]
    module.resources_read = [*resources, *tables_of(model)]
    module.serve = traced["serving_default"]  # as in SavedModels of Keras
    try:
        tf.saved_model.save(module, str(folder), signatures=traced)
    except tf.errors.OpError as error:  # such as a full disk
        raise OSError(
            f"Cannot write a SavedModel to {folder.parent}: {error}"
        ) from error


def answers(folder: Path, signatures: Sequence[Signature]) -> dict[str, Any]:
    """Reloads a SavedModel and returns the outputs of its signatures' examples."""
    loaded = tf.saved_model.load(str(folder))
    results = {}
    for signature in signatures:
        inputs = {
            entry.name: tf.constant(entry.array(), entry.dtype)
            for entry in signature.inputs
        }
        outputs = loaded.signatures[signature.name](**inputs)
        results[signature.name] = {
            name: outputs[name].numpy() for name in signature.outputs
        }
    return results
