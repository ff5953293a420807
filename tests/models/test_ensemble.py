import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, Numeric, RatingScaler
from fmlayers.models import DeepFM, Ensemble, FactorizationMachine, MatrixFactorization
from fmlayers.optimizers import Adagrad

FEATURES = [Categorical("user", 4), Categorical("item", 6), Numeric("age")]
BATCH = {
    "user": np.array([0, 3, 2, -1], "int32"),
    "item": np.array([5, 5, 0, 99], "int32"),
    "age": np.array([0.5, np.nan, -1.0, 2.0], "float32"),
}
RATINGS = np.array([4.0, 1.0, 5.0, 2.5], "float32")


def make(scaler=None, **kwargs):
    start = keras.initializers.RandomNormal(stddev=0.3)
    return FactorizationMachine(
        FEATURES, 3, scaler, l2=0.1, embeddings_initializer=start, **kwargs
    )


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("scaler", [None, RatingScaler(1, 5, "clip")])
def test_averages_the_scores(scaler):
    model = Ensemble.of(3, lambda: make(scaler))
    scores = [numpy(member.score(BATCH)) for member in model.members]
    assert np.std(scores, axis=0)[:3].min() > 1e-3  # members differ
    mean = np.mean(scores, axis=0)
    np.testing.assert_allclose(numpy(model.score(BATCH)), mean, rtol=1e-5, atol=1e-6)
    expected = mean if scaler is None else np.clip(mean, 1.0, 5.0)
    np.testing.assert_allclose(numpy(model(BATCH)), expected, rtol=1e-5, atol=1e-6)
    assert model.compute_output_shape({n: x.shape for n, x in BATCH.items()}) == (4, 1)


def copies_of(members):
    """Return models with the configs and weights of these, but separate."""
    copies = [type(member).from_config(member.get_config()) for member in members]
    for copy, member in zip(copies, members, strict=True):
        # JAX may return its memory and donate it to a step.
        copy.set_weights([w.copy() for w in member.get_weights()])
    return copies


def check_equal_weights(models, others):
    for model, other in zip(models, others, strict=True):
        for actual, expected in zip(
            model.get_weights(), other.get_weights(), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_members_learn_as_if_alone(jit_compile):
    """Weights after three steps are those of each member trained by itself."""
    model = Ensemble.of(3, lambda: make(RatingScaler(1, 5)))
    alone = copies_of(model.members)
    for each in (model, *alone):
        each.compile(
            Adagrad(0.1, initial_accumulator_value=1e-3),
            loss="mse",
            jit_compile=jit_compile,
        )
        for _ in range(3):
            each.train_on_batch(BATCH, RATINGS)
    check_equal_weights(model.members, alone)


@pytest.mark.parametrize(
    "run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_fit_trains_each_member_and_reports_the_mean(run_eagerly):
    """Losses and weights are those of the members alone, metrics those of the mean."""
    model = Ensemble.of(2, lambda: make(RatingScaler(1, 5)))
    alone = copies_of(model.members)
    initial = Ensemble(copies_of(model.members))
    weights = np.array([1.0, 0.5, 2.0, 1.0], "float32")

    def fit(each):
        sgd = keras.optimizers.SGD(0.1)
        each.compile(sgd, loss="mse", metrics=["mae"], run_eagerly=run_eagerly)
        return each.fit(
            BATCH, RATINGS, 4, epochs=2, verbose=0, sample_weight=weights
        ).history

    history, histories = fit(model), [fit(each) for each in alone]
    check_equal_weights(model.members, alone)
    losses = np.sum([each["loss"] for each in histories], axis=0)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    # An epoch is one step: the first metric is that of the initial weights.
    error = numpy(initial(BATCH))[:, 0] - RATINGS
    np.testing.assert_allclose(history["mae"][0], np.abs(error).mean(), rtol=1e-5)


def test_only_training_returns_the_ratings_of_the_members():
    model = Ensemble.of(3, lambda: make(RatingScaler(1, 5)))
    mean = numpy(model(BATCH))
    np.testing.assert_array_equal(numpy(model(BATCH, training=True)), mean)
    model.compile("sgd", loss="mse")
    assert model(BATCH).shape == model.predict(BATCH, verbose=0).shape == (4, 1)
    ratings = [numpy(member(BATCH)) for member in model.members]
    expected = np.concatenate([mean, *ratings], axis=1)
    np.testing.assert_allclose(numpy(model(BATCH, training=True)), expected, rtol=1e-6)


def test_is_evaluated_by_its_mean():
    model = Ensemble.of(3, make)
    model.compile("sgd", loss="mse", metrics=["mae"])
    figures = model.evaluate(BATCH, RATINGS, return_dict=True, verbose=0)
    error = numpy(model(BATCH))[:, 0] - RATINGS
    np.testing.assert_allclose(figures["mae"], np.abs(error).mean(), rtol=1e-5)
    np.testing.assert_allclose(figures["loss"], (error**2).mean(), rtol=1e-5)


def test_the_decomposition_adds_up_to_the_score():
    model = Ensemble.of(3, make)
    c_q, s_q = (numpy(x) for x in model.decompose(BATCH, ["user", "age"]))
    c_i, s_i = (numpy(x) for x in model.decompose(BATCH, ["item"]))
    assert s_q.shape == (4, 9)
    found = numpy(model.bias) + c_q + c_i + np.sum(s_q * s_i, axis=1, keepdims=True)
    np.testing.assert_allclose(found, numpy(model.score(BATCH)), rtol=1e-4, atol=1e-5)
    assert model.decomposition == "exact"
    assert Ensemble.of(2, lambda: DeepFM(FEATURES, 3)).decomposition == "partial"


def test_members_may_take_training():
    model = Ensemble.of(2, lambda: DeepFM(FEATURES, 3, dropout=0.9))
    calm, stormy = (
        numpy(model(BATCH, training=training)) for training in (False, True)
    )
    assert np.abs(calm - stormy).max() > 0.0
    np.testing.assert_array_equal(numpy(model(BATCH)), calm)


def test_saves_and_loads(tmp_path):
    model = Ensemble.of(2, lambda: make(RatingScaler(1, 5)))
    model.compile("sgd", loss="mse")
    model.fit(BATCH, RATINGS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(BATCH)), numpy(model(BATCH)))


def test_config_has_every_argument():
    model = Ensemble.of(2, make)
    config = model.get_config()
    arguments = set(inspect.signature(Ensemble.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    assert Ensemble.from_config(config).get_config() == config


def test_errors():
    check_error("`members` must not be empty", lambda: Ensemble([]))
    unlike = (
        MatrixFactorization(*FEATURES[:2], 3),
        FactorizationMachine(FEATURES[:2], 3),
        make(RatingScaler(1, 5)),
    )
    for other in unlike:
        check_error(
            "`members` must be `ScoringModel`s of one class",
            lambda o=other: Ensemble([make(), o]),
        )


@pytest.mark.slow
def test_is_exported_as_one_model(tmp_path, backend):
    """A separate process loads it without fmlayers."""
    if backend != "tensorflow":
        pytest.skip("SavedModels are TensorFlow's")
    model = Ensemble.of(3, lambda: make(RatingScaler(1, 5)))
    signature = {
        name: keras.InputSpec(shape=(None,), dtype=x.dtype, name=name)
        for name, x in BATCH.items()
    }
    model.export(tmp_path / "saved", input_signature=[signature], verbose=False)
    np.savez(tmp_path / "batch.npz", **BATCH)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "batch = {k: tf.constant(x) for k, x in np.load('batch.npz').items()}\n"
        "model = tf.saved_model.load('saved')\n"
        "np.save('found.npy', model.serve(batch)['rating'])\n"
        "assert 'fmlayers' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = model.predict(BATCH, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=1e-5)
