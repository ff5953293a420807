"""LiteRT files: the id model for phones and small machines."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from fmlayers._logs import without_log_lines
from fmlayers.export.signature import Signature


def write(path: Path, model: keras.Model, traced: Any, weights: str) -> None:
    """Writes a LiteRT file with the one signature.

    Args:
        path: The file.
        model: Whose weights the function reads.
        traced: The concrete function.
        weights: `"float32"`; `"float16"`, which the runtime takes back to float32; or
            `"int8"`, dynamically quantized.
    """
    module = tf.Module()
    module.weights_read = [variable.value for variable in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], module)
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())


def answer(path: Path, signature: Signature) -> dict[str, npt.NDArray[Any]]:
    """Returns what the file makes of the signature's example."""
    with without_log_lines():
        run = _interpreter(path).get_signature_runner()
        found: dict[str, npt.NDArray[Any]] = run(
            **{entry.name: entry.array() for entry in signature.inputs}
        )
    return found


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # it has moved there; TensorFlow's own says so at length
        with warnings.catch_warnings(action="ignore"):
            return tf.lite.Interpreter(model_path=str(path))
    return Interpreter(model_path=str(path))
