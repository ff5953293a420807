from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import integer
from fmlayers._inputs import input_shapes
from fmlayers._types import OutOfRange, Tensor
from fmlayers.features import Feature
from fmlayers.layers import FeatureEmbedding, FMInteraction, RatingScaler
from fmlayers.scoring_model import Decomposition, ScoringModel, Terms

if TYPE_CHECKING:
    from fmlayers.data import Encoder


@keras.saving.register_keras_serializable(package="fmlayers")
class FactorizationMachine(ScoringModel):
    """Scores an example by its fields and by all pairs of them.

        score = b + sum_f w_f + sum_{f<g} <v_f, v_g>
        rating = scaler(score)

    where w_f and v_f are the outputs of `FeatureEmbedding` for field f, of size 1 and
    `dim`. Over a user and an item only, it equals `MatrixFactorization` with biases.
    All weights exist as soon as the model is constructed; `compile`, `fit` and
    `predict` are those of Keras.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`.
        dim: Positive integer, the embedding dimension.
        scaler: Optional `RatingScaler`. Defaults to `None` (the rating is the score).
        l2: Float, or a dict from feature name to float, the L2 of the vectors; see
            `FeatureEmbedding`. Defaults to 0.01, a compromise: about 0.06 is best for
            ratings of 1 ... 5, and about 0.005 for implicit feedback.
        linear_l2: Same as `l2`, for the first-order weights. Defaults to 0.005.
        out_of_range: `"unknown"`, `"zero"` or `"error"`, the treatment of ids outside
            the vocabulary; see `FeatureEmbedding`. Defaults to `"unknown"`.
        embeddings_initializer: Initializer of the vectors, or a dict from the name of
            a feature to an initializer or an array of pretrained vectors; see
            `FeatureEmbedding`. Defaults to `RandomNormal(stddev=0.01)`. The first-order
            term starts at 0.
        bias_initializer: Initializer of b. With `Constant(scaler.inverse(mean))` the
            ratings start at the mean rating. Defaults to `"zeros"`.
        encoder: Optional `fmlayers.data.Encoder`, saved with the model, so that a
            loaded model has its vocabulary. The model does not call it.
        trainable: Boolean, or a dict from the name of a feature or a table to a
            Boolean, which applies to the vectors; see `FeatureEmbedding`. Defaults to
            `True`.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.

    Input shape:
        A dict, as in `FeatureEmbedding`.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> features = [
    ...     fmlayers.Categorical("user", 943),
    ...     fmlayers.Categorical("item", 1682),
    ...     fmlayers.MultiCategorical("genres", 19),
    ... ]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> batch = {
    ...     "user": np.array([3]),
    ...     "item": np.array([7]),
    ...     "genres": np.array([[1, 5]]),
    ... }
    >>> tuple(model(batch).shape)
    (1, 1)

    References:
        Rendle, S. (2010). Factorization Machines. ICDM, equation 1.
    """

    built: bool
    decomposition: Decomposition = "exact"

    def __init__(
        self,
        features: Sequence[Feature],
        dim: int,
        scaler: RatingScaler | None = None,
        *,
        l2: float | Mapping[str, float] = 0.01,
        linear_l2: float | Mapping[str, float] = 0.005,
        out_of_range: OutOfRange = "unknown",
        embeddings_initializer: Any = None,
        bias_initializer: Any = "zeros",
        encoder: "Encoder | None" = None,
        trainable: bool | Mapping[str, bool] = True,
        **kwargs: Any,
    ) -> None:
        dim = integer("dim", dim)
        super().__init__(
            features,
            scaler,
            encoder=encoder,
            trainable=trainable,
            **kwargs,
        )
        self.dim = dim
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.factors = FeatureEmbedding(
            features,
            dim,
            out_of_range=out_of_range,
            l2=l2,
            embeddings_initializer=embeddings_initializer,
            trainable=trainable if isinstance(trainable, Mapping) else True,
            dtype=self.dtype_policy,
            name="factors",
        )
        self.linear = FeatureEmbedding(
            features,
            1,
            out_of_range=out_of_range,
            l2=linear_l2,
            embeddings_initializer="zeros",
            dtype=accumulation_dtype(self.compute_dtype),
            name="linear",
        )
        self.interaction = FMInteraction(dtype=self.dtype_policy, name="interaction")
        self.build()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        shapes = input_shapes(self.features)
        self.factors.build(shapes)
        if self.scaler is not None:
            self.scaler.build((None, 1))
        self.linear.histories = self.factors.histories
        self.linear.build(shapes)
        self.bias = self.add_weight(
            shape=(1,),
            initializer=self.bias_initializer,
            dtype=self.linear.variable_dtype,
            autocast=False,
            name="bias",
        )
        self.interaction.build((None, len(self.features), self.dim))
        self.built = True

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        return self.bias + self.first_order(inputs) + self.pairs(inputs)

    def first_order(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the first-order term sum_f w_f, without b, `(batch, 1)`."""
        return ops.sum(self.linear(inputs), axis=1)

    def pairs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the second-order term sum_{f<g} <v_f, v_g>, `(batch, 1)`."""
        return self.interaction(self.factors(inputs))

    def decompose(
        self, inputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Returns the constant and the vector of a group of fields.

            c = sum_f w_f + sum_{f<g} <v_f, v_g>,  s = sum_f v_f,  over the group

        See `ScoringModel.decompose`.
        """
        vectors = self.factors.fields(inputs, names)
        constant = ops.sum(self.linear.fields(inputs, names), axis=1)
        total = ops.sum(ops.cast(vectors, self.linear.compute_dtype), axis=1)
        return constant + self.interaction(vectors), total

    def terms(self, inputs: Mapping[str, Tensor]) -> Terms:
        return Terms.of_pairs(self.factors(inputs), self.linear(inputs), self.bias)

    def rescale(self, scale: float, offset: float) -> None:
        self.factors.rescale(scale**0.5)
        self.linear.rescale(scale)
        self.bias.assign(self.bias * scale + offset)

    def l2_of(self, name: str) -> tuple[float, float]:
        return self.factors.l2_of(name), self.linear.l2_of(name)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "dim": self.dim,
            "l2": self.factors.l2,
            "linear_l2": self.linear.l2,
            "out_of_range": self.factors.out_of_range,
            "embeddings_initializer": serialize(self.factors.embeddings_initializer),
            "bias_initializer": serialize(self.bias_initializer),
        }
