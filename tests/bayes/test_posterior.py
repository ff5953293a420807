import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.bayes.blocks import find_blocks
from fmlayers.bayes.chain import Sample
from fmlayers.bayes.designs import fields_of
from fmlayers.bayes.draws import part_of
from fmlayers.bayes.posterior import PosteriorMean
from fmlayers.bayes.products import Products
from fmlayers.bayes.scores import Scores

USERS, ITEMS, DIM, SAMPLES = 9, 7, 3, 6


@pytest.mark.parametrize("max_dim", [8, 100])
def test_vectors_of_a_key_that_cancel_take_no_dimensions(rng, max_dim):
    """The sums over the fields of a user have rank 2, those of each field all ranks."""
    user, item = (x.ravel() for x in np.indices((USERS, ITEMS)))
    inputs = {"user": user, "item": item, "age": user % 3}
    sizes = {"user": USERS, "item": ITEMS, "age": 3}
    features = [fmlayers.Categorical(name, size) for name, size in sizes.items()]
    fields = fields_of(features, inputs, {})
    blocks = find_blocks(features, fields)
    assert [list(block.designs) for block in blocks] == [["user", "age"], ["item"]]
    designs = {n: x for block in blocks for n, x in block.designs.items()}
    mean, scores = PosteriorMean(blocks, max_dim), Scores(fields)
    bases = {"user": rng.normal(size=(USERS, 2)), "item": rng.normal(size=(ITEMS, 2))}
    expected = []
    for _ in range(SAMPLES):
        mixing, shift = rng.normal(size=(2, DIM)), 5.0 * rng.normal(size=(3, DIM))
        vectors = {
            "user": bases["user"] @ mixing + shift[np.arange(USERS) % 3],
            "age": -shift,
            "item": bases["item"] @ mixing,
        }
        tables = {}
        for name, x in vectors.items():
            rows = rng.normal(size=(sizes[name] + 1, DIM + 1)).astype("float32")
            rows[:-1, 1:] = x  # the last row is that of unknown ids
            tables[name] = rows
        sample = Sample(rng.normal(), 1.0, tables)
        parts = [
            Products.of(designs[name]).forth(ops.convert_to_tensor(tables[name]), USERS)
            for name in ("user", "age")
        ]
        constants, sums = map(ops.convert_to_numpy, part_of(parts))
        mean.add(sample, {"user": (constants, sums)})
        expected.append(scores(sample))
    for dim in (None, 4):
        found = mean.mean(blocks, dim)
        assert found.dim <= max_dim
        score = scores(Sample(found.bias, 1.0, found.tables))
        np.testing.assert_allclose(score, np.mean(expected, axis=0), atol=2e-4)
