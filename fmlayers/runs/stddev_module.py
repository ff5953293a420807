import tensorflow as tf

from fmlayers._types import Tensor
from fmlayers.runs.posterior_samples import PosteriorSamples, stddev_of


class StddevModule(tf.Module):
    """Computes standard deviations in a graph of TensorFlow, for a SavedModel.

    Args:
        samples: The samples of a run.
    """

    def __init__(self, samples: PosteriorSamples) -> None:
        super().__init__()
        self._samples = samples
        # One variable for all samples of a weight.
        self._weights = [tf.Variable(w, trainable=False) for w in samples.weights]
        self._fixed = [v.value for v in samples.model.non_trainable_variables]

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """Returns the standard deviations, `(batch, 1)`; see `PosteriorSamples`."""

        def score(weights: list[Tensor]) -> Tensor:
            fixed = [tf.convert_to_tensor(x) for x in self._fixed]
            outputs, _ = self._samples.model.stateless_call(weights, fixed, inputs)
            return outputs[:, 0]

        weights = [tf.convert_to_tensor(x) for x in self._weights]
        scores = tf.map_fn(score, weights, fn_output_signature=tf.float32)
        stddev = stddev_of(self._samples.run.config, scores, self._samples.noise)
        return tf.expand_dims(stddev, 1)
