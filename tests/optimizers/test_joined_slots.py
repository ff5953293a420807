"""Optimizers read files with slots for each table, as of version 0.1.0."""

import numpy as np
import pytest
from keras import ops

from fmlayers import Categorical, Numeric
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad, LazyAdam

FEATURES = [
    Categorical("user", 5),
    Numeric("age"),
    Categorical("item", 4),
    Numeric("year", use_bias=True),
]


def optimizer_of(make):
    model = FactorizationMachine(FEATURES, 3)
    model.compile(make())
    model.optimizer.build(model.trainable_variables)
    return model.optimizer


def separate(optimizer):
    """Returns the arrays of the optimizer as version 0.1.0 saved them."""
    numbers = [ops.convert_to_numpy(v) for v in optimizer.variables]
    kinds = (len(numbers) - 2) // 5
    slots = iter(numbers[2:])
    each = [[next(slots) for _ in range(kinds)] for _ in range(5)]
    arrays = []
    # The bias, and then the weights of the vectors and of the first order.
    owners = [each[0]]
    arrays += owners[0]
    for tables, vectors in (each[1:3], each[3:5]):
        arrays += [table[:6] for table in tables]
        arrays += [vector[0] for vector in vectors]
        arrays += [table[6:] for table in tables]
        arrays += [vector[1] for vector in vectors]
        arrays += [vector[2] for vector in vectors]
    return {str(i): array for i, array in enumerate([*numbers[:2], *arrays])}


@pytest.mark.parametrize("make", [Adagrad, LazyAdam])
def test_slots_of_separate_tables_are_joined(make, rng):
    saved = optimizer_of(make)
    for variable in saved.variables[2:]:
        variable.assign(rng.normal(size=variable.shape))
    store = separate(saved)
    assert len(store) == 2 + (1 + 2 * 5) * (1 if make is Adagrad else 2)
    loaded = optimizer_of(make)
    loaded.load_own_variables(store)
    for mine, theirs in zip(loaded.variables, saved.variables, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs)
        )


def test_files_of_other_models_are_skipped_with_a_warning(rng):
    saved = optimizer_of(Adagrad)
    store = separate(saved)
    wrong = {**store, "3": np.zeros((7, 3), "float32")}
    del store[str(len(store) - 1)]
    for each in (store, wrong):
        with pytest.warns(UserWarning, match="Skipping variable loading"):
            optimizer_of(Adagrad).load_own_variables(each)
