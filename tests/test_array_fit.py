"""`fit` on arrays: what Keras does, with less overhead."""

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops

import fmlayers
from fmlayers._training import execution
from fmlayers.models import Ensemble, FactorizationMachine

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras trains on the others"
)
ROWS = 150
FEATURES = [fmlayers.Categorical("user", 9), fmlayers.Numeric("age")]


def data(rows=ROWS):
    rng = np.random.default_rng(1)
    inputs = {
        "user": rng.integers(0, 9, rows),
        "age": rng.normal(size=rows),
        "unused": rng.integers(0, 9, rows).astype("int8"),
    }
    return inputs, rng.integers(0, 2, rows)


def compiled(make=None, **options):
    keras.utils.set_random_seed(3)
    model = Product(FEATURES) if make is None else make()
    sgd = keras.optimizers.SGD(0.3)
    model.compile(**{"optimizer": sgd, "loss": "mse", "metrics": ["mae"], **options})
    return model


@keras.saving.register_keras_serializable("tests")
class Product(fmlayers.ScoringModel):
    """A small model, which Keras traces in no time."""

    def __init__(self, features, **kwargs):
        super().__init__(features, **kwargs)
        self.vectors = fmlayers.FeatureEmbedding(features, 2, l2=0.01)
        self.build()

    def score(self, inputs, training=None):
        return ops.sum(ops.prod(self.vectors(inputs), axis=1), axis=1, keepdims=True)


def functional():
    inputs = {feature.name: feature.keras_input() for feature in FEATURES}
    vectors = fmlayers.FeatureEmbedding(FEATURES, 3, l2=0.01)(inputs)
    return keras.Model(inputs, fmlayers.FMInteraction()(vectors))


def same(fit, arguments, make=None, **options):
    """Checks that `fit` gives the history and the weights of Keras' `fit`."""
    arguments = {"batch_size": 20, "verbose": 0, "shuffle": False, **arguments}
    histories, weights = [], []
    for each in (keras.Model.fit, fit):
        model = compiled(make, **options)
        histories.append(each(model, **arguments).history)
        weights.append(model.get_weights())
        # Nothing is left of how `fit` executed its steps.
        assert model.steps_per_execution == options.get("steps_per_execution", 1)
    expected, found = histories
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-6)
    for value, other in zip(*weights, strict=True):
        np.testing.assert_allclose(value, other, rtol=2e-4, atol=1e-5)


WEIGHTS = np.linspace(0.1, 2.0, ROWS)
VARIANTS = {
    "plain": {},
    "default_batch_size": {"batch_size": None},
    "whole_batches": {"batch_size": 30},
    "one_small_batch": {"batch_size": 1000},
    "weights": {"sample_weight": WEIGHTS},
    "class_weight": {"class_weight": {0: 0.3, 1: 2.0}},
    "missing_class_weight": {"class_weight": {1: 2.0}},
    "validation_split": {"validation_split": 0.25},
    "split_and_weights": {"validation_split": 0.25, "sample_weight": WEIGHTS},
    "split_and_class_weight": {"validation_split": 0.25, "class_weight": {1: 2.0}},
    "validation_data": {"validation_data": data(70)},
    "weighted_validation": {"validation_data": (*data(70), np.linspace(0, 3, 70))},
    "validation_batch_size": {
        "validation_data": data(70),
        "validation_batch_size": 50,
        "validation_freq": 2,
    },
    "validation_steps": {"validation_data": data(70), "validation_steps": 3},
    "steps_per_epoch": {"steps_per_epoch": 4},
    "steps_without_batch_size": {"steps_per_epoch": 4, "batch_size": None},
    "initial_epoch": {"initial_epoch": 1},
    "two_dimensional_targets": {"y": data()[1][:, None].astype("float64")},
    "series": {"y": pd.Series(data()[1])},
    "lists": {"validation_data": [*data(70)]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_results_are_those_of_keras(name):
    inputs, targets = data()
    arguments = {"x": inputs, "y": targets, "epochs": 2, **VARIANTS[name]}
    same(Product.fit, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
@pytest.mark.parametrize("batch_size", [20, 30])
def test_results_with_xla_are_those_of_keras(options, batch_size, monkeypatch):
    monkeypatch.setattr(execution, "MIN_XLA_NUMBERS", 0)
    traces: list[int | None] = []
    original = execution._where_full

    def counted(step, rows):
        def once(data):
            traces.append(data[1].shape[0])
            return step(data)

        return original(once, rows)

    monkeypatch.setattr(execution, "_where_full", counted)
    inputs, targets = data()
    arguments = {"x": inputs, "y": targets, "epochs": 2, "batch_size": batch_size}
    same(Product.fit, arguments, **options)
    # The last batch of 10 is not compiled, and the first one just once.
    whole = [30] if not options else []
    assert sorted(traces, key=str) == ([20, None] if batch_size == 20 else whole)


@pytest.mark.parametrize("make", [functional, lambda: Ensemble.of(2, member)])
def test_other_models(make):
    """Functional models and ensembles, which have a loss and outputs of their own."""
    inputs, targets = data()
    del inputs["unused"]
    same(fmlayers.fit, {"x": inputs, "y": targets, "epochs": 2}, make, metrics=[])


def test_a_sequential_model():
    x = np.linspace(-1.0, 1.0, 2 * ROWS, dtype="float32").reshape(-1, 2)

    def make():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.set_weights([np.ones((2, 1)), np.zeros(1)])
        return model

    arguments = {"x": x, "y": x[:, 0] ** 2, "epochs": 2}
    same(fmlayers.fit, arguments, make, metrics=["mae"])


def test_a_sequential_model_of_a_dict():
    inputs, targets = data()
    del inputs["unused"]

    def make():
        layers = fmlayers.FeatureEmbedding(FEATURES, 3), fmlayers.FMInteraction()
        model = keras.Sequential(layers)
        model(inputs)
        return model

    same(fmlayers.fit, {"x": inputs, "y": targets, "epochs": 2}, make)


def member():
    return FactorizationMachine(FEATURES, 3, l2=0.01)


def test_options_of_compile_are_kept():
    inputs, targets = data()
    for options in ({"steps_per_execution": 3}, {"run_eagerly": True}):
        same(Product.fit, {"x": inputs, "y": targets}, **options)


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches, self.losses = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)
        self.losses.append(float(logs["loss"]))


def test_callbacks_see_every_batch():
    inputs, targets = data()
    seen = []
    for fit in (keras.Model.fit, Product.fit):
        callback, lines = Batches(), []
        lambdas = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs, lines=lines: lines.append(batch)
        )
        callbacks = [callback, lambdas]
        fit(compiled(), inputs, targets, 20, 2, 0, callbacks, shuffle=False)
        seen.append((callback.batches, lines))
        losses = callback.losses
    assert seen[0] == seen[1] == ([*range(8)] * 2, [*range(8)] * 2)
    assert len(set(losses)) > 8


@pytest.mark.parametrize(
    ("callback", "sees"),
    [
        (Batches(), True),
        (keras.callbacks.TerminateOnNaN(), True),
        (keras.callbacks.LambdaCallback(on_train_batch_end=print), True),
        (keras.callbacks.LambdaCallback(on_epoch_end=print), False),
        (keras.callbacks.LambdaCallback(on_test_batch_end=print), True),
        (keras.callbacks.EarlyStopping(), False),
        (keras.callbacks.ModelCheckpoint("a.keras"), False),
        (keras.callbacks.ModelCheckpoint("a.keras", save_freq=3), True),
        (keras.callbacks.CallbackList([Batches()]), True),
        (keras.callbacks.CallbackList([], add_progbar=True), False),
    ],
)
def test_which_callbacks_see_batches(callback, sees):
    is_list = isinstance(callback, keras.callbacks.CallbackList)
    assert execution.sees_batches(callback if is_list else [callback]) is sees
    assert not execution.sees_batches(None)


def test_steps_are_executed_together():
    inputs, targets = data()
    executions = []

    class Counted(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            executions.append(self.model.steps_per_execution)

    compiled().fit(inputs, targets, 4, verbose=0, callbacks=[Counted()])
    compiled().fit(inputs, targets, 4, verbose=0, callbacks=[Counted(), Batches()])
    assert executions == [19, 1]  # of 38 steps
    assert execution.steps_per_execution(67) == 23
    assert execution.steps_per_execution(67, exact=True) == 1
    assert execution.steps_per_execution(60, exact=True) == 30


def test_the_order_of_the_rows():
    """Every row once per epoch, in another order each time, by the random seed."""
    seen = []

    class Recorder(Product):
        def train_step(self, data):
            import tensorflow as tf

            tf.numpy_function(lambda x: seen.extend(x.tolist()), [data[1]], [])
            return super().train_step(data)

    inputs, _ = data()
    targets = np.arange(ROWS)
    orders = []
    for seed in (1, 1, 2):
        model = compiled(lambda: Recorder(FEATURES), loss="mse")
        keras.utils.set_random_seed(seed)
        seen.clear()
        model.fit(inputs, targets, batch_size=20, epochs=2, verbose=0)
        orders.append(np.array(seen).reshape(2, ROWS))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), [targets, targets])
        assert np.any(order[0] != order[1])
    np.testing.assert_array_equal(orders[0], orders[1])
    assert np.any(orders[0] != orders[2])


def test_what_it_does_not_understand_is_left_to_keras():
    import tensorflow as tf

    inputs, targets = data()
    del inputs["unused"]
    dataset = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(20)
    for arguments in (
        {"x": dataset, "batch_size": None},
        {"x": inputs, "y": targets, "validation_data": dataset},
    ):
        same(Product.fit, arguments)
    model = compiled()
    model.fit(inputs, targets, batch_size=20, shuffle="batch", verbose=0)
    with pytest.raises(ValueError, match="cardinality"):
        model.fit(inputs, targets[:-1], verbose=0)
    with pytest.raises(ValueError, match="class_weight"):
        model.fit(
            inputs, targets, class_weight={1: 2.0}, sample_weight=WEIGHTS, verbose=0
        )
    with pytest.raises(ValueError, match="validation_split"):
        model.fit(inputs, targets, validation_split=0.999, verbose=0)


def test_fit_follows_compile_and_continues():
    """A second `fit` uses the functions of the first, and not after `compile`."""
    inputs, targets = data()
    model, other = compiled(), compiled()
    for _ in range(2):
        model.fit(inputs, targets, batch_size=20, shuffle=False, verbose=0)
        keras.Model.fit(other, inputs, targets, batch_size=20, shuffle=False, verbose=0)
    function = model.__dict__["_executed"][1]["train_function"]
    model.fit(inputs, targets, batch_size=20, verbose=0)
    assert model.__dict__["_executed"][1]["train_function"] is function
    model = compiled(lambda: other, loss="mae", optimizer="sgd")
    history = model.fit(inputs, targets, batch_size=ROWS, verbose=0)
    assert history.history["loss"][0] > 0.2
    np.testing.assert_allclose(
        ops.convert_to_numpy(history.history["mae"][0]),
        np.abs(model.predict(inputs, verbose=0)[:, 0] - targets).mean(),
        atol=0.05,
    )


def test_a_file_keeps_how_to_compile(tmp_path):
    inputs, targets = data()
    for jit_compile in ("auto", False):
        model = compiled(jit_compile=jit_compile)
        model.fit(inputs, targets, batch_size=20, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded._compiles_by_size == (jit_compile == "auto")
        assert loaded.get_compile_config()["jit_compile"] == jit_compile
        np.testing.assert_array_equal(
            loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0)
        )


def test_evaluations_between_and_in_fits():
    """Functions of several steps per execution are not those of single steps."""
    inputs, targets = data()
    found = []

    class Evaluates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            arguments = {"batch_size": 20, "verbose": 0}
            found.append(self.model.predict(inputs, **arguments))
            found.append(self.model.evaluate(inputs, targets, **arguments))

    for fit in (keras.Model.fit, Product.fit):
        model, callback = compiled(), Evaluates()
        callback.set_model(model)
        for _ in range(2):
            callback.on_epoch_end(0)
            fit(
                model,
                inputs,
                targets,
                20,
                verbose=0,
                shuffle=False,
                callbacks=[callback],
                validation_data=(inputs, targets),
            )
        callback.on_epoch_end(0)
        found.append(model.train_on_batch(inputs, targets))
    half = len(found) // 2
    for value, expected in zip(found[half:], found[:half], strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_training_step_is_traced_once():
    inputs, targets = data()
    traces = []

    class Traced(FactorizationMachine):
        def call(self, inputs, training=None):
            traces.append(training)
            return super().call(inputs, training)

    model = compiled(lambda: Traced(FEATURES, 2), metrics=["mae"])
    model.fit(inputs, targets, 20, 2, verbose=0, validation_data=(inputs, targets))
    assert traces == [True, False]


@pytest.mark.slow
def test_results_of_sparse_steps():
    inputs, targets = data()
    for optimizer in ("LazyAdam", "Adagrad"):
        make = getattr(fmlayers.optimizers, optimizer)
        model, other = (compiled(member, optimizer=make(0.05)) for _ in range(2))
        one = model.fit(inputs, targets, 20, 3, verbose=0, shuffle=False)
        two = keras.Model.fit(other, inputs, targets, 20, 3, 0, shuffle=False)
        np.testing.assert_allclose(one.history["loss"], two.history["loss"], rtol=1e-5)


def test_xla_is_used_by_size():
    for dim, rows in ((16, 2_000_000), (64, 500_000)):
        model = FactorizationMachine(FEATURES, dim)
        assert execution.pays_with_xla(model, rows)
        assert not execution.pays_with_xla(model, rows - 1)


def test_histories_and_errors_run_without_xla():
    history = fmlayers.History(
        "seen", 9, of="user", num_keys=9, values="user", num_pairs=4
    )
    model = FactorizationMachine([*FEATURES, history], 16)
    assert execution.pays_with_xla(model, 8_000_000, brings_histories=True)
    assert not execution.pays_with_xla(model, 5_000_000, brings_histories=True)
    for other in (
        model,
        FactorizationMachine(FEATURES, 3, out_of_range="error"),
        keras.Sequential([keras.layers.StringLookup(vocabulary=["a"])]),
    ):
        assert not execution.pays_with_xla(other, 10**9)


def test_strategies_of_several_machines():
    import tensorflow as tf

    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = compiled()
    with pytest.raises(RuntimeError, match=r"Use `fmlayers.distributed` with the JAX"):
        model.fit(*data(), verbose=0)
