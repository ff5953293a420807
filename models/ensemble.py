import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import keras
from keras import ops

from fmlayers._checks import integer
from fmlayers._config import restore
from fmlayers._exportable import Exportable
from fmlayers._types import Tensor
from fmlayers.layers._inputs import ChecksInputs, input_shapes

if TYPE_CHECKING:
    from fmlayers.data import Encoder


@keras.saving.register_keras_serializable(package="fmlayers")
class Ensemble(ChecksInputs, Exportable, keras.Model):
    """Averages the scores of models that are trained side by side.

        score = 1/M sum_m score_m
        rating = scaler(score)

    In training each member has a loss of its own, the compiled loss of its own
    rating: one step trains all of them, each as if it were alone, on the same
    batches. They differ by the numbers that they start from, and so must not have
    seeded initializers. Their mean is what is evaluated, predicted, saved and
    exported.

    An average of factorization machines is a factorization machine, of vectors M
    times as long: `side` gives them, so that retrieval stays one matrix product.

    Args:
        members: Non-empty list of models of one class with the same features and
            the same scaler, each with a `score` method.
        encoder: Optional `fmlayers.data.Encoder`, saved with the model. It need not
            be in the members, too.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.
        training: Optional Boolean, handed on to members that take it.

    Input shape:
        A dict, as of the members.

    Output shape:
        `(batch, 1)`, in float32.

    Raises:
        ValueError: If there is no member, or one is unlike the first.

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
        TPAMI 12(10), section 2 (members that differ by where they start).
    """

    built: bool

    def __init__(
        self,
        members: Sequence[keras.Model],
        *,
        encoder: "Encoder | None" = None,
        **kwargs: Any,
    ) -> None:
        members = list(members)
        if not members:
            raise ValueError("`members` must not be empty. Received: members=[].")
        first = members[0]
        for member in members[1:]:
            if (
                type(member) is not type(first)
                or member.features != first.features
                or _config(member.scaler) != _config(first.scaler)
            ):
                raise ValueError(
                    "`members` must be of one class with the same features and the "
                    f"same scaler. Received: {first!r} and {member!r}."
                )
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.members = members
        self.encoder = encoder
        self.features = list(first.features)
        self.exact_sides = getattr(first, "exact_sides", False)
        self._member_scores: list[Tensor] = []
        self.build()

    @classmethod
    def of(cls, size: int, make: Callable[[], keras.Model], **kwargs: Any) -> Self:
        """Returns an ensemble of `size` models, each made by a call of `make`."""
        return cls([make() for _ in range(integer("size", size))], **kwargs)

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        for member in self.members:
            if issubclass(
                type(member), ChecksInputs
            ):  # a summary then knows its shapes
                member.build(input_shapes(self.features))
        self.built = True

    @property
    def scaler(self) -> Any:
        return self.members[0].scaler

    @property
    def bias(self) -> Tensor:
        """The mean of the members' b, `(1,)`."""
        return sum(ops.convert_to_tensor(m.bias) for m in self.members) / len(
            self.members
        )

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        """Returns the mean of the members' raw scores, `(batch, 1)`."""
        return sum(self._scores(inputs, training)) / len(self.members)

    def side(
        self, inputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Returns what some fields bring to the score; see `FactorizationMachine.side`.

        The constants are averaged, the vectors stand side by side, divided by the
        root of M: `(batch, 1)` and `(batch, M * dim)`.
        """
        constants, vectors = zip(
            *(member.side(inputs, names) for member in self.members), strict=True
        )
        size = len(self.members)
        return sum(constants) / size, ops.concatenate(vectors, axis=-1) / size**0.5

    def call(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        # For `compute_loss`, which Keras calls next, in the same trace.
        self._member_scores = self._scores(inputs, training)
        return self._rating(sum(self._member_scores) / len(self.members))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        scores, self._member_scores = self._member_scores, []
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        regularization = sum(self.losses)
        # Keras adds all of the regularization to each member's loss.
        return regularization + sum(
            super(Ensemble, self).compute_loss(
                x, y, self._rating(score), sample_weight, training
            )
            - regularization
            for score in scores
        )

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        shape: tuple[int | None, int] = self.members[0].compute_output_shape(
            input_shape
        )
        return shape

    def compute_output_spec(self, inputs: Mapping[str, Any], **kwargs: Any) -> Any:
        return self.members[0].compute_output_spec(inputs, **kwargs)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "members": serialize(self.members),
            "encoder": serialize(self.encoder),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return restore(cls, config)

    def _scores(
        self, inputs: Mapping[str, Tensor], training: bool | None
    ) -> list[Tensor]:
        options = {"training": training} if self._members_take_training() else {}
        return [member.score(inputs, **options) for member in self.members]

    def _members_take_training(self) -> bool:
        return "training" in inspect.signature(self.members[0].score).parameters

    def _rating(self, score: Tensor) -> Tensor:
        return score if self.scaler is None else self.scaler(score)


def _config(scaler: Any) -> Any:
    """Returns what two scalers must have in common; their names are not."""
    return scaler and {k: v for k, v in scaler.get_config().items() if k != "name"}
