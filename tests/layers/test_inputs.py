"""Inputs in every supported form, and errors that name the entry."""

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import (
    Categorical,
    FeatureEmbedding,
    FMInteraction,
    History,
    MultiCategorical,
    Numeric,
    select_inputs,
)
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

USER, ITEM = Categorical("user", 5), Categorical("item", 5)
FEATURES = [MultiCategorical("genres", 6), USER, Numeric("age")]
BATCH = {
    "genres": np.array([[1, 3], [0, 0], [2, 0]], "int32"),
    "user": np.array([1, 2, 3], "int32"),
    "age": np.array([0.5, np.nan, -1.0], "float32"),
}
PAIR = (np.array([1, 3, 2], "int32"), np.array([0, 2, 2, 3], "int32"))
PAIR_OF_6 = (np.arange(1, 5, dtype="int32"), np.array([0, 1, 1, 3, 3, 3, 4], "int32"))
OF_FIELDS = {
    "fm": lambda: FactorizationMachine(FEATURES, 2),
    "deepfm": lambda: DeepFM(FEATURES, 2, hidden_units=[3]),
    "libfm": lambda: LibFM(FEATURES, 2),
    "ensemble": lambda: Ensemble.of(2, lambda: LibFM(FEATURES, 2)),
}
OF_TWO = {
    "mf": lambda: MatrixFactorization(USER, ITEM, 2),
    "neumf": lambda: NeuralMatrixFactorization(USER, ITEM, 2, hidden_units=[3]),
}


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("name", OF_FIELDS)
def test_a_pair_of_inputs_in_a_functional_model(name):
    model = OF_FIELDS[name]()
    values, splits = (keras.Input((), dtype="int32", name=n) for n in ("v", "s"))
    inputs = {
        "genres": (values, splits),
        "user": keras.Input((), dtype="int32", name="user"),
        "age": keras.Input((), name="age"),
    }
    output = model(inputs)
    assert output.shape == (None, 1)
    functional = keras.Model(inputs, output)
    found = functional({**BATCH, "genres": PAIR})
    np.testing.assert_allclose(numpy(found), numpy(model(BATCH)), rtol=1e-6)


def test_the_batch_is_that_of_the_entry_that_knows_it():
    splits = keras.KerasTensor((4,), dtype="int32")
    genres = (keras.KerasTensor((None,), dtype="int32"), splits)
    user = keras.KerasTensor((None,), dtype="int32")
    age = keras.KerasTensor((None, 1))
    inputs = {"genres": genres, "user": user, "age": age}
    for features in (FEATURES, FEATURES[::-1]):
        assert FactorizationMachine(features, 2)(inputs).shape == (3, 1)
        assert FeatureEmbedding(features, 2)(inputs).shape == (3, 3, 2)


@pytest.mark.parametrize("name", OF_TWO)
def test_a_model_of_user_and_item_rejects_several_ids(name):
    model = OF_TWO[name]()
    inputs = {"user": USER.keras_input(), "item": ITEM.keras_input()}
    assert model(inputs).shape == (None, 1)
    pair = (keras.Input((), dtype="int32"), keras.Input((), dtype="int32"))
    for item in (pair, PAIR):
        inputs = {"user": np.array([1, 2, 3]), "item": item}
        check_error("'item' must be of shape.*shapes", lambda x=inputs: model(x))


@pytest.fixture
def sparse(backend):
    if backend != "tensorflow":
        pytest.skip("only TensorFlow parses to sparse tensors")
    import tensorflow as tf

    indices = [[0, 0], [0, 1], [2, 0]]
    return tf.sparse.SparseTensor(indices, np.array([1, 3, 2], "int64"), [3, 2])


def test_sparse_ids_equal_padded_ones(sparse):
    import tensorflow as tf

    model = FactorizationMachine(FEATURES, 2, embeddings_initializer="ones")
    expected = model(BATCH)
    batch = {name: tf.constant(x) for name, x in BATCH.items()} | {"genres": sparse}
    np.testing.assert_allclose(model(batch), expected, rtol=1e-6)
    np.testing.assert_allclose(tf.function(model)(batch), expected, rtol=1e-6)
    inputs = {f.name: f.keras_input() for f in FEATURES}
    inputs["genres"] = keras.Input((None,), None, "int64", sparse=True, name="genres")
    functional = keras.Model(inputs, model(inputs))
    np.testing.assert_allclose(functional(batch), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_training_on_parsed_examples(sparse, jit_compile):
    import tensorflow as tf

    spec = {
        "genres": tf.io.VarLenFeature(tf.int64),
        "user": tf.io.FixedLenFeature([], tf.int64),
        "age": tf.io.FixedLenFeature([], tf.float32),
    }

    def example(genres, user, age):
        ints = [tf.train.Int64List(value=x) for x in (genres, [user])]
        features = {
            "genres": tf.train.Feature(int64_list=ints[0]),
            "user": tf.train.Feature(int64_list=ints[1]),
            "age": tf.train.Feature(float_list=tf.train.FloatList(value=[age])),
        }
        features = tf.train.Features(feature=features)
        return tf.train.Example(features=features).SerializeToString()

    rows = zip([[1, 3], [], [2]], BATCH["user"], BATCH["age"], strict=True)
    parsed = tf.io.parse_example([example(*row) for row in rows], spec)
    weights = []
    for batch in (BATCH, parsed):
        model = FactorizationMachine(FEATURES, 2, embeddings_initializer="ones")
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
        data = tf.data.Dataset.from_tensors((batch, tf.constant([1.0, 2.0, 3.0])))
        model.fit(data, verbose=0, shuffle=False)
        weights.append(model.get_weights())
        assert model.predict(data, verbose=0).shape == (3, 1)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_sparse_entry_of_a_single_id_error(sparse):
    import tensorflow as tf

    model = FactorizationMachine(FEATURES, 2)
    user = tf.sparse.from_dense(BATCH["user"][:, None])
    symbolic = {f.name: f.keras_input() for f in FEATURES}
    symbolic["user"] = keras.Input((1,), dtype="int32", sparse=True)
    for inputs in ({**BATCH, "user": user}, symbolic):
        check_error("'user'.*sparse.*FixedLenFeature", lambda x=inputs: model(x))


BAD = {
    "a vector an example": ({"age": np.zeros((3, 384))}, "'age'.*use `Vector`"),
    "one number in all": ({"age": np.array(1.0)}, r"'age'.*\(batch,\).*shape \(\)"),
    "texts": ({"user": np.array(["a", "b", "c"])}, "'user' must be integers.*Encoder"),
    "objects": ({"user": np.array([1, "b", None], object)}, "'user'.*Encoder"),
    "numbers as texts": ({"age": np.array(["1", "2", "3"])}, "'age' must be numbers"),
    "floats as ids": ({"user": np.ones(3)}, r"'user' must be integers.*2\^24"),
    "multi-hot Booleans": ({"genres": np.ones((3, 6), bool)}, "'genres'.*np.where"),
    "multi-hot floats": ({"genres": np.ones((3, 6))}, "'genres' must be integers"),
    "ids of rank 1": ({"genres": np.ones(3, int)}, "'genres'.*`Categorical`"),
    "ids of rank 3": ({"genres": np.ones((3, 1, 1), int)}, r"'genres'.*\(3, 1, 1\)"),
    "many items for one user": (
        {"user": np.ones((1, 3), int)},
        "'user'.*repeat the user",
    ),
}
NO_ARRAYS = {
    "a list": ({"user": [1, 2, 3]}, r"'user'.*a list; convert it with"),
    "lists of lists": ({"genres": [[1], [2, 3], []]}, "'genres'.*a list"),
    "a scalar": ({"user": 3}, "'user'.*Received: 3, of type int"),
    "nothing": ({"age": None}, "'age'.*None"),
}


MAKERS = {"layer": lambda: FeatureEmbedding(FEATURES, 2), **OF_FIELDS}


@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_entry_error(name):
    layer = MAKERS[name]()
    for entries, message in [*BAD.values(), *NO_ARRAYS.values()]:
        check_error(message, lambda x=entries: layer({**BATCH, **x}))


@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_symbolic_entry_error(name):
    def symbolic(x):
        dtype = "string" if x.dtype.kind in "UO" else x.dtype.name
        return keras.KerasTensor(x.shape, dtype=dtype)

    layer = MAKERS[name]()
    for entries, message in BAD.values():
        inputs = {name: symbolic(x) for name, x in {**BATCH, **entries}.items()}
        check_error(message, lambda x=inputs: layer(x))


def test_a_ragged_entry_of_a_single_id_error(backend):
    if backend != "tensorflow":
        pytest.skip("ragged tensors exist on TensorFlow alone")
    import tensorflow as tf

    layer = FeatureEmbedding([USER], 2)
    for ragged in (
        tf.ragged.constant([[1, 2], [3]]),
        keras.Input((None,), dtype="int32", ragged=True),
    ):
        message = "'user'.*ragged tensor.*`MultiCategorical`"
        check_error(message, lambda x=ragged: layer({"user": x}))


@pytest.mark.parametrize("name", [*OF_FIELDS, *OF_TWO])
def test_one_user_with_many_items_error(name):
    model = {**OF_FIELDS, **OF_TWO}[name]()
    if name in OF_TWO:
        batch = {"user": np.array([1]), "item": np.array([1, 2, 3])}
    else:
        batch = {**BATCH, "user": np.array([1])}
    message = "1 of 'user' and 3 of '.*repeat the user: `np.repeat"
    check_error(message, lambda: model(batch))
    check_error(message, lambda: model.score(batch))
    symbolic = {
        name: keras.KerasTensor(x.shape, dtype=x.dtype.name)
        for name, x in batch.items()
    }
    check_error(message, lambda: model(symbolic))


def test_an_example_has_one_own_value():
    # They would broadcast.
    features = [
        History("rated", 5, of="user", num_keys=5, values="item", num_pairs=1),
    ]
    layer = FeatureEmbedding(features, 2)
    layer.set_history("rated", [1], [2])
    check_error(
        "1 of 'user' and 3 of 'item'",
        lambda: layer({"user": np.array([1]), "item": np.array([1, 2, 3])}),
    )
    check_error(
        "entry 'item', which feature 'rated' reads, must be of shape",
        lambda: layer({"user": np.array([1]), "item": np.array([[1, 2]])}),
    )


def test_fields_alone_are_checked_too():
    layer = FeatureEmbedding(FEATURES, 2)
    batch = {"user": np.array([1]), "age": np.array([1.0, 2.0])}
    check_error("1 of 'user' and 2", lambda: layer.fields(batch, ["user", "age"]))


@pytest.fixture
def in_float64(backend):
    if backend == "jax":
        pytest.skip("JAX has 64 bits only with x64")
    for dtype in ("float64", "float32"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)  # Keras keeps the one it once made
        if dtype == "float64":
            yield


def test_numbers_follow_floatx(in_float64):
    assert Numeric("age").keras_input().dtype == "float64"
    assert USER.keras_input().dtype != "float64"
    batch = {
        "user": np.array([1, 1]),
        "genres": np.array([[1], [1]]),
        "age": np.array([1.0, 1.0 + 1e-12]),  # the same in float32
    }
    inputs = {feature.name: feature.keras_input() for feature in FEATURES}
    vectors = FeatureEmbedding(FEATURES, 2, embeddings_initializer="ones")(inputs)
    for model in (
        keras.Model(inputs, FMInteraction()(vectors)),
        FactorizationMachine(FEATURES, 2, embeddings_initializer="ones"),
        DeepFM(FEATURES, 2, hidden_units=[3], embeddings_initializer="ones"),
    ):
        for found in (numpy(model(batch)), model.predict(batch, verbose=0)):
            assert found.dtype == "float64"
            assert found[0, 0] != found[1, 0]


def test_numbers_are_float32_by_default():
    assert Numeric("age").keras_input().dtype == "float32"


def test_a_functional_model_reads_wrong_columns_unless_they_are_selected():
    features = [USER, Categorical("film", 5)]
    inputs = {feature.name: feature.keras_input() for feature in features}
    vectors = FeatureEmbedding(features, 2, embeddings_initializer="ones")(inputs)
    model = keras.Model(inputs, vectors)
    for i, table in enumerate(model.layers[-1].tables.values()):
        table.assign(np.eye(6)[:, 2 * i : 2 * i + 2])
    batch = {"user": np.array([1]), "film": np.array([3])}
    expected = numpy(model(batch))
    more = {"day": np.array([2]), **batch}
    # Keras' issue 23258: once this fails, it is mended there.
    with pytest.warns(UserWarning, match="structure of `inputs` doesn't match"):
        found = numpy(model(more))
    assert not np.array_equal(found, expected)
    found = numpy(model(select_inputs(features, more)))
    np.testing.assert_array_equal(found, expected)
    layer = model.layers[-1]
    np.testing.assert_array_equal(numpy(layer(more)), expected)


def test_select_inputs_keeps_the_entries_of_a_history():
    history = History("rated", 5, of="user", num_keys=5, values="item", num_pairs=1)
    batch = {"day": 1, "user": 2, "item": 3}
    assert select_inputs([history], batch) == {"user": 2, "item": 3}
    assert select_inputs([history], {"user": 2, "day": 1}) == {"user": 2}
    check_error("an entry 'user'", lambda: select_inputs([history], {"item": 3}))
    check_error("must be a dict", lambda: select_inputs([history], [2, 3]))


def some_inputs(form, rng):
    """Returns inputs of 6 examples whose shapes depend on `form`, and targets."""
    shape = (6, 1) if form % 2 else (6,)
    ids = {name: rng.integers(0, 5, shape).astype("int32") for name in ("user", "item")}
    genres = rng.integers(0, 6, (6, 1 + form)).astype("int32")
    age = rng.normal(size=shape).astype("float32")
    return {**ids, "genres": genres, "age": age}, np.ones(6, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("name", ["fm", "neumf"])
def test_one_or_two_axes_in_any_order(name, run_eagerly, first, rng):
    model = {**OF_FIELDS, **OF_TWO}[name]()
    model.compile("sgd", "mse", run_eagerly=run_eagerly)
    for form in (first, 1 - first):
        inputs, targets = some_inputs(form, rng)
        expected = numpy(model(inputs))
        found = model.predict(inputs, batch_size=4, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(model.predict_on_batch(inputs), found, atol=1e-6)
        loss = model.evaluate(inputs, targets, batch_size=4, verbose=0)
        np.testing.assert_allclose(loss, np.mean((expected - 1) ** 2), rtol=1e-4)
        model.fit(inputs, targets, batch_size=4, verbose=0)
        model.train_on_batch(inputs, targets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jit_compile", "steps_per_execution"), [(False, 2), (False, 1), (True, 1)]
)
def test_forms_of_ids_in_any_order(jit_compile, steps_per_execution, backend, rng):
    if backend == "torch" and (jit_compile or steps_per_execution > 1):
        pytest.skip("torch.compile takes a minute; check_layer tries it elsewhere")
    pairs = [{**some_inputs(form, rng)[0], "genres": PAIR_OF_6} for form in (0, 1)]
    forms = [some_inputs(0, rng)[0], pairs[1], some_inputs(3, rng)[0], pairs[0]]
    if backend == "tensorflow" and not jit_compile:
        import tensorflow as tf

        ragged = tf.RaggedTensor.from_row_splits(*PAIR_OF_6)
        forms.insert(1, {**forms[0], "genres": ragged})
        sparse = tf.sparse.from_dense(some_inputs(1, rng)[0]["genres"])
        forms.insert(3, {**some_inputs(1, rng)[0], "genres": sparse})
    model = OF_FIELDS["fm"]()
    model.compile(
        "sgd",
        "mse",
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    for inputs in forms:
        expected = numpy(model(inputs))
        np.testing.assert_allclose(model.predict_on_batch(inputs), expected, atol=1e-6)
        if not isinstance(inputs["genres"], tuple):
            found = model.predict(inputs, batch_size=2, verbose=0)
            np.testing.assert_allclose(found, expected, atol=1e-6)
        model.train_on_batch(inputs, np.ones(6, "float32"))


def test_two_axes_after_one_in_predict(rng):
    model = OF_FIELDS["fm"]()
    for form in (0, 1):
        inputs, _ = some_inputs(form, rng)
        expected = numpy(model(inputs))
        np.testing.assert_allclose(
            model.predict(inputs, verbose=0), expected, atol=1e-6
        )


def test_a_wrong_shape_after_a_right_one_error(rng):
    for entry, x in (("user", np.ones((6, 2), "int32")), ("genres", np.arange(6))):
        model = OF_FIELDS["fm"]()
        model.compile("sgd", "mse", jit_compile=False)
        inputs, _ = some_inputs(0, rng)
        model.predict(inputs, verbose=0)
        with pytest.raises(Exception, match=rf"(?s){entry}.*must be of shape \(batch"):
            model.predict({**inputs, entry: x}, verbose=0)
