"""Export to ONNX files, for ONNX Runtime."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fmlayers._logs import without_log_lines
from fmlayers.export.signature import Signature

OPSET = 18
MIN_HALVED = 1024  # numbers in a constant; smaller ones stay float32

try:
    import onnx
    import onnxruntime
    import tf2onnx
    from keras.src.export.tf2onnx_lib import patch_tf2onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ImportError(
        'The format "onnx" needs more packages: install them with '
        "`pip install fmlayers[onnx]`."
    ) from error


def write(path: Path, signature: Signature, weights: str) -> None:
    """Writes an ONNX file with the inputs and outputs of a signature.

    Args:
        path: Path of the file.
        signature: The signature.
        weights: `"float32"`; `"float16"`, which is cast back to float32 when the file
            is loaded; or `"int8"`, dynamically quantized by ONNX Runtime.
    """
    with warnings.catch_warnings(action="ignore"):
        patch_tf2onnx()  # required with NumPy 2
    specs = {
        entry.name: tf.TensorSpec(entry.shape, entry.dtype, name=entry.name)
        for entry in signature.inputs
    }
    model, _ = tf2onnx.convert.from_function(
        tf.function(signature.function, autograph=False),
        [specs],
        opset=OPSET,
        custom_op_handlers=HANDLERS,
    )
    for value in (*model.graph.input, *model.graph.output):
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                size.dim_param = f"{value.name}_length" if axis else "batch"
    if weights == "float16":
        _halve(model.graph)
    if weights == "int8":
        model = _quantized(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def answer(path: Path, signature: Signature) -> dict[str, npt.NDArray[Any]]:
    """Runs the file on the example of its signature and returns the outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {entry.name: entry.array() for entry in signature.inputs}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _as_where(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Converts `SelectV2` to `Where`.

    By default tf2onnx adds both branches, multiplied by 0 or 1. The result is NaN if
    the branch that is not selected is NaN.
    """
    node.type = "Where"
    node.domain = ""


def _as_scatter(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Converts `UnsortedSegmentSum` to `ScatterND` with addition.

    By default tf2onnx creates a matrix as wide as the longest segment, and fails if
    there are no segments.
    """
    data, segments, count = node.input

    def add(kind: str, inputs: list[str], **attributes: Any) -> str:
        return str(ctx.make_node(kind, inputs, attr=attributes).output[0])

    def constant(*values: int) -> str:
        created = ctx.make_const(f"{name}_{len(ctx.get_nodes())}", np.array(values))
        return str(created.output[0])

    to_int64 = {"to": onnx.TensorProto.INT64}
    segments = add("Cast", [segments], **to_int64)
    count = add("Reshape", [add("Cast", [count], **to_int64), constant(1)])
    row = add("Slice", [add("Shape", [data]), constant(1), constant(9), constant(0)])
    shape = add("Concat", [count, row], axis=0)
    dtype = helper.tensor_dtype_to_np_dtype(ctx.get_dtype(data))
    zero = numpy_helper.from_array(np.zeros(1, dtype))
    zeros = add("ConstantOfShape", [shape], value=zero)
    places = add("Unsqueeze", [segments, constant(1)])
    dtypes, shapes = node.output_dtypes, node.output_shapes
    ctx.remove_node(node.name)
    ctx.make_node(
        "ScatterND",
        [zeros, places, data],
        outputs=node.output,
        name=name,
        attr={"reduction": "add"},
        dtypes=dtypes,
        shapes=shapes,
    )


HANDLERS: dict[str, tuple[Any, list[Any]]] = {
    "SelectV2": (_as_where, []),
    "UnsortedSegmentSum": (_as_scatter, []),
}


def _halve(graph: Any) -> None:
    for constant in list(graph.initializer):
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < MIN_HALVED:
            continue
        name = constant.name
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
        graph.initializer.remove(constant)
        graph.initializer.append(half)
        cast = helper.make_node("Cast", [half.name], [name], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _quantized(model: Any) -> Any:
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with without_log_lines():  # such as advice to optimize the graph first
            quantize_dynamic(model, path, op_types_to_quantize=["Gather", "MatMul"])
        return onnx.load(path)
