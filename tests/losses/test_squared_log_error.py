import keras
import numpy as np
from keras import ops

from fmlayers import RatingScaler
from fmlayers.losses import SquaredLogError


def test_is_the_squared_error_of_the_logarithms(rng):
    targets, predictions = rng.exponential(50, 30), rng.exponential(50, (30, 1))
    expected = (np.log1p(predictions[:, 0]) - np.log1p(targets)) ** 2
    loss = SquaredLogError(reduction="none")(targets, predictions)
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-4)
    weights = rng.random(30)
    mean = SquaredLogError(reduction="mean_with_sample_weight")
    np.testing.assert_allclose(
        float(mean(targets, predictions, sample_weight=weights)),
        np.average(expected, weights=weights),
        rtol=1e-4,
    )


def test_is_the_squared_error_of_the_scores_before_the_scaler():
    """A step of rate 1 shows the gradient of the score, 2 (score - ln(1 + y)) / n."""
    scores = np.array([[-0.5], [0.0], [1.5], [9.0]])  # below, at and above the bounds
    targets = np.array([3.0, 5.0, 0.0, 40.0])
    scaler = RatingScaler(0.0, 50.0, "clip", transform="log1p")
    for layer, loss, y in (
        (scaler, SquaredLogError(), targets),
        (RatingScaler(0.0, np.log1p(50.0), "clip"), "mse", np.log1p(targets)),
    ):
        scores_layer = keras.layers.Dense(1, use_bias=False)
        model = keras.Sequential([keras.Input((4,)), scores_layer, layer])
        scores_layer.set_weights([scores])
        model.compile(keras.optimizers.SGD(1.0), loss)
        model.train_on_batch(np.eye(4), y[:, None])
        after = scores_layer.get_weights()[0]
        if layer is scaler:
            stepped = after
    np.testing.assert_allclose(stepped, after, rtol=1e-4, atol=1e-5)
    assert (np.abs(stepped - scores) > 0.1).all()


def test_is_restored():
    loss = SquaredLogError(reduction="sum")
    clone = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(clone) is SquaredLogError
    assert clone.get_config() == loss.get_config()
