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
from fmlayers.retrieval.blocks import merge, nothing
from fmlayers.scoring_model import ScoringModel


@keras.saving.register_keras_serializable(package="fmlayers")
class TopN(Exportable, keras.Model):
    """Retrieves the k items of highest score for each query.

    With the fields split into those of a query Q (such as a user) and of an item I, the
    score of a factorization machine is

        score = b + c_Q + c_I + <s_Q, s_I>
        c = sum_f w_f + sum_{f<g} <v_f, v_g>,  s = sum_f v_f,  over Q's or I's fields

    (see `ScoringModel.decompose`). `index` computes the constants c_I and the vectors
    s_I of all items once; they are saved with the model. The scores of a batch of
    queries are then a single matrix product.

    The result is exact: the scores equal those of `model.score` up to rounding. (On a
    GPU, the precision of the matrix product depends on the backend's setting for
    TensorFloat-32.) The only exception are items in the `History` of the query itself:
    `model.score` leaves an item out of the history that it is scored against, while
    the query embedding here contains the full history. Such items were already seen.

    The catalog is processed in blocks, so memory use is proportional to
    `batch * block_size` and independent of the number of items.

    For a model with a `"partial"` decomposition, such as `DeepFM`, the scores are
    those of its factorization machine alone: pass the result to `rerank`. `retrieve`
    chooses the method for a model.

    Items are identified by their position in the catalog. Call `index` again after
    further training of the model.

    Args:
        model: A `ScoringModel` with a `decomposition`, such as
            `FactorizationMachine`, `MatrixFactorization` and an `Ensemble` of them.
        item_features: Names of the item features. All others are query features.
        num_items: Positive integer, the number of items in the catalog.
        k: Positive integer, the number of items to retrieve per query. Defaults to 10.
        block_size: Positive integer, the number of items per block. Defaults to 8192.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Dict with the entries of the query features. Others are ignored.
        exclude: Optional integers, the positions of items to exclude for each query,
            such as those that the user has seen, padded with -1.
        allowed: Optional Booleans, one per item: the items that may be returned for
            any query.
        k: Optional integer, overrides the `k` of the constructor. In a TensorFlow
            graph it can be an integer tensor.

    Input shape:
        A dict, same as for `FeatureEmbedding`. `exclude`: `(batch, length)`.
        `allowed`: `(num_items,)`.

    Output shape:
        A tuple of raw scores in float32 and positions in int32, both `(batch, k)` and
        sorted by descending score. Of equal scores, the lower position comes first. If
        fewer than k items are left, or the score of the query is NaN, the remaining
        scores are -inf and the positions -1.

    Raises:
        ValueError: If an argument violates its constraint, or the catalog does not
            have `num_items` rows or yields a number that is not finite.

    Example:

    >>> features = [
    ...     fmlayers.Categorical("user", 943),
    ...     fmlayers.Categorical("item", 1682),
    ...     fmlayers.MultiCategorical("genres", 19),
    ... ]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=16)
    >>> top = fmlayers.retrieval.TopN(model, ["item", "genres"], num_items=1682, k=5)
    >>> catalog = {
    ...     "item": np.arange(1682),
    ...     "genres": np.random.default_rng(0).integers(19, size=(1682, 3)),
    ... }
    >>> scores, positions = top.index(catalog)({"user": np.array([3, 7])})
    >>> tuple(positions.shape)
    (2, 5)

    References:
        - Rendle, S. (2010). Factorization Machines. ICDM, equation 1.
        - Bayer, I., He, X., Kanagal, B. and Rendle, S. (2017). A Generic Coordinate
          Descent Framework for Learning from Implicit Feedback. WWW ("k-separable"
          models are those with an exact decomposition).
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
                "`FactorizationMachine`. Use `score_all` for any other model. "
                f"Received: {type(model).__name__}."
            )
        names = [feature.name for feature in model.features]
        if not set(item_features) < set(names) or not item_features:
            raise ValueError(
                f"`item_features` must contain some of the features {names}, but not "
                f"all: the others are query features. Received: {list(item_features)}."
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
        # Constants of -inf: before `index`, no item is returned, not a wrong one.
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
        """Whether the scores are those of the full model."""
        return self.model.decomposition == "exact"

    def index(self, catalog: Mapping[str, Any], batch_size: int = 8192) -> Self:
        """Computes and stores the constants and vectors of all items.

        Args:
            catalog: Dict with the entries of the item features, arrays of
                `num_items` rows. The position of an item is its row.
            batch_size: Positive integer, the number of items per batch. Defaults to
                8192.

        Returns:
            The `TopN`.
        """
        batch_size = integer("batch_size", batch_size)
        rows = {name: len(x) for name, x in catalog.items()}
        if set(rows.values()) != {self.num_items}:
            raise ValueError(
                f"`catalog` must have {self.num_items} rows in every entry. "
                f"Received: {rows}."
            )
        constants = np.empty(self.num_items, "float64")
        vectors = np.empty(self.item_vectors.shape, self.item_vectors.dtype)
        for start in range(0, self.num_items, batch_size):
            part = slice(start, start + batch_size)
            constant, vector = self.decompose(
                {name: x[part] for name, x in catalog.items()}, self.item_features
            )
            constants[part] = ops.convert_to_numpy(constant)[:, 0]
            vectors[part] = ops.convert_to_numpy(vector)
        broken = ~(np.isfinite(constants) & np.isfinite(vectors).all(axis=1))
        if broken.any():
            raise ValueError(
                "`catalog` and the weights of the model must yield finite item "
                f"vectors. Received: {broken.sum()} of {self.num_items} that are not "
                f"finite, the first in row {broken.argmax()}."
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
        """Retrieves the items for query embeddings, such as those of `fold_in`.

        Args:
            constants: The constants c_Q, of shape `(batch, 1)`.
            vectors: The vectors s_Q, of shape `(batch, dim)`.
            exclude: Same as in `call`.
            allowed: Same as in `call`.
            k: Same as in `call`.

        Returns:
            Same as `call`.
        """
        # Without gradients, for which PyTorch would keep all blocks in memory.
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
        """Returns the items that are most similar to an item, by cosine similarity.

            cosine = <s_I, s_J> / (|s_I| |s_J|),  0 if a vector is zero

        Args:
            positions: Integers of shape `(batch,)`, positions of items.
            k: Same as in `call`.

        Returns:
            A tuple of cosines and positions, both `(batch, k)`, in the same form as in
            `call`. The item itself is excluded.
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
        """Converts raw scores to ratings, with NaN for a rank without an item.

        Args:
            scores: Raw scores, as returned by `call`.
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
        """Calls `model.decompose` with the entries of the named features alone.

        Args:
            inputs: Dict with the entries of the named features. Others are ignored.
            names: Names of features.

        Returns:
            Same as `ScoringModel.decompose`.
        """
        read = {
            name
            for feature in self.model.features
            if feature.name in names
            for name in feature.inputs
        }
        entries = {name: x for name, x in inputs.items() if name in read}
        return self.model.decompose(entries, names)

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
        # Backends differ in how they rank NaN.
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
            block = ops.pad(block, ((0, 1), (0, 0)))  # with a column of no item
            offsets = ops.slice(item_constants, (start,), (size,))
            offsets = ops.pad(offsets, ((0, 1),), constant_values=float("-inf"))
            scores = ops.matmul(vectors, ops.transpose(block))  # (batch, size + 1)
            return merge(best, scores + constants + offsets, start, exclude)

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
    """Returns the size of the vectors of a decomposition, from a blank example."""
    return int(model.decompose(model.blank_example(), names)[1].shape[-1])
