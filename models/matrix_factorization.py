from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import boolean, integer
from fmlayers._inputs import input_shapes
from fmlayers._types import OutOfRange, Tensor
from fmlayers.features import Categorical
from fmlayers.layers import FeatureEmbedding, RatingScaler
from fmlayers.scoring_model import Decomposition, ScoringModel, Terms

if TYPE_CHECKING:
    from fmlayers.data import Encoder


@keras.saving.register_keras_serializable(package="fmlayers")
class MatrixFactorization(ScoringModel):
    """Scores a user and an item by the inner product of their vectors.

        score = b + b_user + b_item + <p_user, q_item>
        rating = scaler(score)

    With `use_bias=False` the three biases are omitted. All weights exist as soon as the
    model is constructed; `compile`, `fit` and `predict` are those of Keras.

    Args:
        user: `Categorical`, the feature of the user.
        item: `Categorical`, the feature of the item.
        dim: Positive integer, the embedding dimension.
        use_bias: Boolean, whether to learn biases. Defaults to `True`.
        scaler: Optional `RatingScaler`. Defaults to `None` (the rating is the score).
        l2: Float, or a dict from feature name to float, the L2 of the vectors; see
            `FeatureEmbedding`. Defaults to 0.01, a compromise: about 0.06 is best for
            ratings of 1 ... 5, and about 0.005 for implicit feedback.
        linear_l2: Same as `l2`, for the biases of users and items. Defaults to 0.005.
        out_of_range: `"unknown"`, `"zero"` or `"error"`, the treatment of ids outside
            the vocabulary; see `FeatureEmbedding`. Defaults to `"unknown"`.
        embeddings_initializer: Initializer of the vectors, or a dict from the name of
            a feature to an initializer or an array of pretrained vectors; see
            `FeatureEmbedding`. Defaults to `RandomNormal(stddev=0.01)`. The biases of
            users and items start at 0.
        bias_initializer: Initializer of b. With `Constant(scaler.inverse(mean))` the
            ratings start at the mean rating. Defaults to `"zeros"`.
        encoder: Optional `fmlayers.data.Encoder`, saved with the model, so that a
            loaded model has its vocabulary. The model does not call it.
        trainable: Boolean, or a dict from the name of a feature or a table to a
            Boolean, which applies to the vectors; see `FeatureEmbedding`. Defaults to
            `True`.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dict from feature name to ids.

    Input shape:
        A dict of `(batch,)` or `(batch, 1)`.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> model = fmlayers.models.MatrixFactorization(
    ...     fmlayers.Categorical("user", 943),
    ...     fmlayers.Categorical("item", 1682),
    ...     dim=16,
    ...     scaler=fmlayers.RatingScaler(1, 5),
    ... )
    >>> tuple(model({"user": np.array([3]), "item": np.array([7])}).shape)
    (1, 1)

    References:
        Koren, Y., Bell, R. and Volinsky, C. (2009). Matrix Factorization
        Techniques for Recommender Systems. IEEE Computer 42(8), equations 4
        and 5.
    """

    built: bool
    decomposition: Decomposition = "exact"

    def __init__(
        self,
        user: Categorical,
        item: Categorical,
        dim: int,
        use_bias: bool = True,
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
        for argument, feature in (("user", user), ("item", item)):
            if not isinstance(feature, Categorical):
                raise ValueError(
                    f"`{argument}` must be a `Categorical` feature. "
                    f"Received: {argument}={feature!r}."
                )
        dim, use_bias = integer("dim", dim), boolean("use_bias", use_bias)
        super().__init__(
            [user, item],
            scaler,
            encoder=encoder,
            trainable=trainable,
            **kwargs,
        )
        self.user = user
        self.item = item
        self.dim = dim
        self.use_bias = use_bias
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.factors = FeatureEmbedding(
            [user, item],
            dim,
            out_of_range=out_of_range,
            l2=l2,
            embeddings_initializer=embeddings_initializer,
            trainable=trainable if isinstance(trainable, Mapping) else True,
            dtype=self.dtype_policy,
            name="factors",
        )
        self.linear = FeatureEmbedding(
            [user, item],
            1,
            out_of_range=out_of_range,
            l2=linear_l2,
            embeddings_initializer="zeros",
            dtype=accumulation_dtype(self.compute_dtype),
            name="linear",
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        shapes = input_shapes(self.features)
        self.factors.build(shapes)
        if self.scaler is not None:
            self.scaler.build((None, 1))
        if self.use_bias:
            self.linear.build(shapes)
            self.bias = self.add_weight(
                shape=(1,),
                initializer=self.bias_initializer,
                dtype=self.linear.variable_dtype,
                autocast=False,
                name="bias",
            )
        self.built = True

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        vectors = ops.cast(self.factors(inputs), self.linear.compute_dtype)
        score = ops.sum(vectors[:, 0] * vectors[:, 1], axis=-1, keepdims=True)
        if self.use_bias:
            score = score + ops.sum(self.linear(inputs), axis=1) + self.bias
        return score

    def decompose(
        self, inputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Returns the biases and the vectors of users or of items.

        Args:
            inputs: Dict with the entry of the named feature.
            names: List with the name of the user feature or of the item feature.

        Returns:
            `(batch, 1)` and `(batch, dim)`, in float32.
        """
        if len(names) != 1:
            raise ValueError(
                "`names` must have either the name of the user feature or that of the "
                f"item feature. Received: {list(names)}."
            )
        vectors = ops.cast(
            self.factors.fields(inputs, names), self.linear.compute_dtype
        )
        constant = ops.zeros_like(vectors[:, 0, :1])
        if self.use_bias:
            constant = ops.sum(self.linear.fields(inputs, names), axis=1)
        return constant, vectors[:, 0]

    def terms(self, inputs: Mapping[str, Tensor]) -> Terms:
        vectors = self.factors(inputs)
        if not self.use_bias:
            return Terms.of_pairs(vectors)
        return Terms.of_pairs(vectors, self.linear(inputs), self.bias)

    def rescale(self, scale: float, offset: float) -> None:
        if offset and not self.use_bias:
            raise ValueError(
                "`offset` must be 0 without biases. "
                f"Received: offset={offset}, use_bias=False."
            )
        self.factors.rescale(scale**0.5)
        if self.use_bias:
            self.linear.rescale(scale)
            self.bias.assign(self.bias * scale + offset)

    def l2_of(self, name: str) -> tuple[float, float]:
        return self.factors.l2_of(name), self.linear.l2_of(name)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        config = super().get_config()
        del config["features"]
        return {
            **config,
            "user": serialize(self.user),
            "item": serialize(self.item),
            "dim": self.dim,
            "use_bias": self.use_bias,
            "l2": self.factors.l2,
            "linear_l2": self.linear.l2,
            "out_of_range": self.factors.out_of_range,
            "embeddings_initializer": serialize(self.factors.embeddings_initializer),
            "bias_initializer": serialize(self.bias_initializer),
        }
