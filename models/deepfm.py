from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import keras
from keras import ops

from fmlayers._checks import boolean, choice
from fmlayers._types import Tensor
from fmlayers.features import Feature
from fmlayers.layers import RatingScaler
from fmlayers.models._tower import Tower, check_tower
from fmlayers.models.factorization_machine import FactorizationMachine
from fmlayers.scoring_model import Decomposition, ScoringModel, Terms

Part = Literal["linear", "fm", "deep"]


@keras.saving.register_keras_serializable(package="fmlayers")
class DeepFM(FactorizationMachine):
    """Adds hidden layers over the vectors of a factorization machine to its score.

        score = b + sum_f w_f + sum_{f<g} <v_f, v_g> + <h, a>
        a = hidden layers over [v_1, ..., v_F]
        rating = scaler(score)

    As in the paper, the three parts are added without weights: each part can learn its
    scale. The deep part <h, a> is linear in the last hidden layer a. With a ReLU on its
    output, it could raise scores but never lower them, and would stop learning where it
    is 0. It has no bias, which would duplicate b.

    `first_order`, `pairs` and `deep` compute the parts separately, and `part` returns a
    model of one part. The inherited `decompose` is that of the factorization machine,
    without the deep part: retrieval uses it to find candidates, which the whole model
    then ranks.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`.
        dim: Positive integer, the embedding dimension.
        scaler: Optional `RatingScaler`. Defaults to `None` (the rating is the score).
        hidden_units: Non-empty list of positive integers, the sizes of the hidden
            layers. Defaults to `(64, 64)`.
        dropout: Float, at least 0 and less than 1, the dropout rate of each hidden
            layer. Defaults to 0.
        batch_normalization: Boolean, whether to use batch normalization in each hidden
            layer, before the activation. Defaults to `False`.
        activation: Activation of the hidden layers. Defaults to `"relu"`.
        **kwargs: `l2`, `linear_l2`, `out_of_range`, `embeddings_initializer`,
            `bias_initializer`, `encoder` and `trainable` of `FactorizationMachine`,
            with the same defaults, and arguments of `keras.Model`. `l2` applies to the
            vectors, not to the weights of the hidden layers.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.
        training: Optional Boolean, whether to apply dropout and to normalize with the
            statistics of the batch instead of the moving averages.

    Input shape:
        A dict, as in `FeatureEmbedding`.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Numeric("age")]
    >>> model = fmlayers.models.DeepFM(features, dim=8, hidden_units=[32, 16])
    >>> batch = {"user": np.array([3, 7]), "age": np.array([0.3, np.nan])}
    >>> tuple(model(batch).shape)
    (2, 1)
    >>> model.part("deep").predict(batch, verbose=0).shape
    (2, 1)

    References:
        Guo, H., Tang, R., Ye, Y., Li, Z. and He, X. (2017). DeepFM: A
        Factorization-Machine based Neural Network for CTR Prediction. IJCAI,
        equations 1 to 4. The line after equation 4 also applies the activation to the
        deep output, which this model does not; see above.
    """

    decomposition: Decomposition = "partial"  # without the deep part

    def __init__(
        self,
        features: Sequence[Feature],
        dim: int,
        scaler: RatingScaler | None = None,
        *,
        hidden_units: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        batch_normalization: bool = False,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        **kwargs: Any,
    ) -> None:
        # Before `super().__init__`, which builds the model.
        self.hidden_units, self.dropout = check_tower(hidden_units, dropout)
        self.batch_normalization = boolean("batch_normalization", batch_normalization)
        self.activation = keras.activations.get(activation)
        super().__init__(features, dim, scaler, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.tower = Tower(
            self.hidden_units,
            [feature.name for feature in self.features],
            self.activation,
            self.dropout,
            self.batch_normalization,
            dtype=self.dtype_policy,
            name="tower",
        )
        self.tower.build((None, len(self.features) * self.dim))
        self.output_layer = keras.layers.Dense(
            1, use_bias=False, dtype=self.linear.dtype_policy, name="output"
        )
        self.output_layer.build((None, self.hidden_units[-1]))
        super().build(input_shape)

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        # One call for both parts: each call of the embedding adds its L2 to the loss.
        vectors = self.factors(inputs)
        pairs = self.interaction(vectors)
        deep = self._deep(vectors, training)
        return self.bias + self.first_order(inputs) + pairs + deep

    def deep(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        """Returns the deep part <h, a>, `(batch, 1)`."""
        return self._deep(self.factors(inputs), training)

    def part(self, name: Part) -> keras.Model:
        """Returns a model of one part of the score, which shares this model's weights.

        It has the same inputs and the same methods. The weights are not copied:
        training either model changes both. It cannot be saved; save the whole model.

        Args:
            name: `"linear"`, `"fm"` or `"deep"`, the part that `first_order`, `pairs`
                or `deep` computes. The score is the sum of the three parts and b.
        """
        choice("name", name, get_args(Part))
        parts: dict[str, tuple[Callable[..., Tensor], list[keras.layers.Layer]]] = {
            "linear": (lambda x, training: self.first_order(x), [self.linear]),
            "fm": (lambda x, training: self.pairs(x), [self.factors]),
            "deep": (self.deep, [self.factors, self.tower, self.output_layer]),
        }
        return _Part(
            self.features,
            *parts[name],
            name=f"{self.name}_{name}",
            dtype=self.dtype_policy,
        )

    def rescale(self, scale: float, offset: float) -> None:
        super().rescale(scale, offset)
        first = self.tower.hidden[0].kernel
        first.assign(first * scale**-0.5)  # its inputs are the vectors of the FM
        self.output_layer.kernel.assign(self.output_layer.kernel * scale)

    def terms(self, inputs: Mapping[str, Tensor]) -> Terms:
        deep = ops.convert_to_numpy(ops.cast(self.deep(inputs), "float32"))
        return replace(super().terms(inputs), rest=deep[:, 0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "dropout": self.dropout,
            "batch_normalization": self.batch_normalization,
            "activation": keras.activations.serialize(self.activation),
        }

    def _deep(self, vectors: Tensor, training: bool | None) -> Tensor:
        joined = ops.reshape(vectors, (-1, len(self.features) * self.dim))
        return self.output_layer(self.tower(joined, training=training))


class _Part(ScoringModel):
    """A model whose score is a function of another model.

    The layers that the function uses are attributes of the model: compiled code treats
    the weights of any other layer as constants.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        part: Callable[..., Tensor],
        layers: list[keras.layers.Layer],
        **kwargs: Any,
    ) -> None:
        super().__init__(features, **kwargs)
        self.part = part
        self.parts = layers
        self.built = True

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        return self.part(inputs, training)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "A part of a `DeepFM` cannot be saved: save the whole model, and call "
            "`part` of the loaded model."
        )
