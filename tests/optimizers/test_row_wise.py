"""One number per row; the steps are compared with loops in `test_rows.py`."""

import keras
import numpy as np
import pytest
from keras import ops

from fmlayers import Categorical, FeatureEmbedding, Numeric
from fmlayers.optimizers import Adagrad, LazyAdam

ROWS, DIM = 6, 4
KINDS = [(Adagrad, {}), (LazyAdam, {}), (LazyAdam, {"amsgrad": True})]
IDS = [f"{kind.__name__}{options or ''}" for kind, options in KINDS]


def make(kind, options, dim=DIM, rows=ROWS):
    keras.utils.set_random_seed(0)
    features = [Categorical("user", rows), Numeric("age")]
    inputs = {
        "user": keras.Input((), dtype="int32", name="user"),
        "age": keras.Input((), name="age"),
    }
    model = keras.Model(inputs, FeatureEmbedding(features, dim)(inputs))
    model.compile(kind(0.1, **options), loss="mse")
    batch = {"user": np.array([1, 2, 1]), "age": np.ones(3, "float32")}
    model.train_on_batch(batch, np.ones((3, 2, dim), "float32"))
    return model


def slots(optimizer):
    """Returns the optimizer's variables but for the count of steps and the rate."""
    return [ops.convert_to_numpy(v) for v in optimizer.variables[2:]]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=IDS)
def test_squares_of_a_table_are_one_number_per_row(kind, options):
    optimizer = make(kind, {**options, "row_wise": True}).optimizer
    shapes = [slot.shape for slot in slots(optimizer)]
    table = [shape for shape in shapes if shape[0] == ROWS + 1]  # and unknown ids
    assert table == (kind is LazyAdam) * [(ROWS + 1, DIM)] + [(ROWS + 1, 1)] * (
        1 + len(options)
    )
    vectors = [shape for shape in shapes if shape not in table]
    assert set(vectors) == {(DIM,)}


def test_the_accumulator_is_the_sum_of_means_of_squares(rng):
    optimizer = Adagrad(row_wise=True, initial_accumulator_value=0.5)
    variable = keras.Variable(np.zeros((3, DIM)))
    optimizer.build([variable])
    gradient = rng.normal(size=(3, DIM)).astype("float32")
    optimizer.apply([ops.convert_to_tensor(gradient)])
    (accumulator,) = slots(optimizer)
    expected = 0.5 + np.square(gradient).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(accumulator, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_rows_of_one_number_step_as_elementwise(kind):
    one, other = (make(kind, {"row_wise": each}, dim=1) for each in (False, True))
    for mine, elementwise in zip(other.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(mine, elementwise, rtol=1e-6)
    other.optimizer.set_weights([v.numpy() for v in one.optimizer.variables])


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=IDS)
def test_a_state_of_the_other_kind_is_refused(kind, options, saved, tmp_path):
    source = make(kind, {**options, "row_wise": saved})
    target = make(kind, {**options, "row_wise": not saved})
    source.save_weights(tmp_path / "model.weights.h5")
    message = f"`row_wise` must be {saved}, as in .* Received: row_wise={not saved}"
    with pytest.raises(ValueError, match=message):
        target.load_weights(tmp_path / "model.weights.h5")
    state = [ops.convert_to_numpy(v) for v in source.optimizer.variables]
    with pytest.raises(ValueError, match=message):
        target.optimizer.set_weights(state)
    same = make(kind, {**options, "row_wise": saved})
    same.load_weights(tmp_path / "model.weights.h5")
    for mine, theirs in zip(
        slots(same.optimizer), slots(source.optimizer), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_a_state_of_other_rows_is_not_called_one_of_the_other_kind(kind):
    source, target = (make(kind, {"row_wise": True}, rows=n) for n in (ROWS, 9))
    state = [ops.convert_to_numpy(v) for v in source.optimizer.variables]
    with pytest.raises(ValueError, match="not compatible with provided weight shape"):
        target.optimizer.set_weights(state)


@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
def test_the_setting_is_saved_and_a_file_without_it_loads(kind):
    config = kind(row_wise=True).get_config()
    assert config["row_wise"] is True
    assert kind.from_config(config).row_wise is True
    del config["row_wise"]
    assert kind.from_config(config).row_wise is False


@pytest.mark.parametrize("kind", [Adagrad, LazyAdam])
@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_the_setting_must_be_a_boolean(kind, value):
    with pytest.raises(ValueError, match="`row_wise` must be True or False"):
        kind(row_wise=value)
