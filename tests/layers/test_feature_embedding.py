import itertools

import keras
import numpy as np
import pytest
from checks import by_feature, check_error, check_layer
from keras import ops

from fmlayers import Categorical, FeatureEmbedding, MultiCategorical, Numeric

FEATURES = [
    Categorical("user", 5),
    Numeric("age", use_bias=True),
    MultiCategorical("genres", 4),
    Categorical("sex", 3, mask_zero=True),
    Numeric("year"),
    MultiCategorical("liked", 5, table="user", combiner="sqrtn"),
]
# One row a case: ordinary, missing everywhere, unknown everywhere, mixed.
BATCH = {
    "user": np.array([1, 0, -7, 4], "int32"),
    "age": np.array([0.5, np.nan, -1.5, 2.0], "float32"),
    "genres": np.array([[1, 3, 0], [0, 0, 0], [4, -1, 0], [0, 2, 99]], "int32"),
    "sex": np.array([[1], [0], [3], [2]], "int32"),
    "year": np.array([[0.1], [np.nan], [1.0], [-2.0]], "float32"),
    "liked": np.array([[1, 1], [0, 0], [9, 0], [0, 3]], "int32"),
}


def embed(weights, inputs, dim=3, policy="unknown", features=FEATURES, squares=None):
    """Loops over examples, fields and values; appends squared norms if asked."""
    weights = by_feature(weights, features, unknown=policy == "unknown")
    named = {}
    for feature in features:
        if isinstance(feature, Numeric):
            named[feature.name] = weights.pop(0)
            if feature.use_bias:
                named[feature.name, "bias"] = weights.pop(0)
        elif feature.table_name not in named:
            named[feature.table_name] = weights.pop(0)

    def row(feature, i):
        """The row of an id, or None if the value counts as missing."""
        padded = isinstance(feature, MultiCategorical) or feature.mask_zero
        if i == 0 and padded:
            return None
        if 0 <= i < feature.vocabulary_size:
            return named[feature.table_name][i]
        return named[feature.table_name][-1] if policy == "unknown" else None

    batch = len(inputs["user"])
    output = np.zeros((batch, len(features), dim))
    for b in range(batch):
        for f, feature in enumerate(features):
            square = 0.0
            value = np.ravel(inputs[feature.name][b])
            if isinstance(feature, Numeric):
                if not np.isnan(value[0]):
                    vector = named[feature.name]
                    bias = named.get((feature.name, "bias"), np.zeros(dim))
                    output[b, f] = value[0] * vector + bias
                    square = vector @ vector + bias @ bias
            else:
                rows = [row(feature, i) for i in value]
                rows = [r for r in rows if r is not None]
                combiner = getattr(feature, "combiner", "sum")
                count = len(rows)
                divisor = {"mean": count, "sum": 1, "sqrtn": count**0.5}[combiner]
                for r in rows:
                    output[b, f] += r / divisor
                    square += r @ r / divisor
            if squares is not None:
                squares.append((feature.name, square))
    return output


def l2_penalty(coefficients, **options):
    def penalty(weights, inputs):
        squares = []
        embed(weights, inputs, squares=squares, **options)
        total = sum(coefficients.get(name, 0.0) * square for name, square in squares)
        return total / max(len(inputs["user"]), 1)

    return penalty


@pytest.mark.parametrize("policy", ["unknown", "zero"])
@pytest.mark.parametrize("dim", [1, 3])
def test_layer(policy, dim, tmp_path):
    check_layer(
        lambda **kwargs: FeatureEmbedding(FEATURES, dim, out_of_range=policy, **kwargs),
        {"inputs": BATCH},
        lambda weights, inputs: embed(weights, inputs, dim, policy),
        tmp_path=tmp_path,
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["unknown", "zero"])
def test_l2_of_the_rows_of_the_batch(policy, tmp_path):
    coefficients = {"user": 0.5, "age": 0.25, "genres": 0.125, "liked": 2.0}
    check_layer(
        lambda **kwargs: FeatureEmbedding(
            FEATURES, 3, out_of_range=policy, l2=coefficients, **kwargs
        ),
        {"inputs": BATCH},
        lambda weights, inputs: embed(weights, inputs, 3, policy),
        penalty=l2_penalty(coefficients, policy=policy),
        tmp_path=tmp_path,
    )


def test_l2_is_reported_feature_by_feature():
    layer = FeatureEmbedding(FEATURES, 3, l2=0.1)
    layer(BATCH)
    squares = []
    embed(layer.get_weights(), BATCH, squares=squares)
    expected = [
        sum(0.1 * square for name, square in squares if name == feature.name) / 4
        for feature in FEATURES
    ]
    found = [float(ops.convert_to_numpy(loss)) for loss in layer.losses]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_l2_is_only_added_in_training():
    inputs = {feature.name: feature.keras_input() for feature in FEATURES}
    layer = FeatureEmbedding(FEATURES, 3, l2=0.1)
    model = keras.Model(inputs, ops.sum(layer(inputs), axis=(1, 2)))
    for call in (layer, model):
        for training, count in ((None, 6), (True, 6), (False, 0)):
            call(BATCH, training=training)
            assert len(call.losses) == count, training
    model.compile("sgd", loss="mse")
    targets = np.arange(4, dtype="float32")
    error = ops.convert_to_numpy(model(BATCH)) - targets
    l2 = sum(float(ops.convert_to_numpy(loss)) for loss in model.losses)
    evaluated = model.evaluate(BATCH, targets, verbose=0)
    np.testing.assert_allclose(evaluated, np.mean(error**2), rtol=1e-5)
    trained = float(model.train_on_batch(BATCH, targets))
    np.testing.assert_allclose(trained, np.mean(error**2) + l2, rtol=1e-5)


def test_every_call_adds_the_losses_of_every_layer():
    """Calls that Keras makes on JAX must not mix up the losses of several layers."""
    inputs = {"age": keras.Input((), name="age")}
    layers = [FeatureEmbedding([Numeric("age")], 2, l2=0.5) for _ in range(8)]
    model = keras.Model(inputs, [ops.sum(layer(inputs)) for layer in layers])
    weights = [v.value for v in model.trainable_variables]
    batch = {"age": np.ones(2, "float32")}
    counts = set()
    for _ in range(200):
        *_, losses = model.stateless_call(weights, [], batch, return_losses=True)
        counts.add(len(losses))
        del losses  # frees their ids
    assert counts == {8}


def test_error_policy_passes_valid_ids(tmp_path):
    valid = {
        **BATCH,
        "user": np.array([1, 0, 2, 4], "int32"),
        "genres": np.array([[1, 3, 0], [0, 0, 0], [2, 0, 0], [0, 2, 3]], "int32"),
        "sex": np.array([[1], [0], [1], [2]], "int32"),
        "liked": np.array([[1, 1], [0, 0], [4, 0], [0, 3]], "int32"),
    }
    check_layer(
        lambda **kwargs: FeatureEmbedding(FEATURES, 3, out_of_range="error", **kwargs),
        {"inputs": valid},
        lambda weights, inputs: embed(weights, inputs, 3, "error"),
        tmp_path=tmp_path,
    )


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
@pytest.mark.parametrize("compiled", [False, True])
def test_error_policy_raises(bad, compiled, backend):
    user = Categorical("user", 5)
    layer = FeatureEmbedding([user], 3, out_of_range="error")
    inputs = {"user": user.keras_input()}
    model = keras.Model(inputs, layer(inputs))
    ids = np.array([1, bad, 2], "int32")
    if not compiled:
        check_error(
            f"'user' has an id outside 0 ... 4.*id={bad}", lambda: layer({"user": ids})
        )
        return
    model.compile()
    with pytest.raises(Exception, match=r"user.{1,3} has an id outside 0 \.\.\. 4"):
        model.predict({"user": ids}, verbose=0)


def test_error_policy_never_lies_where_xla_cannot_raise(backend):
    if backend != "tensorflow":
        pytest.skip("only TensorFlow's XLA programs cannot raise")
    user = Categorical("user", 5)
    layer = FeatureEmbedding([user], 3, out_of_range="error")
    assert not layer.supports_jit
    import tensorflow as tf

    output = tf.function(layer, jit_compile=True)({"user": tf.constant([1, 7])})
    np.testing.assert_array_equal(np.isnan(output), [[[False] * 3], [[True] * 3]])


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "int32", "int64", "uint32"]
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_integer_type_reads_the_same_rows(dtype, jit_compile, backend):
    if backend == "torch" and jit_compile:
        pytest.skip("torch.compile is checked by check_layer and test_torch_compile.py")
    if backend == "jax" and dtype == "int64":
        pytest.skip("JAX cuts 64 bits to 32 before a layer sees them, as documented")
    user = Categorical("user", 1000)
    layer = FeatureEmbedding([user], 2)
    inputs = {"user": keras.Input((), dtype=dtype, name="user")}
    model = keras.Model(inputs, layer(inputs))
    model.compile(jit_compile=jit_compile)
    ids = np.array([0, 7, np.iinfo(dtype).max, np.iinfo(dtype).min]).astype(dtype)
    table = layer.get_weights()[0]
    rows = [i if 0 <= i < 1000 else 1000 for i in ids.astype("object")]
    found = model.predict({"user": ids}, verbose=0)
    np.testing.assert_array_equal(found[:, 0], table[rows])


def test_ids_above_2_to_the_24_stay_apart():
    size = 2**24 + 4
    layer = FeatureEmbedding([Categorical("user", size)], 1)
    ids = np.arange(2**24 - 1, 2**24 + 4)
    layer.build()
    layer.tables["user"].assign(ops.expand_dims(ops.arange(size + 1) % 7, -1))
    found = ops.convert_to_numpy(layer({"user": ids}))
    np.testing.assert_array_equal(found[:, 0, 0], ids % 7)


def test_unknown_row_starts_at_zero_and_learns():
    layer = FeatureEmbedding([Categorical("user", 5)], 2)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer({"user": np.array([-1])}))[0], 0.0
    )
    inputs = {"user": keras.Input((), dtype="int32", name="user")}
    model = keras.Model(inputs, ops.sum(layer(inputs), axis=(1, 2)))
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    before = layer.get_weights()[0]
    model.train_on_batch({"user": np.array([77])}, np.array([1.0]))
    moved = np.any(layer.get_weights()[0] != before, axis=1)
    np.testing.assert_array_equal(moved, [False] * 5 + [True])


def test_tables_of_the_same_shape_start_differently():
    layer = FeatureEmbedding([Categorical("user", 5), Categorical("item", 5)], 2)
    layer.build()
    user, item = (ops.convert_to_numpy(table) for table in layer.tables.values())
    assert np.all(user[:-1] != item[:-1])


def test_building_twice_keeps_the_weights():
    layer = FeatureEmbedding(FEATURES, 3)
    layer.build()
    before = layer.get_weights()
    layer.build()
    layer(BATCH)
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_are_not_rounded_before_they_are_multiplied():
    layer = FeatureEmbedding(
        [Numeric("year")],
        1,
        embeddings_initializer=keras.initializers.Constant(1 / 257),
        dtype="mixed_bfloat16",
    )
    # 257 is no bfloat16: rounded first, it would give 256 / 257.
    found = layer({"year": np.array([257.0], "float32")})
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(found, "float32")), 1.0)


def test_tables_are_not_rounded_inside_a_mixed_model():
    class Outer(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.embedding = FeatureEmbedding(
                [Categorical("user", 5), Numeric("age")],
                1,
                embeddings_initializer=keras.initializers.Constant(1.001),
                dtype="float32",
            )

        def call(self, inputs):
            return self.embedding(inputs)

    batch = {"user": np.array([1]), "age": np.array([1.0], "float32")}
    found = ops.convert_to_numpy(Outer()(batch))
    np.testing.assert_array_equal(found, np.float32(1.001))


def test_ragged_equals_padded(backend):
    if backend != "tensorflow":
        pytest.skip("ragged tensors exist on TensorFlow alone")
    import tensorflow as tf

    layer = FeatureEmbedding([MultiCategorical("genres", 5)], 3, l2=0.1)
    padded = np.array([[1, 4, 9], [0, 0, 0], [2, 0, 0]])
    ragged = tf.ragged.constant([[1, 4, 9], [], [2]])
    expected = layer({"genres": padded})
    losses = layer.losses[0]
    np.testing.assert_allclose(layer({"genres": ragged}), expected, rtol=1e-6)
    np.testing.assert_allclose(layer.losses[0], losses, rtol=1e-6)
    inputs = {"genres": keras.Input((None,), dtype="int32", ragged=True, name="genres")}
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_allclose(model({"genres": ragged}), expected, rtol=1e-6)


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("out_of_range", ["unknown", "zero"])
def test_ids_with_row_splits_equal_padded_ones(combiner, out_of_range, rng):
    genres = MultiCategorical("genres", 5, combiner=combiner)
    layer = FeatureEmbedding([genres], 3, l2=0.1, out_of_range=out_of_range)
    for rows in (
        [[1, 4, 9], [], [2]],  # 9 is unknown
        [[1, 1]],
        [[]],
        [[], []],
        [[-1], [3, 2, 1, 4], [], [0]],
    ):
        length = max(map(len, rows)) or 1
        padded = np.array([row + [0] * (length - len(row)) for row in rows])
        splits = np.cumsum([0, *map(len, rows)]).astype("int32")
        # A batch may be filled up to a size: zeros count for nothing.
        for zeros in (0, 3):
            ids = np.array([*itertools.chain(*rows), *[0] * zeros], "int32")
            splits[-1] = len(ids)
            expected = layer({"genres": padded})
            loss = ops.convert_to_numpy(layer.losses[0])
            found = layer({"genres": (ids, splits)})
            np.testing.assert_allclose(
                ops.convert_to_numpy(found), ops.convert_to_numpy(expected), atol=1e-6
            )
            np.testing.assert_allclose(
                ops.convert_to_numpy(layer.losses[0]), loss, rtol=1e-5
            )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_through_row_splits_equal_those_of_padding(jit_compile, backend):
    if jit_compile and backend == "torch":
        pytest.skip("torch.compile takes a minute; check_layer tries it elsewhere")

    def step(inputs):
        keras.utils.set_random_seed(0)
        features = [Categorical("user", 4), MultiCategorical("genres", 5)]

        class Summed(keras.Model):
            def __init__(self):
                super().__init__()
                self.embedding = FeatureEmbedding(
                    features, 3, l2=0.1, embeddings_initializer="ones"
                )

            def call(self, inputs):
                return ops.sum(self.embedding(inputs) ** 3, axis=(1, 2))

        model = Summed()
        model(inputs)
        model.compile(keras.optimizers.SGD(1e-2), "mse", jit_compile=jit_compile)
        model.train_on_batch(inputs, np.array([1.0, 2.0, 3.0], "float32"))
        return [ops.convert_to_numpy(x) for x in model.embedding.tables.values()]

    user = np.array([1, 2, 2], "int32")
    padded = np.array([[1, 4, 9], [0, 0, 0], [2, 0, 0]], "int32")
    pair = (np.array([1, 4, 9, 2, 0], "int32"), np.array([0, 3, 3, 5], "int32"))
    expected = step({"user": user, "genres": padded})
    found = step({"user": user, "genres": pair})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert not np.allclose(expected[1], 1.0)


def test_row_splits_first_in_a_symbolic_call():
    layer = FeatureEmbedding([MultiCategorical("genres", 5)], 3)
    pair = (
        keras.KerasTensor((None,), dtype="int32"),
        keras.KerasTensor((4,), dtype="int32"),
    )
    assert layer({"genres": pair}).shape == (3, 1, 3)
    pair = (pair[0], keras.KerasTensor((None,), dtype="int32"))
    assert layer({"genres": pair}).shape == (None, 1, 3)


def test_errors(backend):
    user = Categorical("user", 5)
    make = FeatureEmbedding
    check_error("`features` must not be empty", lambda: make([], 2))
    check_error("`features` must be a list of", lambda: make(["user"], 2))
    check_error("distinct names.*'user' twice", lambda: make([user, user], 2))
    check_error("`dim` must be a positive integer", lambda: make([user], 0))
    check_error("`out_of_range` must be", lambda: make([user], 2, out_of_range="clip"))
    check_error("`l2` must be finite", lambda: make([user], 2, l2=-1.0))
    check_error("`l2` must name features", lambda: make([user], 2, l2={"item": 1.0}))
    check_error(
        "share a table.*'item'",
        lambda: make([user, Categorical("item", 6, table="user")], 2),
    )
    layer = make([user, MultiCategorical("genres", 4)], 2)
    good = {"user": np.array([1]), "genres": np.array([[1, 2]])}
    check_error("must be a dict", lambda: layer(np.array([1])))
    check_error("entry 'genres'", lambda: layer({"user": good["user"]}))
    check_error(
        r"'user' must be integers: .* 2\^24",
        lambda: layer({**good, "user": np.array([1.0])}),
    )
    check_error(r"\(batch,\) or", lambda: layer({**good, "user": np.array([[1, 2]])}))
    check_error(r"\(batch, length\)", lambda: layer({**good, "genres": np.array([1])}))
    pair = (np.array([[1]]), np.array([0, 1]))
    check_error(r"row splits.*\(1, 1\)", lambda: layer({**good, "genres": pair}))
    check_error(
        "'user' must be integers",
        lambda: layer(
            {"user": keras.Input(()), "genres": keras.Input((None,), dtype="int32")}
        ),
    )
    if backend == "tensorflow":
        check_error(
            "Encoder", lambda: layer({**good, "user": np.array(["a"], dtype=object)})
        )


def test_a_row_that_no_value_reads_may_be_nan():
    features = [MultiCategorical("genres", 4), Categorical("sex", 3, mask_zero=True)]
    layer = FeatureEmbedding(features, 2, l2=0.5, embeddings_initializer="ones")
    batch = {
        "genres": np.array([[1, 2, 0], [0, 0, 0]], "int32"),
        "sex": np.array([1, 0], "int32"),
    }
    layer.build()
    for table in layer.tables.values():
        rows = ops.convert_to_numpy(table).copy()
        rows[0] = np.nan  # the padding's row
        table.assign(rows)
    before = layer.get_weights()
    assert np.isfinite(ops.convert_to_numpy(layer(batch))).all()
    inputs = {feature.name: feature.keras_input() for feature in features}
    model = keras.Model(inputs, ops.sum(layer(inputs), axis=(1, 2)))
    # By whose norm a single NaN would reach all rows.
    model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0), "mse")
    assert np.isfinite(model.train_on_batch(batch, np.zeros(2, "float32")))
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(np.isfinite(other), np.isfinite(one))


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_missing_number_is_zero_whatever_its_vector(use_bias):
    layer = FeatureEmbedding([Numeric("age", use_bias=use_bias)], 2)
    layer.build()
    layer.set_weights([np.full_like(w, np.nan) for w in layer.get_weights()])
    output = ops.convert_to_numpy(layer({"age": np.array([np.nan, 1.0])}))
    assert np.isfinite(output).all(axis=(1, 2)).tolist() == [True, False]


def test_some_fields_alone(rng):
    features = [
        Categorical("user", 5),
        Numeric("age"),
        MultiCategorical("genres", 4),
    ]
    layer = FeatureEmbedding(features, 3, l2=0.5)
    batch = {
        "user": np.array([1, 4]),
        "age": np.array([0.5, np.nan], "float32"),
        "genres": np.array([[1, 3], [0, 0]]),
    }
    every = ops.convert_to_numpy(layer(batch))
    some = layer.fields({n: batch[n] for n in ("genres", "user")}, ["genres", "user"])
    np.testing.assert_array_equal(ops.convert_to_numpy(some), every[:, [2, 0]])
    check_error("`names` must name some of", lambda: layer.fields(batch, ["film"]))
    check_error("`names` must name some of", lambda: layer.fields(batch, []))
