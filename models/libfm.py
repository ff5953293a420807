from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fmlayers._backend import softplus
from fmlayers._checks import boolean
from fmlayers._pair_sum import sum_of_others
from fmlayers._types import Tensor
from fmlayers.features import Feature
from fmlayers.layers import RatingScaler
from fmlayers.models._fieldwise import BatchNormalization
from fmlayers.models.factorization_machine import FactorizationMachine
from fmlayers.scoring_model import Decomposition, Terms


@keras.saving.register_keras_serializable(package="fmlayers")
class LibFM(FactorizationMachine):
    """Scores an example by the product of each field with the sum of the others.

        score = b + sum_f w_f + 1/2 sum_f <v_f, S - v_f>,  S = sum_f v_f
        rating = scaler(score)

    Each pair is in two of the products, hence the factor 1/2. Without the two options
    below, the model equals `FactorizationMachine`, with the same weights and scores.
    `batch_normalization` normalizes one product per field, at the same cost of
    O(fields * dim).

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`.
        dim: Positive integer, the embedding dimension.
        scaler: Optional `RatingScaler`. Defaults to `None` (the rating is the score).
        batch_normalization: Boolean, whether to normalize the F products
            <v_f, S - v_f> over the batch, each with a learned scale and shift, before
            they are summed. The weight of a pair is then the mean of the scales of its
            two fields, so `decompose` is not available. Defaults to `False`.
        positive: Boolean, whether the rating is softplus(score) = log(1 + exp(score)),
            which is positive and has no upper bound, for counts, prices or times. A
            ReLU would stop learning where it is 0. It cannot be combined with `scaler`.
            With a bias of log(exp(mean) - 1), the ratings start at the mean. Defaults
            to `False`.
        **kwargs: `l2`, `linear_l2`, `out_of_range`, `embeddings_initializer`,
            `bias_initializer`, `encoder` and `trainable` of `FactorizationMachine`,
            with the same defaults, and arguments of `keras.Model`.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.
        training: Optional Boolean, whether to normalize with the statistics of the
            batch instead of the moving averages.

    Input shape:
        A dict, as in `FeatureEmbedding`.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If an argument is invalid, or `positive` is combined with a
            `scaler`.

    Example:

    Gradient clipping keeps the products of growing vectors from diverging:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Numeric("age")]
    >>> model = fmlayers.models.LibFM(features, dim=8, positive=True)
    >>> model.compile(keras.optimizers.Adam(1e-3, clipnorm=1.0), loss="mse")
    >>> batch = {"user": np.array([3, 7]), "age": np.array([0.3, np.nan])}
    >>> history = model.fit(batch, np.array([4.0, 2.0]), verbose=0)
    >>> bool((model.predict(batch, verbose=0) > 0.0).all())
    True

    References:
        Rendle, S. (2012). Factorization Machines with libFM. ACM TIST 3(3),
        equation 1.
    """

    decomposition: Decomposition = "exact"  # `None` with batch normalization

    def __init__(
        self,
        features: Sequence[Feature],
        dim: int,
        scaler: RatingScaler | None = None,
        *,
        batch_normalization: bool = False,
        positive: bool = False,
        **kwargs: Any,
    ) -> None:
        positive = boolean("positive", positive)
        batch_normalization = boolean("batch_normalization", batch_normalization)
        if positive and scaler is not None:
            raise ValueError(
                "`positive` must be False with a `scaler`, which bounds the rating "
                f"already. Received: positive={positive}, scaler={scaler!r}."
            )
        # Before `super().__init__`, which builds the model.
        self.batch_normalization = batch_normalization
        self.positive = positive
        if batch_normalization:
            self.decomposition = None
        if positive:
            scaler = keras.layers.Activation(softplus, autocast=False)
        super().__init__(features, dim, scaler, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        if self.batch_normalization:
            self.normalization = BatchNormalization(
                fields=[feature.name for feature in self.features],
                dtype=self.linear.dtype_policy,
                name="normalization",
            )
            self.normalization.build((None, len(self.features)))
        super().build(input_shape)

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        return self.bias + self.first_order(inputs) + self.pairs(inputs, training)

    def pairs(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        """Returns the second-order term 1/2 sum_f <v_f, S - v_f>, `(batch, 1)`."""
        if not self.batch_normalization:
            return super().pairs(inputs)
        vectors = ops.cast(self.factors(inputs), self.linear.compute_dtype)
        products = ops.sum(vectors * sum_of_others(vectors), axis=-1)
        products = self.normalization(products, training=training)  # (batch, fields)
        return 0.5 * ops.sum(products, axis=-1, keepdims=True)

    def decompose(
        self, inputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        if self.batch_normalization:
            raise ValueError(
                "`batch_normalization` must be False for `decompose`. "
                "Received: batch_normalization=True."
            )
        return super().decompose(inputs, names)

    def rescale(self, scale: float, offset: float) -> None:
        if self.batch_normalization or self.positive:
            raise NotImplementedError(
                "`rescale` is not defined with `batch_normalization` or `positive`."
            )
        super().rescale(scale, offset)

    def terms(self, inputs: Mapping[str, Tensor]) -> Terms:
        terms = super().terms(inputs)
        if not self.batch_normalization:
            return terms
        scales, shifts = self.normalization.scales_and_shifts()
        pairs = np.triu(terms.matrix, k=1)
        scaled = pairs * ((scales[:, None] + scales) / 2.0)
        return Terms(
            terms.bias + float(shifts.sum()) / 2.0,
            terms.matrix - pairs + scaled,
            terms.rest,
        )

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "batch_normalization": self.batch_normalization,
            "positive": self.positive,
        }
        if self.positive:
            config["scaler"] = None
        return config
