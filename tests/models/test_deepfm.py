import inspect

import keras
import numpy as np
import pytest
from checks import by_feature, check_error, check_layer, multiplies
from keras import ops

from fmlayers import Categorical, MultiCategorical, Numeric, RatingScaler
from fmlayers.models import DeepFM, FactorizationMachine

FEATURES = [
    Categorical("user", 4),
    Categorical("item", 6),
    Numeric("age", use_bias=True),
    MultiCategorical("genres", 5),
]
BATCH = {
    "user": np.array([0, 3, 2, -1], "int32"),
    "item": np.array([5, 5, 0, 99], "int32"),
    "age": np.array([0.5, np.nan, -1.0, 2.0], "float32"),
    "genres": np.array([[1, 2], [0, 0], [4, 0], [3, 9]], "int32"),
}


def numpy(x):
    return ops.convert_to_numpy(x)


def randomize(model, rng):
    def draw(weight):
        values = rng.normal(scale=0.5, size=weight.shape)
        return values**2 + 0.5 if weight.path.endswith("variance") else values

    model.set_weights([draw(weight) for weight in model.weights])
    return model


def parts(model, training=False):
    """First order, pairs and the deep part, each in float64 loops."""
    vectors = numpy(model.factors(BATCH)).astype("float64")
    weights = numpy(model.linear(BATCH)).astype("float64")
    linear = np.zeros((4, 1))
    pairs = np.zeros((4, 1))
    for b in range(4):
        for f in range(4):
            linear[b] += weights[b, f, 0]
            for g in range(f + 1, 4):
                pairs[b] += vectors[b, f] @ vectors[b, g]
    x = np.array([np.concatenate(list(fields)) for fields in vectors])
    for i, dense in enumerate(model.tower.hidden):
        kernel, *bias = dense.get_weights()
        x = np.array([[row @ column for column in kernel.T] for row in x])
        if bias:
            x = x + bias[0]
        if model.batch_normalization:
            gamma, beta, mean, variance = model.tower.normalizations[i].get_weights()
            if training:
                mean = [sum(column) / 4 for column in x.T]
                variance = [
                    sum((column - m) ** 2) / 4
                    for column, m in zip(x.T, mean, strict=True)
                ]
            x = gamma * (x - mean) / np.sqrt(np.array(variance) + 1e-3) + beta
        x = np.maximum(x, 0.0) if model.activation.__name__ == "relu" else np.tanh(x)
    (kernel,) = model.output_layer.get_weights()
    deep = np.array([[row @ kernel[:, 0]] for row in x])
    return linear, pairs, deep


@pytest.mark.parametrize("scaler", [None, RatingScaler(1, 5)])
@pytest.mark.parametrize("batch_normalization", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_values(scaler, batch_normalization, activation, rng):
    model = DeepFM(
        FEATURES,
        3,
        scaler,
        hidden_units=[5, 4],
        batch_normalization=batch_normalization,
        activation=activation,
    )
    randomize(model, rng)
    score = sum(parts(model)) + numpy(model.bias.value)
    np.testing.assert_allclose(numpy(model.score(BATCH)), score, rtol=1e-4, atol=1e-5)
    rating = score if scaler is None else 1.0 + 4.0 / (1.0 + np.exp(-score))
    np.testing.assert_allclose(numpy(model(BATCH)), rating, rtol=1e-4, atol=1e-5)
    found = model.predict(BATCH, batch_size=3, verbose=0)  # the last batch is of one
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, rating, rtol=1e-4, atol=1e-5)


def test_gradients_shapes_and_files(tmp_path):
    """As in `check_layer`, with few features: each weight is perturbed in turn."""
    features = [Categorical("user", 3), Categorical("item", 2), Numeric("age")]
    inputs = {
        "user": np.array([0, 2, 7], "int32"),
        "item": np.array([1, 0, 1], "int32"),
        "age": np.array([0.5, np.nan, -1.0], "float32"),
    }

    def fields(variables, inputs):
        user, item, age = by_feature(variables, features)
        for u, i, a in zip(inputs["user"], inputs["item"], inputs["age"], strict=True):
            missing = np.isnan(a)
            yield user[u if u < 3 else 3], item[i], 0.0 * age if missing else a * age

    def reference(variables, inputs):
        bias, *embeddings, w1, b1, w2, b2, h = variables
        scores = []
        for vectors, weights in zip(
            fields(embeddings[:2], inputs), fields(embeddings[2:], inputs), strict=True
        ):
            u, i, a = vectors
            score = bias[0] + sum(w[0] for w in weights) + u @ i + u @ a + i @ a
            hidden = np.tanh(np.concatenate(vectors) @ w1 + b1)
            scores.append([score + np.tanh(hidden @ w2 + b2) @ h[:, 0]])
        return np.array(scores).reshape(-1, 1)

    def penalty(variables, inputs):
        total = 0.0
        for l2, embeddings in ((0.5, variables[1:3]), (0.25, variables[3:5])):
            *_, age = by_feature(embeddings, features)
            for u, i, a in fields(embeddings, inputs):
                total += l2 * (u @ u + i @ i)
                # Of the vector, not of its product with the number.
                total += l2 * (age @ age) * bool(np.any(a))
        return total / max(len(inputs["user"]), 1)

    def make(**kwargs):
        return DeepFM(
            features,
            2,
            hidden_units=(3, 2),
            activation="tanh",
            l2=0.5,
            linear_l2=0.25,
            **kwargs,
        )

    check_layer(
        make,
        {"inputs": inputs},
        reference,
        penalty=penalty,
        mixed_output_dtype="float32",
        tmp_path=tmp_path,
    )


@pytest.mark.slow
def test_learns_what_pairs_cannot_express(jit_compile):
    """The product of three signs, which is independent of any two of them."""
    names = ("a", "b", "c")
    features = [Categorical(name, 2) for name in names]
    signs = np.tile(np.array(list(np.ndindex(2, 2, 2)), "int32"), (40, 1))
    batch = {name: signs[:, i] for i, name in enumerate(names)}
    ratings = np.prod(2.0 * signs - 1.0, axis=1)
    rmse = {}
    for kind in (FactorizationMachine, DeepFM):
        model = kind(
            features,
            4,
            l2=0.0,
            linear_l2=0.0,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.5),
        )
        model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
        model.fit(batch, ratings, 8, epochs=5, shuffle=False, verbose=0)
        rmse[kind] = np.sqrt(model.evaluate(batch, ratings, verbose=0))
    assert rmse[FactorizationMachine] > 0.99
    assert rmse[DeepFM] < 0.2


@pytest.mark.parametrize("batch_normalization", [False, True])
def test_parts_add_up_and_predict(batch_normalization, rng):
    model = DeepFM(
        FEATURES, 3, hidden_units=(5,), batch_normalization=batch_normalization
    )
    randomize(model, rng)
    expected = dict(zip(("linear", "fm", "deep"), parts(model), strict=True))
    methods = {"linear": model.first_order, "fm": model.pairs, "deep": model.deep}
    for name, method in methods.items():
        found = numpy(method(BATCH))
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)
        assert np.ptp(found) > 0.01
        further = {**BATCH, "further": np.zeros(4)}
        found = model.part(name).predict(further, batch_size=3, verbose=0)
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)


def test_l2_is_counted_once():
    options = {"l2": 0.5, "linear_l2": {"age": 0.25}}
    model = DeepFM(FEATURES, 3, **options)
    fm = FactorizationMachine(FEATURES, 3, **options)
    fm.factors.set_weights(model.factors.get_weights())
    losses = []
    for each in (model, fm):
        each(BATCH)
        losses.append(sum(float(numpy(loss)) for loss in each.losses))
    assert losses[0] > 0.0
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "fm", "deep"])
def test_a_part_shares_the_weights_of_the_model(name, rng):
    model = DeepFM(FEATURES, 3, hidden_units=(5,))
    part = model.part(name)
    part.predict(BATCH, verbose=0)  # compiled with the weights at hand
    randomize(model, rng)
    index = ("linear", "fm", "deep").index(name)
    found = part.predict(BATCH, verbose=0)
    np.testing.assert_allclose(found, parts(model)[index], rtol=1e-4, atol=1e-5)

    # And the model what the part learns: its own weights, and no others.
    layers = {
        "linear": [model.linear],
        "fm": [model.factors],
        "deep": [model.factors, model.tower, model.output_layer],
    }
    own = {w.path for layer in layers[name] for w in layer.trainable_weights}
    before = {w.path: numpy(w.value).copy() for w in model.trainable_weights}
    part.compile(keras.optimizers.SGD(0.1), "mse")
    part.train_on_batch(BATCH, np.ones((4, 1), "float32"))
    moved = {
        w.path
        for w in model.trainable_weights
        if np.any(numpy(w.value) != before[w.path])
    }
    assert moved == own
    assert {w.path for w in part.trainable_weights} == own


def test_deep_part_can_lower_a_score(rng):
    model = randomize(DeepFM(FEATURES, 3), rng)
    deep = numpy(model.deep(BATCH))
    kernel = model.output_layer.kernel
    kernel.assign(-kernel.value)
    np.testing.assert_allclose(numpy(model.deep(BATCH)), -deep, rtol=1e-5)
    assert np.all(np.abs(deep) > 1e-3)


def test_dropout_is_of_training_alone(rng):
    model = randomize(DeepFM(FEATURES, 3, dropout=0.5), rng)
    plain = DeepFM(FEATURES, 3)
    plain.set_weights(model.get_weights())
    expected = numpy(plain(BATCH))
    for found in (
        numpy(model(BATCH)),
        numpy(model.score(BATCH)),
        numpy(model(BATCH, training=False)),
        model.predict(BATCH, verbose=0),
    ):
        np.testing.assert_array_equal(found.shape, (4, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for call in (model, model.score, model.deep):
        first, second = (numpy(call(BATCH, training=True)) for _ in range(2))
        assert np.all(np.abs(first - second) > 1e-4)
    # What is kept is scaled up, so that the mean stays where it was.
    model = randomize(DeepFM(FEATURES, 3, hidden_units=(64,), dropout=0.5), rng)
    often = {name: np.repeat(x, 2000, axis=0) for name, x in BATCH.items()}
    found = numpy(model.deep(often, training=True)).reshape(4, 2000)
    expected = numpy(model.deep(BATCH))[:, 0]
    error = found.std(axis=1) / np.sqrt(2000)
    assert np.all(np.abs(found.mean(axis=1) - expected) < 5 * error)
    assert np.any(np.abs(expected) > 20 * error)


def test_fit_drops_and_evaluate_does_not(rng):
    model = randomize(DeepFM(FEATURES, 3, dropout=0.5, l2=0.0, linear_l2=0.0), rng)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    ratings = np.zeros((4, 1), "float32")
    losses = [float(model.train_on_batch(BATCH, ratings)) for _ in range(2)]
    evaluated = [model.evaluate(BATCH, ratings, verbose=0) for _ in range(2)]
    assert evaluated[0] == evaluated[1]
    assert len({*losses, evaluated[0]}) == 3
    np.testing.assert_allclose(
        evaluated[0], np.mean(numpy(model(BATCH)) ** 2), rtol=1e-5
    )


def test_batch_normalization_in_training_is_by_the_batch(rng):
    model = DeepFM(
        FEATURES, 3, hidden_units=(5, 4), batch_normalization=True, activation="tanh"
    )
    randomize(model, rng)
    before = [numpy(w.value).copy() for w in model.non_trainable_weights]
    deep = parts(model, training=True)[2]
    for call in (model.deep, model.part("deep")):
        found = numpy(call(BATCH, training=True))
        np.testing.assert_allclose(found, deep, rtol=1e-4, atol=1e-5)
    assert np.abs(deep - parts(model)[2]).max() > 0.1
    assert len(before) == 4
    moved = [numpy(w.value) for w in model.non_trainable_weights]
    assert all(np.any(a != b) for a, b in zip(before, moved, strict=True))


def test_fit_moves_the_moving_averages(rng):
    model = DeepFM(FEATURES, 3, hidden_units=(5,), batch_normalization=True)
    randomize(model, rng)
    mean = model.tower.normalizations[0].moving_mean
    before = numpy(mean.value).copy()
    vectors = numpy(model.factors(BATCH)).reshape(4, -1)
    batch_mean = (vectors @ numpy(model.tower.hidden[0].kernel.value)).mean(axis=0)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.train_on_batch(BATCH, np.zeros((4, 1), "float32"))
    np.testing.assert_allclose(
        numpy(mean.value), 0.99 * before + 0.01 * batch_mean, rtol=1e-4, atol=1e-5
    )
    after = model.get_weights()
    model.evaluate(BATCH, np.zeros((4, 1), "float32"), verbose=0)
    model.predict(BATCH, verbose=0)
    for a, b in zip(after, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_weights_and_ratings_in_float32(policy, rng):
    if not multiplies(policy):
        pytest.skip("the backend cannot multiply matrices under the policy")

    def make(**kwargs):
        return DeepFM(FEATURES, 3, dropout=0.5, batch_normalization=True, **kwargs)

    model = randomize(make(), rng)
    mixed = make(dtype=policy)
    mixed.set_weights(model.get_weights())
    assert all(weight.dtype == "float32" for weight in mixed.weights)
    for method in ("score", "first_order", "pairs", "deep"):
        found = getattr(mixed, method)(BATCH)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        expected = numpy(getattr(model, method)(BATCH))
        np.testing.assert_allclose(numpy(found), expected, rtol=0.05, atol=0.2)
    assert mixed.tower.compute_dtype == policy.removeprefix("mixed_")
    # Nothing is rounded without vectors: bias, first order and output are in float32.
    part = mixed.part("deep").predict(BATCH, verbose=0)
    np.testing.assert_allclose(part, numpy(mixed.deep(BATCH)), rtol=0.05, atol=0.05)
    assert part.dtype == "float32"


def test_composes_as_a_layer(rng):
    inputs = {feature.name: feature.keras_input() for feature in FEATURES[:3]}
    inner = randomize(DeepFM(FEATURES[:3], 3, dropout=0.5), rng)
    model = keras.Model(inputs, inner(inputs))
    assert model.output_shape == (None, 1)
    batch = {name: BATCH[name] for name in inputs}
    np.testing.assert_allclose(numpy(model(batch)), numpy(inner(batch)), rtol=1e-6)
    first, second = (numpy(model(batch, training=True)) for _ in range(2))
    assert np.any(first != second)
    spec = inner.compute_output_spec(inputs, training=True)
    assert (spec.shape, spec.dtype) == ((None, 1), "float32")


def test_the_decomposition_is_that_of_the_factorization_machine(rng):
    model = randomize(DeepFM(FEATURES, 3), rng)
    fm = FactorizationMachine(FEATURES, 3)
    fm.factors.set_weights(model.factors.get_weights())
    fm.linear.set_weights(model.linear.get_weights())
    fm.bias.assign(model.bias.value)
    queries, items = ["item"], ["user", "age", "genres"]
    c_q, s_q = (numpy(x) for x in model.decompose({"item": BATCH["item"]}, queries))
    c_i, s_i = (numpy(x) for x in model.decompose(BATCH, items))
    found = numpy(model.bias.value) + c_q + c_i + np.sum(s_q * s_i, 1, keepdims=True)
    np.testing.assert_allclose(found, numpy(fm.score(BATCH)), rtol=1e-4, atol=1e-5)
    assert model.decomposition == "partial"


def test_an_example_sees_itself_alone(rng):
    model = DeepFM(FEATURES, 3, dropout=0.5, batch_normalization=True)
    randomize(model, rng)
    together = numpy(model(BATCH))
    for row in range(4):
        alone = numpy(model({name: x[row : row + 1] for name, x in BATCH.items()}))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_exists_before_it_sees_data_and_builds_twice():
    model = DeepFM(FEATURES, 3, hidden_units=(5, 4))
    fm = FactorizationMachine(FEATURES, 3)
    assert model.count_params() == fm.count_params() + (12 * 5 + 5) + (5 * 4 + 4) + 4
    before = model.get_weights()
    model.build()
    model.build({name: x.shape for name, x in BATCH.items()})
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@keras.saving.register_keras_serializable(package="test")
def halve(x):
    return 0.5 * x


def test_config_has_every_argument():
    model = DeepFM(
        FEATURES,
        3,
        RatingScaler(1, 5),
        hidden_units=(np.int64(5),),
        dropout=0.25,
        batch_normalization=True,
        activation=halve,
        l2=0.125,
        bias_initializer=keras.initializers.Constant(2.0),
    )
    config = model.get_config()
    for kind in (DeepFM, FactorizationMachine):
        arguments = set(inspect.signature(kind.__init__).parameters)
        assert arguments - {"self", "kwargs"} <= set(config)
    clone = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(model)
    )
    assert clone.get_config() == config
    assert (clone.hidden_units, clone.dropout, clone.activation) == ((5,), 0.25, halve)
    assert clone.batch_normalization is True
    assert clone.factors.l2 == 0.125
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(numpy(clone(BATCH)), numpy(model(BATCH)))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_torch_compiles_the_training_step(backend):
    if backend != "torch":
        pytest.skip("torch.compile is PyTorch's")
    models = [
        DeepFM(FEATURES, 3, hidden_units=(4,), batch_normalization=True)
        for _ in range(2)
    ]
    models[1].set_weights(models[0].get_weights())
    for model, jit_compile in zip(models, (False, True), strict=True):
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
        for _ in range(2):
            model.train_on_batch(BATCH, np.ones((4, 1), "float32"))
    for eager, compiled in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def test_errors(tmp_path):
    for units in ((), (4, 0), (4, 2.5), (True,), 5):
        check_error(
            "`hidden_units` must be a non-empty list of positive integers",
            lambda units=units: DeepFM(FEATURES, 3, hidden_units=units),
        )
    for dropout in (1.0, -0.1, float("nan")):
        check_error(
            "`dropout` must be at least 0 and less than 1",
            lambda dropout=dropout: DeepFM(FEATURES, 3, dropout=dropout),
        )
    check_error("`dim` must be", lambda: DeepFM(FEATURES, 0))
    check_error("activation", lambda: DeepFM(FEATURES, 3, activation="none_such"))
    model = DeepFM(FEATURES, 3)
    check_error('`name` must be "linear", "fm" or "deep"', lambda: model.part("wide"))
    check_error(
        "'item' must be integers",
        lambda: model.part("deep")({**BATCH, "item": BATCH["item"].astype("float32")}),
    )
    with pytest.raises(NotImplementedError, match="save the whole model"):
        model.part("deep").save(tmp_path / "part.keras")
