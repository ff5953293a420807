"""Finds the best items for a query with a vector index.

    fmlayers export RUN --format item_vectors --out items.npy
    fmlayers export RUN --out served/1
    python nearest.py items.npy served/1 '{"user": ["7"]}'

The signature `query_vectors` of the SavedModel computes the query embeddings. This
needs `pip install numpy tensorflow usearch`.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index


def build(vectors: np.ndarray) -> Index:
    """Returns an index of the vectors, for search by inner product."""
    index = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=32,
        expansion_add=256,
        expansion_search=256,
    )
    index.add(np.arange(len(vectors)), vectors)
    return index


def find(index: Index, queries: np.ndarray, k: int = 25) -> tuple[Any, Any]:
    """Returns the rows of the k largest inner products, and the inner products."""
    matches = index.search(queries, k)
    keys = np.reshape(matches.keys, (len(queries), -1))
    # With this metric, the distance is 1 minus the inner product.
    return keys, 1.0 - np.reshape(matches.distances, keys.shape)


def main(items: str, model: str, query: str) -> None:
    import tensorflow as tf

    record = json.loads(Path(f"{items}.keys.json").read_text("utf-8"))
    card = json.loads((Path(model) / "card.json").read_text("utf-8"))
    if hashlib.sha256(Path(items).read_bytes()).hexdigest() != record["vectors"]:
        raise ValueError(f"{items} does not belong to its keys.")
    if card["weights_digest"] != record["weights_digest"]:
        raise ValueError(f"{items} and {model} are exports of different models.")
    keys = record["keys"]
    index = build(np.load(items))
    run = tf.saved_model.load(model).signatures["query_vectors"]
    specs = run.structured_input_signature[1]
    given = json.loads(query)
    given = {name: tf.constant(x, specs[name].dtype) for name, x in given.items()}
    sides = run(**given)
    found, products = find(index, sides["vectors"].numpy())
    for rows, scores in zip(found, products + sides["constants"].numpy(), strict=True):
        for row, score in zip(rows, scores, strict=True):
            print(f"{score:8.4f}  {keys[row]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
