from collections.abc import Mapping, Sequence

import numpy as np
from keras import ops

from fmlayers._backend import compiled
from fmlayers._types import Tensor
from fmlayers.bayes.chain import Sample
from fmlayers.bayes.designs import Field, Floats
from fmlayers.bayes.products import Products

MAX_EXAMPLES = 10_000  # from which the mean variance is estimated


class Scores:
    """Computes the scores of the same examples for many samples.

    Args:
        fields: Dict from the name of a feature to its field over the examples.
    """

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._rows = {name: field.design.num_rows for name, field in fields.items()}
        self._products = {n: Products.of(field.design) for n, field in fields.items()}
        self._index = {
            name: ops.convert_to_tensor(field.index, "int32")
            for name, field in fields.items()
        }
        self._compiled = compiled(self._scores)

    def __call__(self, sample: Sample) -> Floats:
        """Returns the scores of a sample, `(examples,)`."""
        tables = {
            name: ops.convert_to_tensor(sample.tables[name]) for name in self._rows
        }
        scores = self._compiled(tables, self._products, self._index)
        return np.asarray(ops.convert_to_numpy(scores) + np.float32(sample.bias), "f4")

    def _scores(
        self,
        tables: Mapping[str, Tensor],
        products: Mapping[str, Products],
        index: Mapping[str, Tensor],
    ) -> Tensor:
        total: Tensor = 0.0
        for name, rows in self._rows.items():
            field = products[name].forth(tables[name], rows)
            norms = ops.sum(field[:, 1:] ** 2, axis=1, keepdims=True)
            extended = ops.concatenate([field, norms], axis=1)
            total = total + ops.take(extended, index[name], axis=0)
        pairs = ops.sum(total[:, 1:-1] ** 2, axis=1) - total[:, -1]
        return total[:, 0] + 0.5 * pairs


def mean_variance(fields: Mapping[str, Field], samples: Sequence[Sample]) -> float:
    """Returns the mean over some examples of the variances of their scores.

    Args:
        fields: Dict from the name of a feature to its field over the examples.
        samples: List of samples.
    """
    count = len(next(iter(fields.values())).index)
    chosen = np.arange(0, count, -(-count // MAX_EXAMPLES))
    scores = Scores({name: field.rows(chosen) for name, field in fields.items()})
    drawn = [scores(sample) for sample in samples]
    return float(np.var(drawn, axis=0).mean())
