from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import keras
from keras import ops

from fmlayers._checks import integer
from fmlayers._inputs import input_shapes
from fmlayers._types import Tensor
from fmlayers.scoring_model import ScoringModel, Terms

if TYPE_CHECKING:
    from fmlayers.data import Encoder


_UNIQUE = ("name", "dtype")


@keras.saving.register_keras_serializable(package="fmlayers")
class Ensemble(ScoringModel):
    """Averages the scores of models that are trained together.

        score = 1/M sum_m score_m
        rating = scaler(score)

    The training loss is the sum of the members' losses, each the compiled loss of one
    member's rating. A step therefore trains every member as if it were alone, on the
    same batches. Members differ only by their initial weights, so do not seed their
    initializers. Metrics, predictions and exports use the mean.

    The mean of factorization machines is a factorization machine with vectors M times
    as long. `decompose` returns these vectors, so retrieval remains one matrix product.

    Args:
        members: Non-empty list of `ScoringModel`s of one class, with the same features
            and the same scaler.
        encoder: Optional `fmlayers.data.Encoder`, saved with the model. The members do
            not need it.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.
        training: Optional Boolean, passed to the members.

    Input shape:
        A dict, as in the members.

    Output shape:
        `(batch, 1)`, in float32: the rating. A call of a compiled ensemble with
        `training=True`, as in `fit`, returns `(batch, 1 + M)`: the rating, then the
        ratings of the members, which `compute_loss` needs.

    Raises:
        ValueError: If `members` is empty, or a member differs from the first in class,
            features or scaler.

    Example:

    >>> features = [fmlayers.Categorical(name, 900) for name in ("user", "item")]
    >>> model = fmlayers.models.Ensemble.of(
    ...     4, lambda: fmlayers.models.FactorizationMachine(features, dim=8)
    ... )
    >>> model.compile(fmlayers.optimizers.Adagrad(0.05), loss="mse")
    >>> tuple(model({"user": np.array([3]), "item": np.array([7])}).shape)
    (1, 1)

    References:
        Hansen, L. K. and Salamon, P. (1990). Neural Network Ensembles. IEEE
        TPAMI 12(10), section 2 (members with different initial weights).
    """

    built: bool
    call_is_rating = True

    def __init__(
        self,
        members: Sequence[ScoringModel],
        *,
        encoder: "Encoder | None" = None,
        **kwargs: Any,
    ) -> None:
        members = list(members)
        if not members:
            raise ValueError("`members` must not be empty. Received: members=[].")
        first = members[0]
        for member in members:
            if (
                not isinstance(member, ScoringModel)
                or type(member) is not type(first)
                or member.features != first.features
                or _scaler_config(member.scaler) != _scaler_config(first.scaler)
            ):
                raise ValueError(
                    "`members` must be `ScoringModel`s of one class with the same "
                    f"features and the same scaler. Received: {first!r} and {member!r}."
                )
        super().__init__(first.features, first.scaler, encoder=encoder, **kwargs)
        self.members = members
        self.decomposition = first.decomposition
        self.build()

    @classmethod
    def of(cls, size: int, make: Callable[[], keras.Model], **kwargs: Any) -> Self:
        """Returns an ensemble of new models.

        Args:
            size: Positive integer, the number of members.
            make: Function without arguments that returns a new model.
            **kwargs: Arguments of the ensemble, such as `encoder`.
        """
        return cls([make() for _ in range(integer("size", size))], **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        for member in self.members:
            member.build(input_shapes(self.features))  # `summary` then shows shapes
        self.built = True

    @property
    def bias(self) -> Tensor | None:
        """The mean of the members' biases b, `(1,)`; `None` if they have none."""
        if self.members[0].bias is None:
            return None
        return _mean([ops.convert_to_tensor(member.bias) for member in self.members])

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        """Returns the mean of the members' raw scores, `(batch, 1)`."""
        return _mean(self._scores(inputs, training))

    def decompose(
        self, inputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Returns the constant and the vector of a group of fields.

        See `ScoringModel.decompose`.

        Args:
            inputs: Dict with the entries of the named features.
            names: Names of the features of the group.

        Returns:
            The mean of the members' constants, `(batch, 1)`, and their vectors,
            concatenated and divided by the square root of M, `(batch, M * dim)`.
        """
        constants, vectors = zip(
            *(member.decompose(inputs, names) for member in self.members), strict=True
        )
        joined = ops.concatenate(vectors, axis=-1) / len(self.members) ** 0.5
        return _mean(constants), joined

    def terms(self, inputs: Mapping[str, Tensor]) -> Terms:
        """Returns the mean of the members' terms."""
        return Terms.mean([member.terms(inputs) for member in self.members])

    def rescale(self, scale: float, offset: float) -> None:
        for member in self.members:
            member.rescale(scale, offset)

    def l2_of(self, name: str) -> tuple[float, float]:
        return self.members[0].l2_of(name)

    def call(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        scores = self._scores(self.with_histories(inputs), training)
        rating = self.rating(_mean(scores))
        if not (training and self.compiled):
            return rating
        return ops.concatenate([rating, *map(self.rating, scores)], axis=1)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if y_pred.shape[1] == 1:  # not in training: no ratings of the members
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        regularization = sum(self.losses)
        # Keras adds the regularization of all members to each of these losses.
        return regularization + sum(
            super(Ensemble, self).compute_loss(x, y, rating, sample_weight, training)
            - regularization
            for rating in ops.split(y_pred, len(self.members) + 1, axis=1)[1:]
        )

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        return super().compute_metrics(x, y, y_pred[:, :1], sample_weight)

    def compute_output_spec(
        self, inputs: Mapping[str, Any], training: bool | None = None, **kwargs: Any
    ) -> Any:
        spec = self.members[0].compute_output_spec(inputs, **kwargs)
        size = 1 + len(self.members) if training and self.compiled else 1
        return keras.KerasTensor((spec.shape[0], size), dtype=spec.dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("features", "scaler", "frozen", "quantized"):  # in the members
            config.pop(name, None)
        return {**config, "members": keras.saving.serialize_keras_object(self.members)}

    def _scores(
        self, inputs: Mapping[str, Tensor], training: bool | None
    ) -> list[Tensor]:
        return [member.score(inputs, training) for member in self.members]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values) / len(values)


def _scaler_config(scaler: Any) -> Any:
    """Returns the parts of a scaler's config that members must share."""
    if scaler is None:
        return None
    config = scaler.get_config()
    # While Keras loads a file, the `dtype` in a config has a shared object id.
    return scaler.compute_dtype, {k: config[k] for k in config if k not in _UNIQUE}
