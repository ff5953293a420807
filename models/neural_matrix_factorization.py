from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import integer
from fmlayers._inputs import input_shapes
from fmlayers._types import OutOfRange, Tensor
from fmlayers.features import Categorical
from fmlayers.layers import FeatureEmbedding, RatingScaler
from fmlayers.models._tower import Tower, check_tower
from fmlayers.scoring_model import ScoringModel

if TYPE_CHECKING:
    from fmlayers.data import Encoder


@keras.saving.register_keras_serializable(package="fmlayers")
class NeuralMatrixFactorization(ScoringModel):
    """Scores a user and an item by a product of vectors plus hidden layers.

        score = b + <h, p_user * q_item> + <g, a>
        a = hidden layers over [r_user, s_item]
        rating = scaler(score)

    The first tower is the generalized matrix factorization of the paper: with h = 1 it
    would be `MatrixFactorization` without biases. The second tower has separate
    vectors, so that the two embedding dimensions can differ. h and g are the two halves
    of the last layer in the paper. The paper applies a sigmoid, for implicit feedback;
    here the score stays linear, and the scaler maps it to a rating. The bias b, which
    the paper does not have, lets ratings start at their mean. `gmf` and `mlp` compute
    the towers separately.

    Args:
        user: `Categorical`, the feature of the user.
        item: `Categorical`, the feature of the item.
        dim: Positive integer, the dimension of p and q.
        scaler: Optional `RatingScaler`. Defaults to `None` (the rating is the score).
        hidden_units: Non-empty list of positive integers, the sizes of the hidden
            layers. Defaults to `(64, 32, 16)`.
        mlp_dim: Optional positive integer, the dimension of r and s. Defaults to `dim`.
        dropout: Float, at least 0 and less than 1, the dropout rate of each hidden
            layer. Defaults to 0.
        activation: Activation of the hidden layers. Defaults to `"relu"`.
        l2: Float, or a dict from feature name to float, the L2 of the vectors of both
            towers, not of the weights of the layers; see `FeatureEmbedding`. Defaults
            to 0.01, a compromise: about 0.06 is best for ratings of 1 ... 5, and about
            0.005 for implicit feedback.
        out_of_range: `"unknown"`, `"zero"` or `"error"`, the treatment of ids outside
            the vocabulary; see `FeatureEmbedding`. Defaults to `"unknown"`.
        embeddings_initializer: Initializer of the vectors, or a dict from the name of
            a feature to an initializer or an array of pretrained vectors; see
            `FeatureEmbedding`. Defaults to `RandomNormal(stddev=0.01)`.
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
        training: Optional Boolean, whether to apply dropout.

    Input shape:
        A dict of `(batch,)` or `(batch, 1)`.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> model = fmlayers.models.NeuralMatrixFactorization(
    ...     fmlayers.Categorical("user", 943),
    ...     fmlayers.Categorical("item", 1682),
    ...     dim=8,
    ...     scaler=fmlayers.RatingScaler(1, 5),
    ... )
    >>> tuple(model({"user": np.array([3]), "item": np.array([7])}).shape)
    (1, 1)

    References:
        He, X., Liao, L., Zhang, H., Nie, L., Hu, X. and Chua, T.-S. (2017).
        Neural Collaborative Filtering. WWW, equations 8 and 9 (the first tower), 10
        (the second) and 12 (their sum).
    """

    built: bool

    def __init__(
        self,
        user: Categorical,
        item: Categorical,
        dim: int,
        scaler: RatingScaler | None = None,
        *,
        hidden_units: Sequence[int] = (64, 32, 16),
        mlp_dim: int | None = None,
        dropout: float = 0.0,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        l2: float | Mapping[str, float] = 0.01,
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
        units, dropout = check_tower(hidden_units, dropout)
        dim = integer("dim", dim)
        mlp_dim = None if mlp_dim is None else integer("mlp_dim", mlp_dim)
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
        self.hidden_units = units
        self.mlp_dim = mlp_dim
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.gmf_factors, self.mlp_factors = (
            FeatureEmbedding(
                [user, item],
                size,
                out_of_range=out_of_range,
                l2=l2,
                embeddings_initializer=embeddings_initializer,
                trainable=trainable if isinstance(trainable, Mapping) else True,
                dtype=self.dtype_policy,
                name=name,
            )
            for name, size in (
                ("gmf_factors", dim),
                ("mlp_factors", dim if mlp_dim is None else mlp_dim),
            )
        )
        self.tower = Tower(
            units,
            [user.name, item.name],
            self.activation,
            dropout,
            dtype=self.dtype_policy,
            name="tower",
        )
        self.gmf_output, self.mlp_output = (
            keras.layers.Dense(
                1,
                use_bias=False,
                dtype=accumulation_dtype(self.compute_dtype),
                name=name,
            )
            for name in ("gmf_output", "mlp_output")
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        shapes = input_shapes(self.features)
        self.gmf_factors.build(shapes)
        self.mlp_factors.build(shapes)
        self.tower.build((None, 2 * self.mlp_factors.dim))
        self.gmf_output.build((None, self.dim))
        self.mlp_output.build((None, self.hidden_units[-1]))
        if self.scaler is not None:
            self.scaler.build((None, 1))
        self.bias = self.add_weight(
            shape=(1,),
            initializer=self.bias_initializer,
            dtype=self.gmf_output.variable_dtype,
            autocast=False,
            name="bias",
        )
        self.built = True

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        return self.bias + self.gmf(inputs) + self.mlp(inputs, training)

    def gmf(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns the first tower's <h, p_user * q_item>, `(batch, 1)`."""
        vectors = ops.cast(self.gmf_factors(inputs), self.gmf_output.compute_dtype)
        return self.gmf_output(vectors[:, 0] * vectors[:, 1])

    def mlp(self, inputs: Mapping[str, Tensor], training: bool | None = None) -> Tensor:
        """Returns the second tower's <g, a>, without b, `(batch, 1)`."""
        vectors = self.mlp_factors(inputs)
        joined = ops.reshape(vectors, (-1, 2 * self.mlp_factors.dim))
        return self.mlp_output(self.tower(joined, training=training))

    def rescale(self, scale: float, offset: float) -> None:
        for layer in (self.gmf_output, self.mlp_output):
            layer.kernel.assign(layer.kernel * scale)
        self.bias.assign(self.bias * scale + offset)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        factors = self.gmf_factors
        config = super().get_config()
        del config["features"]
        return {
            **config,
            "user": serialize(self.user),
            "item": serialize(self.item),
            "dim": self.dim,
            "hidden_units": list(self.hidden_units),
            "mlp_dim": self.mlp_dim,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "l2": factors.l2,
            "out_of_range": factors.out_of_range,
            "embeddings_initializer": serialize(factors.embeddings_initializer),
            "bias_initializer": serialize(self.bias_initializer),
        }
