import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

import fmlayers
from fmlayers.explain import Terms, explain
from fmlayers.models import Ensemble, FactorizationMachine
from fmlayers.retrieval import TopN, fold_in, retrieve, score_all

FEATURES = [
    fmlayers.Categorical("user", 9),
    fmlayers.Categorical("item", 7),
    fmlayers.MultiCategorical("genres", 6),
]
ITEMS = ["item", "genres"]
BATCH = {
    "user": np.array([3, 8, 1]),
    "item": np.array([6, 0, 2]),
    "genres": np.array([[1, 5], [0, 0], [2, 0]]),
}
CATALOG = {"item": np.arange(7), "genres": np.arange(14).reshape(7, 2) % 6}


@keras.saving.register_keras_serializable("tests")
class TwoTower(fmlayers.ScoringModel):
    """The sum of a query's vectors times the sum of an item's."""

    decomposition = "exact"

    def __init__(self, features, item_features, dim, **kwargs):
        super().__init__(features, **kwargs)
        self.item_features = list(item_features)
        self.vectors = fmlayers.FeatureEmbedding(features, dim)

    @property
    def query_features(self):
        return [f.name for f in self.features if f.name not in self.item_features]

    def score(self, inputs, training=None):
        _, query = self.decompose(inputs, self.query_features)
        _, item = self.decompose(inputs, self.item_features)
        return ops.sum(query * item, axis=-1, keepdims=True)

    def decompose(self, inputs, names):
        vector = ops.sum(self.vectors.fields(inputs, names), axis=1)
        return ops.zeros_like(vector[:, :1]), vector

    def terms(self, inputs):
        terms = Terms.of_pairs(self.vectors(inputs))
        is_item = np.array([f.name in self.item_features for f in self.features])
        across = is_item[:, None] != is_item
        return Terms(terms.bias, terms.matrix * across, terms.rest)

    def get_config(self):
        return {
            **super().get_config(),
            "item_features": self.item_features,
            "dim": self.vectors.dim,
        }


def numpy(x):
    return ops.convert_to_numpy(x)


def randomize(model, rng):
    model.set_weights([rng.normal(0.0, 0.5, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def model(rng):
    model = TwoTower(FEATURES, ITEMS, 4, scaler=fmlayers.RatingScaler(1, 5))
    model.build()
    return randomize(model, rng)


def test_a_call_is_the_rating_of_the_score(model):
    vectors = [numpy(x) for x in numpy(model.vectors(BATCH))]
    score = np.array([[x[0] @ (x[1] + x[2])] for x in vectors])
    np.testing.assert_allclose(numpy(model.score(BATCH)), score, rtol=1e-5, atol=1e-6)
    rating = numpy(model.scaler(score.astype("float32")))
    np.testing.assert_allclose(numpy(model(BATCH)), rating, rtol=1e-5)
    assert model.compute_output_shape({n: x.shape for n, x in BATCH.items()}) == (3, 1)


def test_an_exact_decomposition_ranks_as_the_score_does(model):
    queries = {"user": np.arange(9)}
    by_product = retrieve(model, queries, CATALOG, k=4)
    by_score = score_all(model, queries, CATALOG, k=4)
    np.testing.assert_array_equal(by_product[1], by_score[1])
    np.testing.assert_allclose(by_product[0], by_score[0], rtol=1e-5, atol=1e-6)


def test_a_new_user_is_fitted_without_regularization_by_default(model):
    top = TopN(model, ITEMS, 7, k=3).index(CATALOG)
    ratings = np.array([5.0, 1.0, 4.0])
    by_default = fold_in(top, [0, 2, 5], ratings)
    np.testing.assert_array_equal(
        by_default[1], fold_in(top, [0, 2, 5], ratings, l2=0.0, linear_l2=0.0)[1]
    )


def test_terms_add_up(model):
    parts = explain(model, BATCH)
    np.testing.assert_allclose(parts.matrix.sum((1, 2)), parts.score, rtol=1e-5)
    assert parts.fields == ("user", "item", "genres")
    np.testing.assert_array_equal(parts.matrix[:, 1, 2], 0.0)


def test_members_are_averaged(rng):
    ensemble = Ensemble.of(2, lambda: TwoTower(FEATURES, ITEMS, 4))
    randomize(ensemble, rng)
    assert ensemble.decomposition == "exact"
    parts = explain(ensemble, BATCH)
    mean = np.mean([numpy(m.score(BATCH))[:, 0] for m in ensemble.members], axis=0)
    np.testing.assert_allclose(parts.score, mean, rtol=1e-5)
    by_product = retrieve(ensemble, {"user": np.arange(9)}, CATALOG, k=4)
    by_score = score_all(ensemble, {"user": np.arange(9)}, CATALOG, k=4)
    np.testing.assert_array_equal(by_product[1], by_score[1])


def test_a_new_score_is_not_taken_for_exact():
    class Louder(TwoTower):
        def score(self, inputs, training=None):
            return 2.0 * super().score(inputs, training)

    class Scaled(Louder):
        decomposition = None

    assert Louder.decomposition == "partial"
    assert Scaled.decomposition is None
    assert TwoTower.decomposition == "exact"


def test_weights_exist_after_build_or_the_first_step():
    model = TwoTower(FEATURES, ITEMS, 4, scaler=fmlayers.RatingScaler(1, 5))
    model.compile("sgd", loss="mse")
    model.fit(BATCH, np.array([4.0, 2.0, 5.0]), verbose=0)
    built = TwoTower(FEATURES, ITEMS, 4)
    built.build()
    assert [w.shape for w in model.weights] == [w.shape for w in built.weights]


def test_what_a_model_does_not_define_is_named():
    class Plain(fmlayers.ScoringModel):
        pass

    plain = Plain(FEATURES)
    with pytest.raises(NotImplementedError, match="Plain must define `score`"):
        plain.score(BATCH)
    with pytest.raises(NotImplementedError, match="Plain has no decomposition"):
        plain.decompose(BATCH, ITEMS)
    check_error("defines `terms`.*Received: a Plain", lambda: explain(plain, BATCH))
    check_error("with a `decomposition`.*Plain", lambda: TopN(plain, ITEMS, 7))
    check_error(
        "`ScoringModel`s of one class",
        lambda: Ensemble([keras.Sequential(), keras.Sequential()]),
    )


def test_a_config_has_the_arguments_of_the_base_class(model):
    copy = TwoTower.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    assert copy.features == FEATURES


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_an_export_has_what_call_returns(model, tmp_path):
    from fmlayers.export.signature import signature_of

    class Probability(FactorizationMachine):
        def call(self, inputs, training=None):
            return ops.sigmoid(self.score(inputs, training))

    assert list(signature_of(model).outputs) == ["rating", "score"]
    assert list(signature_of(Probability(FEATURES, 3)).outputs) == ["output"]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_a_trained_model_is_exported_and_runs_without_its_class(model, tmp_path):
    import tensorflow as tf

    model.compile(fmlayers.optimizers.Adagrad(0.05), loss="mse")
    model.fit(BATCH, np.array([4.0, 2.0, 5.0]), epochs=2, verbose=0)
    model.export(tmp_path / "saved")
    model.save(tmp_path / "model.keras")
    expected = numpy(model(BATCH))
    np.save(tmp_path / "expected.npy", expected)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "batch = {'user': [3, 8, 1], 'item': [6, 0, 2],\n"
        "         'genres': [[1, 5], [0, 0], [2, 0]]}\n"
        "served = tf.saved_model.load(sys.argv[1] + '/saved').signatures\n"
        "call = served['serving_default']\n"
        "batch = {n: tf.constant(x, tf.int64) for n, x in batch.items()}\n"
        "found = call(**batch)['rating'].numpy()\n"
        "np.testing.assert_allclose(found, np.load(sys.argv[1] + '/expected.npy'),\n"
        "                           rtol=1e-5)\n"
        "assert 'fmlayers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(BATCH)), expected, rtol=1e-6)
    assert tf.executing_eagerly()


def test_a_compiled_function_scores_a_few_rows(model):
    """`predict_on_batch`, for any number of rows and the current weights."""
    for rows in (1, 3, 2, 1):
        batch = {name: x[:rows] for name, x in BATCH.items()}
        found = model.predict_on_batch(batch)
        np.testing.assert_allclose(found, numpy(model(batch)), rtol=1e-5)
        model.set_weights([weight * 1.1 for weight in model.get_weights()])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras predicts in one thread there"
)
def test_predictions_in_threads_with_several_steps_at_once():
    model = FactorizationMachine(FEATURES, 3)
    model.compile("sgd", "mse", steps_per_execution=8)
    inputs = {name: np.resize(x, (400, *x.shape[1:])) for name, x in BATCH.items()}
    expected = np.resize(numpy(model(BATCH)), (400, 1))

    def predict(_):
        return model.predict(inputs, batch_size=2, verbose=0)

    model.predict(BATCH, verbose=0)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(predict, range(8)):
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert model.steps_per_execution == 8


def test_several_steps_at_once_are_not_traced_to_predict():
    class Counted(FactorizationMachine):
        traced = 0

        def call(self, inputs, training=None):
            type(self).traced += 1
            return super().call(inputs, training=training)

    expected = FactorizationMachine(FEATURES, 3)
    model = Counted(FEATURES, 3)
    model.set_weights(expected.get_weights())
    if keras.backend.backend() == "torch":
        model.compile("sgd", "mse")
    else:
        model.compile("sgd", "mse", steps_per_execution=8)
    steps_per_execution = model.steps_per_execution
    Counted.traced = 0
    found = model.predict(
        {name: np.resize(x, (24, *x.shape[1:])) for name, x in BATCH.items()},
        batch_size=2,
        verbose=0,
    )
    if keras.backend.backend() == "tensorflow":
        assert Counted.traced <= 2
    np.testing.assert_allclose(found, np.resize(numpy(expected(BATCH)), (24, 1)))
    assert model.steps_per_execution == steps_per_execution
