"""Folds all fields of a key into one row per key.

The contribution of the fields f of a block to the score is, if s is the sum of the
vectors of the other blocks:

    sum_f w_f + sum_{f<g} <v_f, v_g> + <sum_f v_f, s>

For a known key, this is a constant and a vector: a row of a table of the key alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from keras import ops

from fmlayers.bayes.blocks import Block
from fmlayers.bayes.posterior import MeanScore
from fmlayers.bayes.priors import Matrix
from fmlayers.bayes.products import Products
from fmlayers.features import Categorical, Feature


def collapsed(
    mean: MeanScore, features: Sequence[Feature], blocks: Sequence[Block]
) -> tuple[list[Feature], MeanScore]:
    """Returns the features and the score with one field per block.

    The scores of examples with known keys stay the same. For an unknown key, the fields
    other than the key itself have their mean over the known keys.

    Args:
        mean: The score over all fields.
        features: List of all features.
        blocks: The blocks of the fields.
    """
    by_name = {feature.name: feature for feature in features}
    kept: list[Feature] = []
    linear, vectors = {}, {}
    for block in blocks:
        name, feature = block.root, by_name[block.root]
        linear[name], vectors[name] = mean.linear[name], mean.vectors[name]
        if len(block.designs) > 1:
            assert isinstance(feature, Categorical)
            table = _folded(mean, block, feature).astype(np.float32)
            linear[name], vectors[name] = table[:, 0], table[:, 1:]
            # The other fields of a missing key are not missing.
            feature = replace(feature, mask_zero=False)
        kept.append(feature)
    return kept, MeanScore(mean.bias, linear, vectors)


def _folded(mean: MeanScore, block: Block, feature: Categorical) -> Matrix:
    """Returns the table of a key, `(rows, dim + 1)`, with all fields of its block."""
    tables = mean.tables
    first = tables[block.root]
    if feature.mask_zero:
        first[0] = 0.0
    parts = []
    for name, design in block.designs.items():
        if name != block.root:
            part = Products.of(design).forth(tables[name], design.num_rows)
            parts.append(np.asarray(ops.convert_to_numpy(part), np.float64))
    rest = np.sum(parts, axis=0)
    squares = sum(np.sum(part[:, 1:] ** 2, axis=1) for part in parts)
    rest[:, 0] += 0.5 * (np.sum(rest[:, 1:] ** 2, axis=1) - squares)
    rows = np.tile(rest.mean(axis=0), (len(first), 1))
    rows[block.ids_of_keys] = rest
    rows[:, 0] += np.sum(first[:, 1:] * rows[:, 1:], axis=1)
    return np.asarray(first + rows, np.float64)
