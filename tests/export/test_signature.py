"""Inputs are named after the features, ids are integers, lengths are dynamic."""

import keras
import numpy as np
import pytest
from keras import ops

import fmlayers
from fmlayers.export import export
from fmlayers.export.signature import outer_names, signature_of

pytestmark = pytest.mark.usefixtures("on_tensorflow")


class Own(keras.Model):
    """A subclassed model with an entry that is no feature's."""

    def __init__(self, features):
        super().__init__()
        self.vectors = fmlayers.FeatureEmbedding(features, 2)

    def call(self, inputs):
        first = ops.sum(self.vectors(inputs), axis=(1, 2))
        return first, ops.expand_dims(inputs["price"], 1)


class OfFloats(keras.Model):
    def call(self, inputs):
        return inputs["x"] * 2.0


def specs(signature):
    return {entry.name: (entry.dtype, entry.shape) for entry in signature.inputs}


def test_features_tell_the_inputs(every_kind):
    model = fmlayers.models.FactorizationMachine(every_kind, 2)
    signature = signature_of(model)
    assert specs(signature) == {
        "user": ("int64", (None,)),
        "item": ("int64", (None,)),
        "genres": ("int64", (None, None)),
        "age": ("float32", (None,)),
    }
    assert dict(signature.outputs).keys() == {"score"}
    meanings = {entry.name: entry.meaning for entry in signature.inputs}
    assert meanings["user"] == "an id 1 ... 29; 0: missing"
    assert meanings["item"] == "an id 0 ... 19"
    assert meanings["genres"] == "ids 1 ... 8, padded with 0"
    assert meanings["age"].endswith("NaN: missing")


def test_a_history_s_own_entries_are_inputs(every_kind):
    layer = fmlayers.FeatureEmbedding(every_kind[-1:], 2)

    class Alone(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def call(self, inputs):
            return self.layer(inputs)

    signature = signature_of(Alone())
    assert specs(signature) == {
        "user": ("int64", (None,)),
        "item": ("int64", (None,)),
    }
    assert list(signature.outputs) == ["output"]


def test_a_functional_model_s_inputs_tell(every_kind):
    user, item = every_kind[:2]
    inputs = [user.keras_input(), keras.Input((), dtype="int32", name="item")]
    given = dict(zip(("user", "item"), inputs, strict=True))
    vectors = fmlayers.FeatureEmbedding([user, item], 2)(given)
    pairs = fmlayers.FMInteraction(name="pairs")(vectors)
    model = keras.Model(inputs, [pairs, keras.layers.Flatten(name="flat")(vectors)])
    signature = signature_of(model)
    assert specs(signature) == {"user": ("int64", (None,)), "item": ("int32", (None,))}
    assert list(signature.outputs) == ["pairs", "flat"]
    found = signature.function({"user": np.array([1, 2]), "item": np.array([3, 19])})
    expected = model([np.array([1, 2]), np.array([3, 19])])
    np.testing.assert_array_equal(found["pairs"], expected[0])


def test_an_input_signature_is_taken(every_kind):
    given = {
        "user": keras.InputSpec(shape=(None,), dtype="int32"),
        "price": keras.InputSpec(shape=(None,), dtype="float32"),
    }
    for signature in (given, [given]):
        found = signature_of(Own(every_kind[:1]), signature)
        assert specs(found) == {
            "user": ("int32", (None,)),
            "price": ("float32", (None,)),
        }
        assert list(found.outputs) == ["output_0", "output_1"]


def test_a_part_of_a_model(every_kind):
    model = fmlayers.models.DeepFM(every_kind[:2], 2, hidden_units=[2])
    assert specs(signature_of(model.part("deep"))).keys() == {"user", "item"}


def test_an_entry_that_is_no_feature_s_error(every_kind):
    message = "must contain every entry that the model reads(.|\n)*price"
    with (
        pytest.warns(UserWarning, match="unbuilt state"),  # Keras'
        pytest.raises(ValueError, match=message),
    ):
        signature_of(Own(every_kind[:1]))


def test_inputs_that_cannot_be_told_error():
    with pytest.raises(ValueError, match="no `FeatureEmbedding`.*Received: OfFloats"):
        signature_of(OfFloats())


@pytest.mark.parametrize(
    "given", [7, [], {"user": 3}, {"user": keras.InputSpec(shape=(None,))}]
)
def test_input_signature_error(given, every_kind):
    with pytest.raises(ValueError, match="`input_signature` must be a dict"):
        signature_of(Own(every_kind[:1]), given)


def test_a_ragged_input_error(every_kind):
    user = every_kind[0]
    ragged = keras.Input((None,), dtype="int64", name="genres", ragged=True)
    genres = fmlayers.FeatureEmbedding(every_kind[2:3], 2)({"genres": ragged})
    model = keras.Model([ragged], fmlayers.FMInteraction()(genres))
    with pytest.raises(ValueError, match="ragged input 'genres'. Use a padded"):
        signature_of(model)
    assert user.name == "user"


def test_names_that_all_formats_can_have():
    names = ["user", "User", "user id", "user_id", "größe", "年齢", "地", "1st", "self"]
    assert outer_names(names) == {
        "user": "user",
        "User": "User_2",
        "user id": "user_id",
        "user_id": "user_id_2",
        "größe": "gr__e",
        "年齢": "input_",
        "地": "input__2",
        "1st": "input_1st",
        "self": "self_2",
    }
    assert outer_names(["k"], reserved=["k"]) == {"k": "k_2"}


@pytest.mark.slow
def test_odd_names_reach_every_format(tmp_path, shaken):
    import onnxruntime
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    names = ["user", "User", "user id", "größe", "年齢", "1st", "a/b:0"]
    features = [fmlayers.Categorical(name, 5) for name in names]
    model = shaken(fmlayers.models.FactorizationMachine(features, 2))
    batch = {name: np.array([i % 5, 4 - i % 4]) for i, name in enumerate(names)}
    expected = model.score(batch).numpy()
    outer = outer_names(names)
    given = {outer[name]: x for name, x in batch.items()}
    path = export(model, tmp_path / "model")
    run = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = run(**{name: tf.constant(x) for name, x in given.items()})["score"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    path = export(model, tmp_path / "model.tflite", "litert")
    found = Interpreter(str(path)).get_signature_runner()(**given)["score"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    path = export(model, tmp_path / "model.onnx", "onnx")
    (found,) = onnxruntime.InferenceSession(path).run(["score"], given)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_serve_is_called_as_keras_calls_it(tmp_path, every_kind, shaken):
    import tensorflow as tf

    model = shaken(fmlayers.models.MatrixFactorization(*every_kind[:2], 2))
    model.export(tmp_path / "model", format="tf_saved_model")
    batch = {"user": np.array([1, 2]), "item": np.array([3, 4])}
    tensors = {name: tf.constant(x) for name, x in batch.items()}
    found = tf.saved_model.load(str(tmp_path / "model")).serve(tensors)
    np.testing.assert_allclose(found["score"], model(batch), atol=1e-6)


def test_a_subclass_exports_what_its_call_returns(tmp_path, every_kind, shaken):
    class Doubled(fmlayers.models.MatrixFactorization):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    model = shaken(Doubled(*every_kind[:2], 2))
    batch = {"user": np.array([1, 2]), "item": np.array([3, 4])}
    signature = signature_of(model)
    assert list(signature.outputs) == ["output"]
    np.testing.assert_allclose(signature.function(batch)["output"], model(batch))


def test_lists_of_positions(tmp_path, every_kind, shaken):
    import tensorflow as tf

    user, item, history = every_kind[0], every_kind[1], every_kind[-1]
    model = fmlayers.models.FactorizationMachine([user, item, history], 2)
    model.factors.set_history("rated", [1, 1, 2, 4], [7, 9, 7, 3])
    top = fmlayers.retrieval.TopN(shaken(model), ["item"], 20, k=4)
    top.index({"item": np.arange(20)}).export(tmp_path / "top")
    run = tf.saved_model.load(str(tmp_path / "top")).signatures["serving_default"]
    assert run.structured_input_signature[1].keys() == {"user", "exclude"}
    users, exclude = (
        np.array([1, 2, -1]),
        np.array([[3, 5], [-1, 0], [-1, -1]], "int32"),
    )
    found = run(user=tf.constant(users), exclude=tf.constant(exclude))
    scores, positions = top({"user": users}, exclude=exclude)
    np.testing.assert_array_equal(found["positions"], positions)
    np.testing.assert_allclose(found["scores"], scores, atol=1e-6)


def test_entries_left_out_of_an_input_signature_are_those_of_the_features(every_kind):
    price = {"price": keras.InputSpec(shape=(None,), dtype="float32")}
    found = signature_of(Own(every_kind[:2]), price)
    assert specs(found) == {
        "user": ("int64", (None,)),
        "item": ("int64", (None,)),
        "price": ("float32", (None,)),
    }
    meanings = {entry.name: entry.meaning for entry in found.inputs}
    assert meanings["item"] == "an id 0 ... 19"
    item = {"item": keras.InputSpec(shape=(None, 1), dtype="int32")}
    model = fmlayers.models.MatrixFactorization(*every_kind[:2], 2)
    assert specs(signature_of(model, item)) == {
        "user": ("int64", (None,)),
        "item": ("int32", (None, 1)),
    }


def test_entries_that_a_model_can_do_without_are_not_added(every_kind):
    class Halved(keras.Model):
        """Makes the ids that the features read from another entry."""

        def __init__(self):
            super().__init__()
            self.vectors = fmlayers.FeatureEmbedding(every_kind[:1], 2)

        def call(self, inputs):
            return self.vectors({"user": inputs["twice"] // 2})

    twice = {"twice": keras.InputSpec(shape=(None,), dtype="int32")}
    assert specs(signature_of(Halved(), twice)) == {"twice": ("int32", (None,))}


def test_an_entry_that_is_in_no_signature_error(every_kind):
    other = {"prize": keras.InputSpec(shape=(None,), dtype="float32")}
    message = r"must contain every entry .*\['prize', 'user'\](.|\n)*price"
    with pytest.raises(ValueError, match=message):
        signature_of(Own(every_kind[:1]), other)


def test_a_functional_model_s_input_signature(every_kind):
    user, item = every_kind[:2]
    inputs = [user.keras_input(), item.keras_input()]
    given = dict(zip(("user", "item"), inputs, strict=True))
    vectors = fmlayers.FeatureEmbedding([user, item], 2)(given)
    model = keras.Model(inputs, fmlayers.FMInteraction(name="pairs")(vectors))
    # In another order, and not all of them.
    given = {"item": keras.InputSpec(shape=(None,), dtype="int32")}
    signature = signature_of(model, given)
    assert specs(signature) == {"user": ("int64", (None,)), "item": ("int32", (None,))}
    users, items = np.array([1, 2]), np.array([3, 19])
    found = signature.function({"item": items, "user": users})["pairs"]
    np.testing.assert_array_equal(found, model([users, items]))
    with pytest.raises(ValueError, match=r"inputs of the model, \['user', 'item'\]"):
        signature_of(model, {"film": keras.InputSpec(shape=(None,), dtype="int32")})


def test_numbers_are_of_the_model_s_policy(every_kind):
    model = fmlayers.models.FactorizationMachine(every_kind[:4], 2, dtype="float64")
    assert specs(signature_of(model))["age"] == ("float64", (None,))
    model = fmlayers.models.FactorizationMachine(
        every_kind[:4], 2, dtype="mixed_bfloat16"
    )
    assert specs(signature_of(model))["age"] == ("float32", (None,))
