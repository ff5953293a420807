from collections.abc import Mapping

import numpy as np
from keras import ops

from fmlayers.bayes.chain import Sample
from fmlayers.bayes.designs import Field, Floats
from fmlayers.bayes.products import Products


class Scores:
    """Computes the scores of the same examples for many samples.

    Args:
        fields: Dict from the name of a feature to its field over the examples.
    """

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = {
            name: (field.index, field.design.num_rows, Products.of(field.design))
            for name, field in fields.items()
        }

    def __call__(self, sample: Sample) -> Floats:
        """Returns the scores of a sample, `(examples,)`."""
        parts = []
        for name, (index, rows, products) in self._fields.items():
            field = ops.convert_to_numpy(products.forth(sample.tables[name], rows))
            norms = np.sum(field[:, 1:] ** 2, axis=1, keepdims=True)
            parts.append(np.concatenate([field, norms], axis=1)[index])
        total = np.sum(parts, axis=0)
        first, vectors, squares = total[:, 0], total[:, 1:-1], total[:, -1]
        pairs = np.sum(vectors**2, axis=1) - squares
        scores: Floats = (sample.bias + first + 0.5 * pairs).astype(np.float32)
        return scores
