"""Export of models to SavedModel, LiteRT and ONNX, and of item vectors.

TensorFlow is imported when an export is written.
"""

from fmlayers.export.exporter import export
from fmlayers.export.files import ExportError, read_card
from fmlayers.export.item_vectors import (
    item_vectors,
    query_vectors,
    read_item_vectors,
    write_item_vectors,
)

__all__ = [
    "ExportError",
    "export",
    "item_vectors",
    "query_vectors",
    "read_card",
    "read_item_vectors",
    "write_item_vectors",
]
