"""Export to LiteRT files, for mobile and embedded devices."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from fmlayers._logs import without_log_lines
from fmlayers.export.signature import Signature


def write(path: Path, model: keras.Model, traced: Any, weights: str) -> None:
    """Writes a LiteRT file with a single signature.

    Args:
        path: Path of the file.
        model: The model, whose weights the function reads.
        traced: Concrete function of the signature.
        weights: `"float32"`; `"float16"`, which the runtime converts back to float32;
            or `"int8"`, dynamically quantized.
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
    """Runs the file on the example of its signature and returns the outputs."""
    with without_log_lines():
        run = _interpreter(path).get_signature_runner()
        outputs: dict[str, npt.NDArray[Any]] = run(
            **{entry.name: entry.array() for entry in signature.inputs}
        )
    return outputs


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # TensorFlow's interpreter warns that it has moved there
        with warnings.catch_warnings(action="ignore"):
            return tf.lite.Interpreter(model_path=str(path))
    return Interpreter(model_path=str(path))
