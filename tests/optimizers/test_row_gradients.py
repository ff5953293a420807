"""Steps of whole models by rows; on JAX, without gradients of whole tables."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from fmlayers import Categorical, History, MultiCategorical, Numeric
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    NeuralMatrixFactorization,
)
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.optimizers._rows import MAX_DENSE_ROWS
from tests.optimizers.test_rows import BATCH, RATE, Reference

LARGE = MAX_DENSE_ROWS + 5
L2, LINEAR_L2 = 0.3, 0.2
OPTIMIZERS = [
    (kind, {"row_wise": row_wise, **options})
    for kind, options in (
        (Adagrad, {"initial_accumulator_value": 0.01}),
        (LazyAdam, {"beta_1": 0.8, "beta_2": 0.9}),
        (LazyAdam, {"beta_1": 0.8, "beta_2": 0.9, "amsgrad": True}),
    )
    for row_wise in (False, True)
]

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="compares with Keras' step on JAX"
)
pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch has gradients of whole tables"
)


def batch(rng, users=6):
    """Returns ids with duplicates, ratings and weights."""
    ids = {"user": rng.integers(0, users, BATCH), "item": rng.integers(0, 6, BATCH)}
    return ids, rng.normal(size=BATCH).astype("float32"), rng.uniform(0.5, 2, BATCH)


def as_table(variable):
    """Returns a table as an array, and a bias as a table of one row."""
    return np.atleast_2d(ops.convert_to_numpy(variable)).astype("float64")


class Machine:
    """A factorization machine of two fields in loops over examples, in float64."""

    def __init__(self, model):
        self.variables = {("bias", "bias"): model.bias}
        for name, layer in (("factors", model.factors), ("linear", model.linear)):
            for table, variable in layer.tables.items():
                self.variables[name, table] = variable
        self.tables = {
            key: Reference(model.optimizer, as_table(variable))
            for key, variable in self.variables.items()
        }

    def step(self, ids, ratings, weights):
        gradients = {key: {} for key in self.tables}
        ids = {**ids, "bias": np.zeros(len(ratings), int)}
        for n in range(len(ratings)):
            rows = {key: ids[key[1]][n] for key in self.tables}
            values = {key: self.tables[key].table[i] for key, i in rows.items()}
            user, item = values["factors", "user"], values["factors", "item"]
            linear = values["linear", "user"] + values["linear", "item"]
            linear = linear + values["bias", "bias"]
            error = 2 * weights[n] * (user @ item + linear - ratings[n])
            pulls = {
                ("factors", "user"): error * item + 2 * L2 * user,
                ("factors", "item"): error * user + 2 * L2 * item,
                ("linear", "user"): error + 2 * LINEAR_L2 * values["linear", "user"],
                ("linear", "item"): error + 2 * LINEAR_L2 * values["linear", "item"],
                ("bias", "bias"): error,
            }
            for key, pull in pulls.items():
                of_table, i = gradients[key], rows[key]
                of_table[i] = of_table.get(i, 0.0) + pull / len(ratings)
        norm = sum((g**2).sum() for rows in gradients.values() for g in rows.values())
        for key, of_table in gradients.items():
            reference = self.tables[key]
            bound = reference.config["global_clipnorm"]
            if bound:
                scale = min(1.0, bound / np.sqrt(norm))
                of_table = {i: g * scale for i, g in of_table.items()}
            reference.apply(of_table)


def check_machine(model, rng):
    """Compares some steps of a compiled model with those of a `Machine`."""
    model.build()
    for layer in (model.factors, model.linear):
        for table in layer.tables.values():
            table.assign(rng.normal(0.0, 0.3, table.shape))
    reference = Machine(model)
    for _ in range(4):
        ids, ratings, weights = batch(rng)
        model.train_on_batch(ids, ratings, sample_weight=weights)
        reference.step(ids, ratings, weights)
    for key, variable in reference.variables.items():
        expected = reference.tables[key].table
        np.testing.assert_allclose(as_table(variable), expected, rtol=3e-4, atol=3e-6)


@pytest.mark.parametrize("rows", [7, LARGE])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"weight_decay": 0.5, "loss_scale_factor": 128.0, "global_clipnorm": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_a_machine_steps_as_loops_over_rows(kind, own, options, rows, rng):
    features = [Categorical("user", rows), Categorical("item", 6)]
    model = FactorizationMachine(features, 3, l2=L2, linear_l2=LINEAR_L2)
    model.compile(kind(RATE, **own, **options), loss="mse", weighted_metrics=["mae"])
    check_machine(model, rng)


def many_features(rows):
    return [
        Categorical("user", rows),
        Categorical("item", rows),
        MultiCategorical("seen", rows, table="item"),
        Numeric("age"),
    ]


def many_inputs(rng, rows, size=24):
    """Returns a batch whose ids repeat within columns and among them."""
    return {
        "user": rng.integers(-1, 5, size),
        "item": rng.integers(0, 5, size),
        "seen": rng.integers(0, 4, (size, 3)),
        "age": rng.normal(size=size).astype("float32"),
        "key": rng.integers(0, 4, size),
    }


def factorization_machine(rows, **options):
    return FactorizationMachine(many_features(rows), 3, **options)


def with_history(rows):
    """Reads the table of the items as a whole, too."""
    history = History(
        "liked", rows, table="item", of="key", num_keys=4, values="item", num_pairs=5
    )
    model = FactorizationMachine([*many_features(rows), history], 3)
    model.set_history("liked", [0, 0, 1, 2, 2], [1, 2, 3, 1, 4])
    return model


MODELS = {
    "machine": factorization_machine,
    "zero": functools.partial(factorization_machine, out_of_range="zero"),
    "deep": lambda rows: DeepFM(many_features(rows), 3, hidden_units=[4]),
    "neumf": lambda rows: NeuralMatrixFactorization(
        *many_features(rows)[:2], 3, hidden_units=[4]
    ),
    "ensemble": lambda rows: Ensemble.of(2, lambda: factorization_machine(rows)),
    "history": with_history,
}


def inputs_of(model, inputs):
    names = {entry.name for f in model.features for entry in f.entries}
    return {name: x for name, x in inputs.items() if name in names}


@pytest.mark.slow
@on_jax
@pytest.mark.parametrize("rows", [6, LARGE])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_steps_as_with_the_dense_gradients_of_keras(name, rows, rng):
    """Metrics and weights, where a gradient of zero changes nothing."""
    models, logs = [MODELS[name](rows) for _ in range(2)], []
    weights = [
        w if w.dtype.kind in "iu" else rng.normal(0.0, 0.3, w.shape)
        for w in models[0].get_weights()
    ]
    inputs = inputs_of(models[0], many_inputs(rng, rows))
    ratings = rng.normal(size=24).astype("float32")
    sample_weight = rng.uniform(0.5, 2.0, 24)
    for model, kind in zip(models, (Adagrad, keras.optimizers.Adagrad), strict=True):
        model.set_weights(weights)
        optimizer = kind(RATE, initial_accumulator_value=0.01)
        model.compile(optimizer, loss="mse", weighted_metrics=["mae"])
        history = model.fit(
            inputs,
            ratings,
            sample_weight=sample_weight,
            batch_size=8,
            epochs=2,
            shuffle=False,
            verbose=0,
        )
        logs.append(history.history)
    for key, values in logs[1].items():
        np.testing.assert_allclose(logs[0][key], values, rtol=1e-4)
    for row_wise, dense in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(row_wise, dense, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [6, LARGE])
def test_rows_that_are_not_in_the_batch_stay(rows, rng):
    model = factorization_machine(rows)
    model.compile(LazyAdam(RATE, weight_decay=0.1), loss="mse")
    ratings = rng.normal(size=24).astype("float32")
    inputs = inputs_of(model, many_inputs(rng, rows))
    for _ in range(2):
        before = as_table(model.factors.tables["user"])
        model.train_on_batch(inputs, ratings)
        moved = (as_table(model.factors.tables["user"]) != before).any(axis=1)
        looked_up = np.where(inputs["user"] < 0, rows, inputs["user"])
        assert set(np.flatnonzero(moved)) == set(looked_up)
        inputs["user"] = np.full(24, 3)


def test_a_saved_model_steps_on_as_if_never_saved(tmp_path, rng):
    model = factorization_machine(LARGE)
    model.compile(LazyAdam(RATE, row_wise=True), loss="mse")
    ratings = rng.normal(size=24).astype("float32")
    inputs = inputs_of(model, many_inputs(rng, LARGE))
    model.fit(inputs, ratings, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(inputs, ratings, batch_size=8, shuffle=False, verbose=0)
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


@on_jax
def test_the_compiled_step_copies_no_table(rng):
    """The only arrays of its size are the tables and slots that the step updates."""
    import jax

    rows = 4 * LARGE
    model = factorization_machine(rows)
    model.compile(LazyAdam(RATE, row_wise=True), loss="mse")
    inputs = inputs_of(model, many_inputs(rng, rows))
    ratings = rng.normal(size=24).astype("float32")
    model.train_on_batch(inputs, ratings)
    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    step = jax.jit(model.train_step, donate_argnums=0)
    memory = step.lower(state, (inputs, ratings)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * rows


@on_jax
@pytest.mark.parametrize("rows", [40, 10_000])
def test_one_occurrence_represents_each_row(rows, rng):
    """By scratch space of the rows, and by a sort."""
    from fmlayers.optimizers._slices import MAX_SCRATCH_ROWS, representatives

    indices = rng.integers(0, 20, 30)
    assert (rows <= MAX_SCRATCH_ROWS * len(indices)) == (rows == 40)
    chosen = np.asarray(representatives(ops.convert_to_tensor(indices), rows))
    np.testing.assert_array_equal(indices[chosen], indices)
    np.testing.assert_array_equal(chosen[chosen], chosen)
    assert len(set(chosen)) == len(set(indices))
