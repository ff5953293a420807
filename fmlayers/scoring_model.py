from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._exportable import Exportable
from fmlayers._histories.index import HistoryIndex
from fmlayers._histories.sums import (
    HistoryField,
    SharedHistory,
    shared_histories,
    with_history_sums,
)
from fmlayers._inputs import ChecksInputs, batch_size, shape_of
from fmlayers._saved_state import restore, state_config
from fmlayers._training.array_fit import FitsArrays
from fmlayers._training.mode import training_mode
from fmlayers._training.over_hosts import OverHosts
from fmlayers._training.row_gradients import train_step
from fmlayers._training.split_step import SplitStep
from fmlayers._types import Tensor
from fmlayers.features import Feature, History
from fmlayers.layers import FeatureEmbedding

if TYPE_CHECKING:
    from fmlayers.data import Encoder

Decomposition = Literal["exact", "partial"] | None
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of the raw scores of a batch.

        score = bias + sum_{f<=g} matrix[f, g] + rest

    Attributes:
        bias: The bias of the model, 0 if it has none.
        matrix: Array of shape `(batch, fields, fields)`: first-order terms on the
            diagonal, the terms of pairs above it, zeros below.
        rest: Array of shape `(batch,)`, all terms that do not belong to a field or a
            pair, such as the output of hidden layers. Zeros if there are none.
    """

    bias: float
    matrix: Floats
    rest: Floats

    @classmethod
    def of_pairs(
        cls, vectors: Tensor, first_order: Tensor | None = None, bias: Any = None
    ) -> Self:
        """Returns the terms of a factorization machine.

        Args:
            vectors: Tensor of shape `(batch, fields, dim)`, the vectors of the fields.
            first_order: Optional tensor of shape `(batch, fields, 1)`, the first-order
                terms of the fields.
            bias: Optional weight of shape `(1,)`.
        """
        v = _numpy(vectors)
        matrix = np.triu(v @ np.swapaxes(v, 1, 2), k=1)
        if first_order is not None:
            diagonal = np.arange(matrix.shape[1])
            matrix[:, diagonal, diagonal] = _numpy(first_order)[:, :, 0]
        constant = 0.0 if bias is None else float(_numpy(bias)[0])
        return cls(constant, matrix, np.zeros(len(matrix), np.float32))

    @classmethod
    def mean(cls, terms: Sequence["Terms"]) -> Self:
        """Returns the mean of the terms of several models."""
        return cls(
            float(np.mean([each.bias for each in terms])),
            np.mean([each.matrix for each in terms], axis=0),
            np.mean([each.rest for each in terms], axis=0),
        )


class ScoringModel(  # type: ignore[misc]
    ChecksInputs, OverHosts, FitsArrays, SplitStep, Exportable, keras.Model
):
    """Base class of models that score an example by its features.

        rating = scaler(score)

    Retrieval, explanation, export and runs rely only on what this class declares, so
    they work with every subclass. A subclass must define `score`, which is also used
    for ranking. `decompose` and `terms` are optional.

    If the constructor takes further arguments, add them to `get_config`, as in any
    Keras model.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`, the features that the model reads.
        scaler: Optional `RatingScaler`. Defaults to `None`: the rating is the score.
        encoder: Optional `fmlayers.data.Encoder`, saved with the model, so that its
            vocabularies are available after loading. The model does not call it.
            Defaults to `None`.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        bias: Weight of shape `(1,)` that is part of every score, or `None`.
        decomposition: How `decompose` relates to `score`: `"exact"` (it determines the
            full score), `"partial"` (it leaves out a part of the score, and retrieves
            candidates for `score` to rerank) or `None` (there is no decomposition). In
            a subclass that overrides `score` without setting `decomposition`,
            `"exact"` becomes `"partial"`.
        call_is_rating: Whether a call returns the rating of `score`. In a subclass that
            overrides `call` without setting it, it is `False`: exports then contain the
            outputs of `call`, and no score.
        members: The models whose scores an `Ensemble` averages; empty for others.

    Call arguments:
        inputs: Dict from feature name to ids or numbers.
        training: Optional Boolean, passed to `score`.

    Input shape:
        A dict, as for `FeatureEmbedding`. An entry with one value per example has the
        shape `(batch,)` or `(batch, 1)`, and may alternate between them from call to
        call.

    Output shape:
        `(batch, 1)`, in float32.

    Example:

    >>> @keras.saving.register_keras_serializable("my_package")
    ... class DotProduct(fmlayers.ScoringModel):
    ...     def __init__(self, features, dim, **kwargs):
    ...         super().__init__(features, **kwargs)
    ...         self.vectors = fmlayers.FeatureEmbedding(features, dim)
    ...         self.interaction = fmlayers.FMInteraction()
    ...
    ...     def score(self, inputs, training=None):
    ...         return self.interaction(self.vectors(inputs))
    ...
    ...     def get_config(self):
    ...         return {**super().get_config(), "dim": self.vectors.dim}
    >>> features = [fmlayers.Categorical("user", 943), fmlayers.Categorical("item", 90)]
    >>> model = DotProduct(features, dim=8)
    >>> tuple(model({"user": np.array([3]), "item": np.array([7])}).shape)
    (1, 1)
    """

    built: bool
    bias: Any = None
    decomposition: Decomposition = None
    call_is_rating: bool = True
    members: Sequence["ScoringModel"] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        overridden = vars(cls)
        if "score" in overridden and cls.decomposition == "exact":
            cls.decomposition = overridden.get("decomposition", "partial")
        if "call" in overridden:
            cls.call_is_rating = overridden.get("call_is_rating", False)

    def __init__(
        self,
        features: Sequence[Feature],
        scaler: Any = None,
        *,
        encoder: "Encoder | None" = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("autocast", False)
        trainable = kwargs.pop("trainable", True)
        by_name = isinstance(trainable, Mapping)
        super().__init__(trainable=True if by_name else trainable, **kwargs)
        self._trainable_by_name = (
            {name: bool(flag) for name, flag in trainable.items()} if by_name else None
        )
        self.features = list(features)
        self.scaler = scaler
        self.encoder = encoder

    def build(self, input_shape: Any = None) -> None:
        """Builds all layers, by calling the model with a blank example."""
        if self.built:
            return
        self.call(self.blank_example())
        self.built = True

    def blank_example(self) -> dict[str, npt.NDArray[Any]]:
        """Returns a batch of one example with zeros in all entries."""
        return {
            entry.name: entry.blank()
            for feature in self.features
            for entry in feature.entries
            if entry.required
        }

    def score(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        """Returns the raw scores, of shape `(batch, 1)`, which are used for ranking.

        Args:
            inputs: Dict, same as in `call`.
            training: Optional Boolean, same as in `call`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `score`.")

    def decompose(
        self, inputs: Mapping[str, Tensor], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Returns the contribution of a group of fields: a constant and a vector.

        With the fields split into those of a query Q and those of an item I,

            score = b + c_Q + c_I + <s_Q, s_I>

        so that a single matrix product scores all pairs of queries and items.

        Args:
            inputs: Dict with the entries of the named features.
            names: Names of the features of the group.

        Returns:
            A tuple of the constants c `(batch, 1)` and the vectors s `(batch, dim)`, in
            float32.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no decomposition: `decomposition` is None."
        )

    def terms(self, inputs: Mapping[str, Tensor]) -> Terms:
        """Returns the terms of the raw scores of a batch.

        Args:
            inputs: Dict, same as in `call`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not define `terms`, the terms of its score."
        )

    def rescale(self, scale: float, offset: float) -> None:
        """Changes the weights so that the score becomes scale * score + offset.

        A model may define it. `fmlayers.runs.train` then returns a model whose score is
        in the unit of the data.

        Args:
            scale: Positive float.
            offset: Float.

        Raises:
            NotImplementedError: If the model does not define it.
        """
        raise NotImplementedError(
            f"`rescale` is not defined by {type(self).__name__}: define it, or set the "
            "`scale` and the `offset` of a `RatingScaler`."
        )

    def l2_of(self, name: str) -> tuple[float, float]:
        """Returns the L2 of a feature's vectors and of its first-order weights.

        `fold_in` uses them to regularize a new user.

        Args:
            name: Name of the feature.
        """
        return 0.0, 0.0

    def set_history(
        self,
        name: str,
        keys: npt.ArrayLike,
        values: npt.ArrayLike,
        *,
        leaves_room: bool = False,
    ) -> None:
        """Sets the pairs of a `History`; see `FeatureEmbedding.set_history`.

        Args:
            name: Name of the feature.
            keys: Integers `(num_pairs,)`, in any order.
            values: Integers `(num_pairs,)`.
            leaves_room: Whether there may be fewer pairs than `num_pairs`. Defaults to
                `False`.
        """
        if not self.built:
            self.build()
        layers = [each for each in self._embeddings() if name in each.histories]
        if not layers:
            raise ValueError(
                f"`name` must be the name of a `History`. Received: name={name!r}, "
                f"with the features {[feature.name for feature in self.features]}."
            )
        # Layers may share one history.
        for layer in {id(each.histories[name]): each for each in layers}.values():
            layer.set_history(name, keys, values, leaves_room=leaves_room)

    def history_indexes(self) -> dict[str, HistoryIndex]:
        """Returns the histories by feature, for `fmlayers.data.ShuffledBatches`.

        Call it after `set_history`. The batches then bring their histories along,
        which makes training several times as fast.
        """
        lists = {k: v for each in self._embeddings() for k, v in each.histories.items()}
        return {name: histories.index() for name, histories in lists.items()}

    def with_histories(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the inputs with the sums of the histories of all layers.

        Layers that share a history then compute its sums together.

        Args:
            inputs: Dict, same as in `call`.
        """
        if any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(inputs)):
            return dict(inputs)  # in a functional model, each layer is on its own
        return with_history_sums(self._history_fields(), inputs)

    def shared_histories(self, inputs: Mapping[str, Any]) -> list[SharedHistory]:
        """Returns the histories of a batch, each with the fields that sum it."""
        return shared_histories(self._history_fields(), inputs)

    def _history_fields(self) -> list[HistoryField]:
        if not any(isinstance(feature, History) for feature in self.features):
            return []
        embeddings = self._embeddings()
        return [field for each in embeddings for field in each.history_fields]

    def _embeddings(self) -> list[FeatureEmbedding]:
        layers = self._flatten_layers()
        return [each for each in layers if isinstance(each, FeatureEmbedding)]

    def features_within(self, entries: Collection[str]) -> list[str]:
        """Returns the names of the features that read no other entries.

        Args:
            entries: Names of entries of the input dict, such as those of items.
        """
        return [f.name for f in self.features if set(f.inputs) <= set(entries)]

    def rating(self, score: Tensor) -> Tensor:
        """Converts raw scores to ratings."""
        return score if self.scaler is None else self.scaler(score)

    def call(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        return self.rating(self.score(self.with_histories(inputs), training))

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        # On JAX, Keras evaluates a model by its `call`, outside of which its layers
        # find no `training`.
        with training_mode(kwargs.get("training")):
            return super().stateless_call(*args, **kwargs)

    def train_step(self, *args: Any) -> Any:
        # On JAX, the arguments are the state and a batch.
        by_rows = getattr(self.optimizer, "accepts_row_gradients", False)
        if by_rows and keras.backend.backend() == "jax":
            return train_step(self, *args)
        return super().train_step(*args)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        return (batch_size(self.features, input_shape), 1)

    def compute_output_spec(self, inputs: Mapping[str, Any], **kwargs: Any) -> Any:
        shapes = {name: shape_of(x) for name, x in inputs.items()}
        dtype = accumulation_dtype(self.compute_dtype)
        return keras.KerasTensor(self.compute_output_shape(shapes), dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        config = {
            **super().get_config(),
            "features": serialize(self.features),
            "scaler": serialize(self.scaler),
            "encoder": serialize(self.encoder),
            **state_config(self),
        }
        if self.trainable and self._trainable_by_name is not None:
            config["trainable"] = self._trainable_by_name
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return restore(cls, config)


def _numpy(x: Tensor) -> Floats:
    array: Floats = ops.convert_to_numpy(ops.cast(x, "float32"))
    return array
