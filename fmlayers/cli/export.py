"""`fmlayers export`."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of a finished run")
    add(
        "--format",
        choices=["saved_model", "litert", "onnx", "item_vectors"],
        default="saved_model",
        help="a model for TensorFlow Serving, LiteRT or ONNX Runtime, or the vectors "
        "of the items for a vector index (default: saved_model)",
    )
    add(
        "--out",
        required=True,
        metavar="PATH",
        help="a folder, or a .tflite, .onnx, .npy or .parquet file",
    )
    add(
        "--weights",
        choices=["float32", "float16", "int8"],
        default="float32",
        help="data type of the weights for LiteRT and ONNX (default: float32)",
    )
    add("--overwrite", action="store_true", help="replace an existing export")


def run(options: argparse.Namespace) -> int:
    from fmlayers.runs import Run

    path = Run(options.run).export(
        options.out,
        options.format,
        overwrite=options.overwrite,
        weights=options.weights,
    )
    print(path)
    return 0
