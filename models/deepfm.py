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
    """A factorization machine plus hidden layers over the same vectors.

        score = b + sum_f w_f + sum_{f<g} <v_f, v_g> + <h, a>
        a = hidden layers over [v_1, ..., v_F]
        rating = scaler(score)

    As in the paper, the three parts are added with no weights of their own: each
    can scale itself. The deep part <h, a> is linear in its last hidden layer a: a
    ReLU on it could raise a score and never lower it, and would stop learning
    wherever it is 0. Its own bias would be a second b, and is left out.

    `first_order`, `pairs` and `deep` compute the parts one by one, `part` makes
    models of them that predict. The inherited `decompose` is that of the
    factorization machine, without the deep part: with it, retrieval can find
    candidates that the whole model then ranks.

    Args:
        features: List of `Categorical`, `MultiCategorical` and `Numeric`.
        dim: Positive integer, the size of a field's vector.
        scaler: Optional `RatingScaler`. Defaults to `None`: the rating is the
            score.
        hidden_units: Non-empty list of positive integers, the sizes of the hidden
            layers. Defaults to `(64, 64)`.
        dropout: Float, at least 0 and less than 1, the share of each hidden
            layer's outputs that training drops. Defaults to 0.
        batch_normalization: Boolean, whether to normalize each hidden layer over
            the batch, before its activation. Defaults to `False`.
        activation: Activation of the hidden layers. Defaults to `"relu"`.
        **kwargs: `l2`, `linear_l2`, `out_of_range`, `embeddings_initializer`,
            `bias_initializer` and `encoder` of `FactorizationMachine`, with its
            defaults, and arguments of `keras.Model`. `l2` counts the vectors, not
            the weights of the hidden layers.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.
        training: Optional Boolean, whether to drop outputs and to normalize by
            the batch at hand instead of by the moving averages.

    Input shape:
        A dict, as of `FeatureEmbedding`.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If an argument breaks its constraint.

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
        equations 1 to 4. The line after equation 4 puts the activation around
        the deep output, too; with a ReLU this would be what is told above.
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
        # Before the base class, which builds at the end of its own `__init__`.
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
        # Once for both parts: each call of the embedding adds its L2 to the loss.
        vectors = self.factors(inputs)
        pairs = self.interaction(vectors)
        deep = self._deep(vectors, training)
        return self.bias + self.first_order(inputs) + pairs + deep

    def deep(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        """Returns the score's deep part, `(batch, 1)`; b is not in it."""
        return self._deep(self.factors(inputs), training)

    def part(self, name: Part) -> keras.Model:
        """Returns a model of one part of the score, with this model's own weights.

        It takes the same inputs, has the same methods and holds no copies: what
        one of the two learns, the other knows. Save the whole model instead.

        Args:
            name: `"linear"`, `"fm"` or `"deep"`: what `first_order`, `pairs` or
                `deep` compute. Together with the bias they make up the score.
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
    """Scores by a function of a model, and holds the layers that this one needs.

    Compiled code takes for variables what a model holds, and all else for constants.
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
            "A part of a DeepFM has no file of its own: save the whole model, and take "
            "the part of the loaded one."
        )
