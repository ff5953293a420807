"""Tables and vectors that are rows of one variable."""

import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops

from fmlayers import Categorical, FeatureEmbedding, History, MultiCategorical, Numeric
from fmlayers.layers._rows_view import RowsView
from fmlayers.models import FactorizationMachine
from fmlayers.optimizers import Adagrad

USER, ITEM, TAGS = (
    Categorical("user", 5),
    Categorical("item", 4),
    MultiCategorical("tags", 3),
)
AGE, YEAR = Numeric("age", use_bias=True), Numeric("year")
FEATURES = [USER, AGE, ITEM, YEAR, TAGS]
BATCH = {
    "user": np.array([1, 4, 9], "int32"),
    "item": np.array([3, 1, 0], "int32"),
    "tags": np.array([[1, 2], [0, 0], [2, 0]], "int32"),
    "age": np.array([0.5, np.nan, -1.0], "float32"),
    "year": np.array([1.0, 2.0, -1.0], "float32"),
}
RATINGS = np.array([1.0, 3.0, 5.0], "float32")


def numpy(x):
    return ops.convert_to_numpy(x).copy()


def built(features=FEATURES, **kwargs):
    layer = FeatureEmbedding(features, 2, **kwargs)
    layer.build()
    return layer


def contents(layer):
    return {key: numpy(weight) for key, weight in layer.named_weights().items()}


def test_tables_and_vectors_are_rows_of_two_variables():
    layer = built()
    assert [w.path.split("/")[-1] for w in layer.weights] == ["embeddings", "vectors"]
    assert [tuple(w.shape) for w in layer.weights] == [(6 + 5 + 4, 2), (3, 2)]
    rows = numpy(layer.weights[0])
    for name, part in (("user", rows[:6]), ("item", rows[6:11]), ("tags", rows[11:])):
        table = layer.tables[name]
        assert (table.name, table.shape) == (f"{name}_embeddings", part.shape)
        assert table.path == f"{layer.name}/{name}_embeddings"
        assert table.dtype == "float32"
        assert str(part.shape) in repr(table)
        for found in (table.numpy(), np.asarray(table), numpy(table), table.value):
            np.testing.assert_array_equal(numpy(found), part)
        np.testing.assert_array_equal(numpy(ops.convert_to_tensor(table)), part)
    vector, bias = layer.vectors["age"], layer.biases["age"]
    assert vector.shape == bias.shape == (2,)
    np.testing.assert_array_equal(bias.numpy(), numpy(layer.weights[1])[1])
    assert np.asarray(vector, "float64").dtype == "float64"


def test_assigning_changes_these_rows_alone(rng):
    layer = built()
    before = contents(layer)
    for key, weight in layer.named_weights().items():
        before[key] = rng.normal(size=weight.shape).astype("float32")
        weight.assign(before[key])
        for name, values in contents(layer).items():
            np.testing.assert_array_equal(values, before[name])
    message = r"`value` must have the shape \(6, 2\) of .*user.*shape \(5, 2\)"
    check_error(message, lambda: layer.tables["user"].assign(np.ones((5, 2))))
    check_error(r"\(2,\)", lambda: layer.vectors["age"].assign(np.ones((1, 2))))


def test_a_weight_without_neighbors_and_one_of_a_history_are_variables():
    layer = built([USER, YEAR])
    assert isinstance(layer.tables["user"], keras.Variable)
    assert isinstance(layer.vectors["year"], keras.Variable)
    rated = History("rated", 4, of="user", num_keys=5, values="item", num_pairs=2)
    layer = built([USER, ITEM, rated, TAGS])
    kinds = {name: type(table) is RowsView for name, table in layer.tables.items()}
    assert kinds == {"user": True, "item": True, "rated": False, "tags": True}


def test_each_weight_starts_as_in_a_layer_of_its_own():
    initializer = keras.initializers.RandomNormal()
    keras.utils.set_random_seed(1)
    together = contents(built(embeddings_initializer=initializer))
    keras.utils.set_random_seed(1)
    alone = {}
    for feature in FEATURES:
        alone |= contents(built([feature], embeddings_initializer=initializer))
    assert together.keys() == alone.keys()
    for key, values in alone.items():
        np.testing.assert_array_equal(together[key], values)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_frozen_rows_stay(late, jit_compile, backend):
    if jit_compile and backend == "torch":
        pytest.skip("torch.compile takes a minute")
    frozen = ["item", "year"]
    flags = {} if late else dict.fromkeys(frozen, False)
    model = FactorizationMachine(
        FEATURES, 2, trainable=flags, embeddings_initializer="ones"
    )
    layer = model.factors
    if late:
        layer.tables["item"].trainable = layer.vectors["year"].trainable = False
    model.compile(Adagrad(0.1, weight_decay=0.1), "mse", jit_compile=jit_compile)
    before = contents(layer)
    model.train_on_batch(BATCH, RATINGS)
    after = contents(layer)
    moved = {key for key in before if (before[key] != after[key]).any()}
    expected = {key for key in before if key[1] not in frozen}
    assert moved == expected


def test_a_variable_is_frozen_with_all_of_its_rows():
    layer = built()
    tables, vectors = layer.weights
    for table in layer.tables.values():
        assert tables.trainable
        table.trainable = False
    assert layer.trainable_weights == [vectors]
    layer.tables["item"].trainable = True
    assert layer.trainable_weights == [tables, vectors]
    layer.trainable = False
    assert not any(weight.trainable for weight in layer.named_weights().values())
    layer.trainable = True
    assert all(weight.trainable for weight in layer.named_weights().values())


def test_weights_that_the_constructor_froze_can_be_unfrozen():
    flags = {"item": False}
    for make in (built, lambda **kwargs: FactorizationMachine(FEATURES, 2, **kwargs)):
        layer = make(trainable=flags)
        embedding = getattr(layer, "factors", layer)
        shapes = [tuple(weight.shape) for weight in embedding.weights]
        assert shapes[0] == (6 + 4, 2)
        embedding.tables["item"].trainable = True
        clone = type(layer).from_config(layer.get_config())
        clone.build()
        copied = getattr(clone, "factors", clone)
        assert copied.tables["item"].trainable
        assert [tuple(weight.shape) for weight in copied.weights] == shapes
