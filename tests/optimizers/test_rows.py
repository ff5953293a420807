"""What `Adagrad` and `LazyAdam` share, against plain loops over rows."""

import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from fmlayers import Categorical, FeatureEmbedding, RatingScaler
from fmlayers.data import synthetic
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.optimizers._rows import MAX_DENSE_ROWS, ROWS_PER_ID

DIM, BATCH, RATE = 3, 8, 0.1
ELEMENTWISE = [
    (Adagrad, {"initial_accumulator_value": 0.01}),
    (LazyAdam, {"beta_1": 0.8, "beta_2": 0.9}),
    (LazyAdam, {"beta_1": 0.8, "beta_2": 0.9, "amsgrad": True}),
]
OPTIMIZERS = [
    *ELEMENTWISE,
    (Adagrad, {"initial_accumulator_value": 0.01, "row_wise": True}),
    (LazyAdam, {"beta_1": 0.8, "beta_2": 0.9, "amsgrad": True, "row_wise": True}),
]
STOCK = {Adagrad: keras.optimizers.Adagrad, LazyAdam: keras.optimizers.Adam}

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="rows are TensorFlow's alone"
)


class Reference:
    """The steps of one table in loops over its rows, in float64."""

    def __init__(self, optimizer, table):
        self.config = optimizer.get_config()
        self.table = table.astype("float64")
        start = self.config.get("initial_accumulator_value", 0.0)
        self.slots = np.full((3, *table.shape), start)
        self.steps = 0

    def square(self, gradient):
        square = gradient**2
        return square.mean() if self.config["row_wise"] else square

    def gradients(self, ids, target):
        found = {}
        for i, y in zip(ids, target, strict=True):
            gradient = 2.0 * (self.table[i] - y) / target.size
            found[i] = found.get(i, 0.0) + gradient
        return found

    def clipped(self, found):
        if self.config["clipvalue"]:
            bound = self.config["clipvalue"]
            return {i: np.clip(g, -bound, bound) for i, g in found.items()}
        bound = self.config["clipnorm"] or self.config["global_clipnorm"]
        if not bound:
            return found
        norm = np.sqrt(sum((g**2).sum() for g in found.values()))
        return {i: g * min(1.0, bound / norm) for i, g in found.items()}

    def step(self, ids, target):
        self.apply(self.gradients(ids, target))

    def apply(self, found):
        self.steps += 1
        for i, gradient in self.clipped(found).items():
            self.table[i] *= 1.0 - RATE * (self.config["weight_decay"] or 0.0)
            if "beta_1" in self.config:
                self.table[i] -= self.adam(i, gradient)
            else:
                self.slots[0, i] += self.square(gradient)
                root = np.sqrt(self.slots[0, i] + self.config["epsilon"])
                self.table[i] -= RATE * gradient / root

    def adam(self, i, gradient):
        b1, b2 = self.config["beta_1"], self.config["beta_2"]
        m, v, highest = self.slots[:, i]
        m += (1 - b1) * (gradient - m)
        v += (1 - b2) * (self.square(gradient) - v)
        highest[:] = np.maximum(highest, v)
        scale = highest if self.config["amsgrad"] else v
        rate = RATE * np.sqrt(1 - b2**self.steps) / (1 - b1**self.steps)
        return rate * m / (np.sqrt(scale) + self.config["epsilon"])


def make(optimizer, rows, **compiled):
    layer = FeatureEmbedding(
        [Categorical("user", rows)], DIM, embeddings_initializer="random_normal"
    )
    inputs = {"user": keras.Input((), dtype="int32", name="user")}
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer, loss="mse", **compiled)
    return model


def batches(rng, steps=5):
    """Yield ids with duplicates; step 0 lacks two of those that follow."""
    for step in range(steps):
        ids = rng.integers(0, 6 if step else 4, size=BATCH)
        yield ids, rng.normal(size=(BATCH, 1, DIM)).astype("float32")


def check(model, reference, rng):
    for ids, target in batches(rng):
        model.train_on_batch({"user": ids}, target)
        reference.step(ids, target[:, 0])
    found = model.get_weights()[0]
    np.testing.assert_allclose(found, reference.table, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clipnorm": 0.1},
        {"clipvalue": 0.02},
        {"global_clipnorm": 0.1},
        {"weight_decay": 0.5},
        {"loss_scale_factor": 128.0},
        {"loss_scale_factor": 128.0, "clipnorm": 0.1, "weight_decay": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_steps_as_loops_over_rows(kind, own, options, rows, jit_compile, rng, backend):
    if backend != "tensorflow" and (kind is LazyAdam or "weight_decay" in options):
        pytest.skip("the backend steps and decays whole tables")
    if backend == "torch" and jit_compile:
        pytest.skip("torch.compile is checked by check_layer and test_torch_compile.py")
    optimizer = kind(RATE, **own, **options)
    model = make(optimizer, rows, jit_compile=jit_compile)
    check(model, Reference(optimizer, model.get_weights()[0]), rng)
    assert optimizer.loss_scale_factor == options.get("loss_scale_factor")


@on_tensorflow
@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_many_steps_per_execution_with_a_schedule(kind, own, rows, rng):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [RATE, 2 * RATE])
    optimizer = kind(schedule, **own)
    model = make(optimizer, rows, steps_per_execution=2)
    single = make(kind(schedule, **own), rows)
    single.set_weights(model.get_weights())
    ids, target = (np.concatenate(x) for x in zip(*batches(rng, 6), strict=True))
    model.fit({"user": ids}, target, batch_size=BATCH, shuffle=False, verbose=0)
    before = single.get_weights()[0]
    single.fit({"user": ids}, target, batch_size=BATCH, shuffle=False, verbose=0)
    assert np.abs(before - single.get_weights()[0]).max() > RATE
    np.testing.assert_allclose(
        model.get_weights()[0], single.get_weights()[0], rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
@on_tensorflow
def test_two_replicas_step_as_one():
    """In a process of its own, which has two CPUs from its start."""
    script = Path(__file__).with_name("two_replicas.py")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "Adagrad LazyAdam "


@on_tensorflow
@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
def test_lazy_adam_is_adam_where_each_batch_has_every_row(rows, rng):
    lazy, dense = (make(kind(RATE), rows) for kind in (LazyAdam, keras.optimizers.Adam))
    dense.set_weights(lazy.get_weights())
    for _ in range(3):
        # Each once: Keras' Adam sums the squares of duplicates, not their sum's.
        ids = rng.permutation(rows)
        target = rng.normal(size=(len(ids), 1, DIM)).astype("float32") * 100
        for model in (lazy, dense):
            model.train_on_batch({"user": ids}, target)
    np.testing.assert_allclose(
        lazy.get_weights()[0], dense.get_weights()[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
def test_lazy_adam_is_adam_on_the_first_step(rows, rng):
    lazy, dense = (make(kind(RATE), rows) for kind in (LazyAdam, keras.optimizers.Adam))
    dense.set_weights(lazy.get_weights())
    ids = rng.permutation(rows)[:5]
    target = rng.normal(size=(5, 1, DIM)).astype("float32")
    for model in (lazy, dense):
        model.train_on_batch({"user": ids}, target)
    np.testing.assert_allclose(
        lazy.get_weights()[0], dense.get_weights()[0], rtol=1e-4, atol=1e-6
    )


@on_tensorflow
@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_inside_a_loss_scale_optimizer(kind, own, rows, rng):
    inner = kind(RATE, **own, clipnorm=0.1)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    model = make(scaled, rows)
    check(model, Reference(inner, model.get_weights()[0]), rng)


@on_tensorflow
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_a_saved_model_steps_on_as_if_never_saved(kind, own, tmp_path, rng):
    """Without the scratch, which is as long as the table."""
    model = make(kind(RATE, **own), MAX_DENSE_ROWS + 1)
    steps = list(batches(rng))
    for ids, target in steps[:2]:
        model.train_on_batch({"user": ids}, target)
    model.save(tmp_path / "model.keras")
    slots = 1 if kind is Adagrad else 2 + own.get("amsgrad", False)
    assert len(model.optimizer.variables) == 2 + slots  # step, rate
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        for ids, target in steps[2:]:
            each.train_on_batch({"user": ids}, target)
    np.testing.assert_allclose(
        loaded.get_weights()[0], model.get_weights()[0], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(("kind", "own"), ELEMENTWISE, ids=str)
def test_variables_used_as_a_whole_take_kerass_step(kind, own, rng):
    models = []
    for each in (kind, STOCK[kind]):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(each(RATE, weight_decay=0.1, **own), loss="mse")
        models.append(model)
    models[1].set_weights(models[0].get_weights())
    for _ in range(3):
        x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
        for model in models:
            model.train_on_batch(x, y)
    for mine, kerass in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(mine, kerass, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_is_restored_by_its_name(kind, own):
    optimizer = kind(RATE, **own, clipnorm=1.0, weight_decay=0.1)
    clone = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(clone) is kind
    assert clone.get_config() == optimizer.get_config()


@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_an_average_of_weights_is_refused(kind, own):
    with pytest.raises(ValueError, match="`use_ema` must be False.*use_ema=True"):
        kind(RATE, **own, use_ema=True)


@on_tensorflow
@pytest.mark.parametrize(("kind", "own"), OPTIMIZERS, ids=str)
def test_accumulated_gradients_are_those_of_one_batch(kind, own, rng):
    """Two halves of a batch, accumulated, step as the whole."""
    whole = make(kind(RATE, **own), MAX_DENSE_ROWS + 1)
    halves = make(kind(RATE, **own, gradient_accumulation_steps=2), MAX_DENSE_ROWS + 1)
    halves.set_weights(whole.get_weights())
    ids, target = next(batches(rng))
    whole.train_on_batch({"user": ids}, target)
    for half in (slice(0, 4), slice(4, 8)):
        halves.train_on_batch({"user": ids[half]}, target[half])
    np.testing.assert_allclose(
        whole.get_weights()[0], halves.get_weights()[0], rtol=1e-4, atol=1e-6
    )


DTYPES = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-19, "float64": 2**-20}
SETTINGS = [
    {},
    {"weight_decay": 0.5},
    {"clipnorm": 2.0},
    {"clipvalue": 0.75},
    {"global_clipnorm": 2.0},
    {"loss_scale_factor": 128.0},
    {"epsilon": 1e-9},
    {"loss_scale_factor": 128.0, "global_clipnorm": 2.0, "weight_decay": 0.5},
]
BY_DTYPE = [
    (Adagrad, {"initial_accumulator_value": 0.0}),
    (LazyAdam, {}),  # 0.999 is 1 in bfloat16
    (LazyAdam, {"amsgrad": True}),
    (LazyAdam, {"row_wise": True}),
]


def in_float64(x):
    """Return a tensor as an array; JAX has no float64, and NumPy no bfloat16."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        x = ops.cast(x, "float32")
    return ops.convert_to_numpy(x).astype("float64")


def check_steps(optimizer, variable, apply, rows, rng):
    """Checks two steps; `rows` of None stands for gradients of the whole variable."""
    reference = Reference(optimizer, in_float64(variable))
    dtype = keras.backend.standardize_dtype(variable.dtype)
    signs = rng.choice([-1.0, 1.0], size=variable.shape)
    signs[2] = 0.0
    options = optimizer.get_config()
    scale = options["loss_scale_factor"] or 1.0
    clips = (options[name] for name in ("clipnorm", "clipvalue", "global_clipnorm"))
    size = 128.0 if scale > 1 or any(clips) else 1.0  # its square is none of float16
    for ids in ([0, 1, 1, 2, 3], [1, 0, 2, 0, 4]):
        ids = np.array(ids if rows else range(len(signs)))
        gradients = rng.uniform(0.5, 1.5, (len(ids), DIM)) * signs[ids] * size
        gradients = ops.cast(ops.convert_to_tensor(gradients), dtype)
        apply(gradients, ids)
        found = {}
        exact = in_float64(gradients) / scale
        for i, gradient in zip(ids, exact, strict=True):
            found[i] = found.get(i, 0.0) + gradient
        reference.apply(found)
    found = in_float64(variable)
    # Each number is rounded when it is stored.
    np.testing.assert_allclose(found, reference.table, atol=8 * DTYPES[dtype], rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize(("kind", "own"), BY_DTYPE, ids=str)
def test_steps_of_whole_variables_of_any_dtype(kind, own, options, dtype, rng, backend):
    if backend == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 by default")
    optimizer = kind(RATE, **own, **options)
    variable = keras.Variable(np.ones((5, DIM)), dtype=dtype)
    optimizer.build([variable])
    check_steps(
        optimizer,
        variable,
        lambda gradients, _: optimizer.apply([gradients], [variable]),
        None,
        rng,
    )


def check_steps_of_rows(kind, own, options, rows, dtype, rng, wrap=lambda f: f):
    import tensorflow as tf

    optimizer = kind(RATE, **own, **options)
    variable = keras.Variable(np.ones((rows, DIM)), dtype=dtype)
    optimizer.build([variable])

    @wrap
    def apply(gradients, ids):
        slices = tf.IndexedSlices(gradients, ids, tf.constant([rows, DIM], tf.int64))
        optimizer.apply([slices], [variable])

    check_steps(optimizer, variable, apply, rows, rng)


@functools.cache
def xla_has_float16():
    """Return whether XLA compiles float16 at all; without F16C it does not."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def halve(x):
        return tf.cast(tf.cast(x, "float16") / 2, "float32")

    try:
        return float(halve(tf.constant(3.0))) == 1.5
    except tf.errors.InternalError:
        return False


@on_tensorflow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize(("kind", "own"), BY_DTYPE, ids=str)
def test_steps_of_rows_of_any_dtype(kind, own, options, rows, dtype, rng):
    check_steps_of_rows(kind, own, options, rows, dtype, rng)


@on_tensorflow
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [7, MAX_DENSE_ROWS + 1])
@pytest.mark.parametrize(("kind", "own"), BY_DTYPE, ids=str)
def test_compiled_steps_of_rows_of_any_dtype(kind, own, rows, dtype, jit_compile, rng):
    import tensorflow as tf

    if jit_compile and dtype == "float16" and not xla_has_float16():
        pytest.skip("XLA compiles no float16 for this processor")
    check_steps_of_rows(
        kind,
        own,
        SETTINGS[-1],
        rows,
        dtype,
        rng,
        lambda apply: tf.function(apply, jit_compile=jit_compile),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_a_model_of_any_dtype_trains_with_all_settings(kind, dtype, rng, backend):
    if backend == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 by default")
    features = [Categorical(name, 7) for name in ("user", "film")]
    model = FactorizationMachine(features, DIM, l2=0.0, linear_l2=0.0, dtype=dtype)
    settings = {"weight_decay": 0.01, "clipnorm": 5.0}
    model.compile(kind(RATE, **settings), loss="mse", jit_compile=False)
    ids = {name: rng.integers(0, 7, 64) for name in ("user", "film")}
    ratings = np.where(ids["user"] > 3, 1.0, -1.0)
    history = model.fit(ids, ratings, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.1
    assert all(np.isfinite(ops.convert_to_numpy(w)).all() for w in model.weights)


@pytest.mark.parametrize(("kind", "stock"), STOCK.items())
def test_defaults_are_the_documented(kind, stock):
    optimizer = kind()
    arguments = re.findall(
        r"^ {4}(\w+): (.*?)(?=^ {4}\S|^\S|\Z)",
        inspect.cleandoc(kind.__doc__),
        re.S | re.M,
    )
    documented = {
        name: float(value)
        for name, text in arguments
        for value in re.findall(r"Defaults\s+to\s+([-\de.]*\d)", text)
    }
    assert "learning_rate" in documented
    for name, value in documented.items():
        assert optimizer.get_config()[name] == pytest.approx(value)
    changed = {"learning_rate", "initial_accumulator_value", "name"}
    mine, kerass = optimizer.get_config(), stock().get_config()
    assert {n for n in mine if mine[n] != kerass.get(n, False)} <= changed


@pytest.mark.parametrize("batch_size", [32, pytest.param(1024, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_the_defaults_train(kind, batch_size, rng):
    """As they are, in few steps, to clearly better than the mean."""
    dataset = synthetic(num_users=200, num_items=100, num_ratings=8192)
    table = dataset.ratings
    ids = {name: table[name].to_numpy() for name in ("user", "item")}
    ratings = table["rating"].to_numpy("float32")
    features = [Categorical("user", 201), Categorical("item", 101)]
    model = FactorizationMachine(
        features,
        8,
        RatingScaler(1, 5),
        l2=0.0,
        linear_l2=0.0,
    )
    model.compile(kind(), loss="mse")
    epochs = 3 if batch_size == 32 else 20
    model.fit(ids, ratings, batch_size=batch_size, epochs=epochs, verbose=0)
    error = model.evaluate(ids, ratings, verbose=0, batch_size=8192)
    assert error < 0.81 * ratings.var()


@on_tensorflow
@pytest.mark.parametrize(("rows", "is_sparse"), [(16, False), (17, True)])
def test_a_table_with_few_rows_per_id_has_a_dense_step_in_xla(rows, is_sparse):
    import tensorflow as tf

    optimizer = Adagrad()
    table = keras.Variable(np.zeros((rows, DIM), "float32"))
    optimizer.build([table])

    def step(ids, values):
        optimizer.apply([tf.IndexedSlices(values, ids, table.shape)], [table])

    def kinds(jit_compile):
        arguments = tf.zeros(BATCH, "int64"), tf.ones((BATCH, DIM))
        function = tf.function(step, jit_compile=jit_compile)
        graph = function.get_concrete_function(*arguments).graph
        return [op.type for op in graph.get_operations()]

    assert ("ResourceScatterAdd" in kinds(True)) == is_sparse
    assert "ResourceScatterUpdate" in kinds(False)


@on_tensorflow
@pytest.mark.parametrize("rows", [7, 100, MAX_DENSE_ROWS + 1])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_of_batches_of_unknown_size(rows, jit_compile, rng):
    import tensorflow as tf

    optimizer = LazyAdam(RATE)
    model = make(optimizer, rows, jit_compile=jit_compile)
    reference = Reference(optimizer, model.get_weights()[0])
    steps = list(batches(rng))
    for ids, target in steps:
        reference.step(ids, target[:, 0])
    ids, targets = map(np.concatenate, zip(*steps, strict=True))
    data = tf.data.Dataset.from_tensor_slices(({"user": ids}, targets)).batch(BATCH)
    assert data.element_spec[1].shape[0] is None
    model.fit(data, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        model.get_weights()[0], reference.table, rtol=2e-4, atol=2e-6
    )


@pytest.mark.parametrize("rows", [1, ROWS_PER_ID, ROWS_PER_ID + 1])
@pytest.mark.parametrize("make_optimizer", [LazyAdam, Adagrad])
def test_steps_of_tables_with_few_rows(rows, make_optimizer):
    """The last batch is smaller, so that the number of ids is unknown."""
    inputs = keras.Input((), dtype="int32")
    outputs = keras.layers.Embedding(rows, 1)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(make_optimizer(0.1), loss="mse")
    model.get_layer(index=1).set_weights([np.zeros((rows, 1))])
    ids = np.arange(11) % rows
    model.fit(ids, ids + 1.0, batch_size=4, epochs=40, shuffle=False, verbose=0)
    (table,) = model.get_layer(index=1).get_weights()
    assert (table > 0.2).all()


@on_tensorflow
def test_a_batch_may_have_more_ids_than_integers_in_float32():
    import tensorflow as tf

    optimizer = Adagrad()
    table = keras.Variable(np.zeros((9, 1), "float32"))
    optimizer.build([table])
    places = np.arange(2**24 - 1, 2**24 + 4)
    ids = np.zeros(places[-1] + 1, "int32")
    ids[places] = [1, 2, 3, 4, 3]
    found = optimizer._representatives(tf.constant(ids), table).numpy()[places]
    np.testing.assert_array_equal(found[[0, 1, 3]], places[[0, 1, 3]])
    assert found[2] == found[4] in places[[2, 4]]
