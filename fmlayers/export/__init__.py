"""Out of Python: SavedModel, LiteRT, ONNX and item vectors, with inputs that are right.

Named by what they make; TensorFlow is imported when one is made.
"""

from fmlayers.export.exporter import export
from fmlayers.export.item_vectors import (
    item_vectors,
    query_vectors,
    write_item_vectors,
)

__all__ = [
    "export",
    "item_vectors",
    "query_vectors",
    "write_item_vectors",
]
