from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import integer
from fmlayers._exportable import Exportable
from fmlayers._inputs import batch_size, shape_of
from fmlayers._saved_state import deserialize_objects
from fmlayers._types import Tensor
from fmlayers.retrieval._blocks import merge, nothing
from fmlayers.scoring_model import ScoringModel


@keras.saving.register_keras_serializable(package="fmlayers")
class TopN(Exportable, keras.Model):
    """Finds the items of highest score for each query, the best first.

    With the fields parted into those of a query Q (a user) and of an item I, a
    factorization machine's score is

        score = b + c_Q + c_I + <s_Q, s_I>
        c = sum_f w_f + sum_{f<g} <v_f, v_g>,  s = sum_f v_f,  over Q's or I's fields

    (the model's `decompose`). `index` computes c_I and s_I of all items once, and they
    are saved with the layer; a batch of queries is then one product of matrices.
    Nothing is approximated: the scores are those of `model.score` for every pair, up to
    the rounding of sums in another order (on a GPU the backend's own setting decides
    whether that is TensorFloat-32's). Only items that stand in a query's own `History`
    are scored otherwise: by all of the list here, without themselves there. They are
    items that the query has seen.

    The catalogue is gone through in blocks, the best k so far at hand: memory is
    batch * block_size numbers, however many items there are.

    With a model whose decomposition is `"partial"`, such as a `DeepFM`, these are the
    scores of its factorization machine alone: candidates for `rerank`. `retrieve`
    chooses the method that suits the model.

    Items are told by their position in the catalogue. After further training of the
    model call `index` again.

    Args:
        model: A `ScoringModel` with a `decomposition`, such as
            `FactorizationMachine`, `MatrixFactorization` and an `Ensemble` of them.
        item_features: Names of the features of items; all others are the query's.
        num_items: Positive integer, the size of the catalogue.
        k: Positive integer, the length of a list. Defaults to 10.
        block_size: Positive integer, the number of items that are scored at a time.
            Defaults to 8192.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dict with the entries of the query's features. Others are ignored.
        exclude: Optional integers, the positions of items that a query must not get,
            such as those a user has seen; padded with -1.
        allowed: Optional Booleans, one an item: whether any query may get it.
        k: Optional integer, the length of the lists in place of the layer's own; in a
            graph of TensorFlow an integer tensor, too.

    Input shape:
        A dict, as of `FeatureEmbedding`; `exclude` `(batch, length)`; `allowed`
        `(num_items,)`.

    Output shape:
        A tuple of raw scores, in float32, and positions, in int32, both `(batch, k)`.
        Of equal scores the lower position comes first. Where fewer than k items are
        left, or a query's own score is NaN, the score is -inf and the position -1.

    Raises:
        ValueError: If an argument breaks its constraint, or the catalogue is not of
            `num_items` rows or gives a number that is not finite.

    Example:

    >>> features = [
    ...     fmlayers.Categorical("user", 943),
    ...     fmlayers.Categorical("item", 1682),
    ...     fmlayers.MultiCategorical("genres", 19),
    ... ]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> top = fmlayers.retrieval.TopN(model, ["item", "genres"], num_items=1682, k=5)
    >>> catalogue = {
    ...     "item": np.arange(1682),
    ...     "genres": np.random.default_rng(0).integers(19, size=(1682, 3)),
    ... }
    >>> scores, positions = top.index(catalogue)({"user": np.array([3, 7])})
    >>> tuple(positions.shape)
    (2, 5)

    References:
        - Rendle, S. (2010). Factorization Machines. ICDM, equation 1.
        - Bayer, I., He, X., Kanagal, B. and Rendle, S. (2017). A Generic Coordinate
          Descent Framework for Learning from Implicit Feedback. WWW (models that part
          so are its "k-separable" ones).
    """

    built: bool

    def __init__(
        self,
        model: ScoringModel,
        item_features: Sequence[str],
        num_items: int,
        k: int = 10,
        *,
        block_size: int = 8192,
        **kwargs: Any,
    ) -> None:
        num_items, k = integer("num_items", num_items), integer("k", k)
        block_size = integer("block_size", block_size)
        if not isinstance(model, ScoringModel) or model.decomposition is None:
            raise ValueError(
                "`model` must be a `ScoringModel` with a `decomposition`, such as a "
                "`FactorizationMachine`; `score_all` ranks by any other. "
                f"Received: {type(model).__name__}."
            )
        names = [feature.name for feature in model.features]
        if not set(item_features) < set(names) or not item_features:
            raise ValueError(
                f"`item_features` must name some of {names}, and leave some to the "
                f"query. Received: {list(item_features)}."
            )
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.model = model
        self.item_features = list(item_features)
        self.query_features = [name for name in names if name not in item_features]
        self.num_items = num_items
        self.k = k
        self.block_size = block_size
        self.build()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        dtype = accumulation_dtype(self.model.compute_dtype)
        # Until `index` there is no item: no list, rather than a wrong one.
        self.item_constants = self.add_weight(
            shape=(self.num_items,),
            initializer=keras.initializers.Constant(float("-inf")),
            dtype=dtype,
            trainable=False,
            autocast=False,
            name="item_constants",
        )
        self.item_vectors = self.add_weight(
            shape=(self.num_items, _vector_size(self.model, self.item_features)),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            autocast=False,
            name="item_vectors",
        )
        self.built = True

    @property
    def is_exact(self) -> bool:
        """Whether the scores are the model's own, not those of a part of it."""
        return self.model.decomposition == "exact"

    def index(self, catalogue: Mapping[str, Any], batch_size: int = 8192) -> Self:
        """Computes and keeps the constants and vectors of the items.

        Args:
            catalogue: Dict with the entries of the item's features, arrays of
                `num_items` rows; the position of an item is its row.
            batch_size: Positive integer, rows at a time. Defaults to 8192.
        """
        batch_size = integer("batch_size", batch_size)
        rows = {name: len(x) for name, x in catalogue.items()}
        if set(rows.values()) != {self.num_items}:
            raise ValueError(
                f"`catalogue` must have {self.num_items} rows in every entry. "
                f"Received: {rows}."
            )
        constants = np.empty(self.num_items, "float64")
        vectors = np.empty(self.item_vectors.shape, self.item_vectors.dtype)
        for start in range(0, self.num_items, batch_size):
            part = slice(start, start + batch_size)
            constant, vector = self.decompose(
                {name: x[part] for name, x in catalogue.items()}, self.item_features
            )
            constants[part] = ops.convert_to_numpy(constant)[:, 0]
            vectors[part] = ops.convert_to_numpy(vector)
        broken = ~(np.isfinite(constants) & np.isfinite(vectors).all(axis=1))
        if broken.any():
            raise ValueError(
                "`catalogue` must give finite vectors, and the model none that is NaN. "
                f"Received: {broken.sum()} of {self.num_items} that are not, the first "
                f"in row {broken.argmax()}."
            )
        self.item_constants.assign(constants)
        self.item_vectors.assign(vectors)
        return self

    def call(
        self,
        inputs: Mapping[str, Tensor],
        exclude: Tensor | None = None,
        allowed: Tensor | None = None,
        k: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        constants, vectors = self.decompose(inputs, self.query_features)
        return self.rank(constants, vectors, exclude, allowed, k)

    def rank(
        self,
        constants: Tensor,
        vectors: Tensor,
        exclude: Tensor | None = None,
        allowed: Tensor | None = None,
        k: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns what `call` does, for queries that are c_Q and s_Q already.

        Args:
            constants: c_Q, `(batch, 1)`, such as of `fold_in`.
            vectors: s_Q, `(batch, dim)`.
            exclude: As of `call`.
            allowed: As of `call`.
            k: As of `call`.
        """
        # Without gradients, which PyTorch would keep all blocks for.
        constants = ops.stop_gradient(self._cast(constants))
        vectors = ops.stop_gradient(self._cast(vectors))
        if self.model.bias is not None:
            constants = constants + ops.stop_gradient(self._cast(self.model.bias))
        item_constants = ops.convert_to_tensor(self.item_constants)
        if allowed is not None:
            allowed = ops.cast(allowed, "bool")
            item_constants = ops.where(allowed, item_constants, float("-inf"))
        return self._best(
            constants, vectors, item_constants, self.item_vectors, exclude, k
        )

    def similar(self, positions: Any, k: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the items whose vectors point most nearly in an item's direction.

            cosine = <s_I, s_J> / (|s_I| |s_J|),  0 where a vector is zero

        Args:
            positions: Integers `(batch,)`, positions of items.
            k: As of `call`.

        Returns:
            Cosines and positions `(batch, k)`, as of `call`, without the item itself.
        """
        positions = ops.cast(positions, "int32")
        vectors = ops.convert_to_tensor(self.item_vectors)
        norms = ops.sqrt(ops.sum(ops.square(vectors), axis=1, keepdims=True))
        vectors = vectors / ops.where(norms > 0.0, norms, 1.0)
        indexed = ops.isfinite(ops.convert_to_tensor(self.item_constants))
        constants = ops.where(indexed, ops.zeros_like(norms[:, 0]), float("-inf"))
        chosen = ops.take(vectors, positions, axis=0)
        return self._best(
            ops.zeros_like(chosen[:, :1]),
            chosen,
            constants,
            vectors,
            ops.expand_dims(positions, 1),
            k,
        )

    def ratings(self, scores: Tensor) -> Tensor:
        """Returns the ratings that the model makes of scores; NaN for an empty place.

        Args:
            scores: As `call` returns them.
        """
        scaler = self.model.scaler
        present = ops.isfinite(scores)
        ratings = scores if scaler is None else scaler(ops.where(present, scores, 0.0))
        return ops.where(present, ratings, float("nan"))

    def compute_output_shape(
        self, input_shape: Any, k: int | None = None, **kwargs: Any
    ) -> tuple[tuple[int | None, int], tuple[int | None, int]]:
        queries = [f for f in self.model.features if f.name in self.query_features]
        batch = batch_size(queries, input_shape)
        return (batch, k or self.k), (batch, k or self.k)

    def compute_output_spec(
        self, inputs: Mapping[str, Any], *args: Any, k: int | None = None, **kwargs: Any
    ) -> Any:
        shapes = {name: shape_of(x) for name, x in inputs.items()}
        scores, positions = self.compute_output_shape(shapes, k)
        return (
            keras.KerasTensor(scores, dtype=self.item_vectors.dtype),
            keras.KerasTensor(positions, dtype="int32"),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "item_features": self.item_features,
            "num_items": self.num_items,
            "k": self.k,
            "block_size": self.block_size,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**deserialize_objects(config))

    def decompose(
        self, inputs: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Returns `model.decompose` of the named features' entries, without others."""
        own = {
            name
            for feature in self.model.features
            if feature.name in names
            for name in feature.inputs
        }
        given = {name: x for name, x in inputs.items() if name in own}
        return self.model.decompose(given, names)

    def _cast(self, x: Tensor) -> Tensor:
        return ops.cast(x, self.item_vectors.dtype)

    def _best(
        self,
        constants: Tensor,
        vectors: Tensor,
        item_constants: Tensor,
        item_vectors: Tensor,
        exclude: Tensor | None,
        k: int | None,
    ) -> tuple[Tensor, Tensor]:
        k = self.k if k is None else k
        if not ops.is_tensor(k):
            k = integer("k", k)
        # A NaN would be ranked by each backend in its own way.
        broken = ops.isnan(constants + ops.sum(vectors, axis=1, keepdims=True))
        constants = ops.where(broken, float("-inf"), constants)
        vectors = ops.where(broken, 0.0, vectors)
        item_vectors = ops.convert_to_tensor(item_vectors)
        if exclude is not None:
            exclude = ops.cast(exclude, "int32")
        size = min(self.block_size, self.num_items)
        dim = item_vectors.shape[1]

        def add(start: Any, size: int, best: Any) -> Any:
            block = ops.slice(item_vectors, (start, 0), (size, dim))
            block = ops.pad(block, ((0, 1), (0, 0)))  # and a column of no item
            own = ops.slice(item_constants, (start,), (size,))
            own = ops.pad(own, ((0, 1),), constant_values=float("-inf"))
            scores = ops.matmul(vectors, ops.transpose(block))  # (batch, size + 1)
            return merge(best, scores + constants + own, start, exclude)

        best = nothing(constants, k)
        blocks, rest = divmod(self.num_items, size)
        if blocks == 1:
            best = add(0, size, best)
        else:
            best = ops.fori_loop(
                0, blocks, lambda i, best: add(i * size, size, best), best
            )
        if rest:
            best = add(blocks * size, rest, best)
        scores, positions = best
        return scores, positions


def _vector_size(model: ScoringModel, names: Sequence[str]) -> int:
    """Returns the size of a decomposition's vectors, from an example without values."""
    return int(model.decompose(model.blank_example(), names)[1].shape[-1])
