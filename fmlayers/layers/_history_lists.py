import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import distinct, pairs_contain, spans_of_batch
from fmlayers._histories.index import BatchHistories, HistoryIndex
from fmlayers._named_weights import LastMessage
from fmlayers._types import Tensor
from fmlayers.features import History


class HistoryLists(keras.layers.Layer):
    """Stores the histories of a `History` and looks up those of a batch.

    A history that several examples of a batch share is looked up once. XLA needs shapes
    that do not depend on the data: on JAX, the layer looks up *all* histories, unless
    the batch brings its histories along; on TensorFlow, the layer turns off
    `jit_compile="auto"`.

    The name of the class is part of the paths in saved files.

    Args:
        feature: The `History`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    built: bool

    def __init__(self, feature: History, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature = feature
        self.supports_jit = keras.backend.backend() != "tensorflow"
        self.is_loaded = False
        self._saved = LastMessage()
        self.build()

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        # One additional key has the empty history of unknown keys.
        self.offsets = self._add_integers("offsets", self.feature.num_keys + 2)
        self.values = self._add_integers("values", self.feature.num_pairs)
        self.built = True

    def parts(self) -> dict[str, Any]:
        """Returns the two weights, which only make sense together."""
        return {"offsets": self.offsets, "values": self.values}

    def is_first_in(self, store: Any) -> bool:
        """Returns whether `store` does not contain the histories yet."""
        is_first = self._saved.of(store) is None
        self._saved.set(store)
        return is_first

    def save_own_variables(self, store: Any) -> None:
        """Does nothing: `FeatureEmbedding` saves the histories by name."""

    def load_own_variables(self, store: Any) -> None:
        is_loaded, self.is_loaded = self.is_loaded, False
        if is_loaded:
            return
        if not len(store.keys()):
            raise ValueError(f"history {self.feature.name!r} is not in the file.")
        super().load_own_variables(store)  # a file of version 0.1.0, by position

    def set(
        self, keys: npt.ArrayLike, values: npt.ArrayLike, *, leaves_room: bool = False
    ) -> None:
        """Sets the histories; see `FeatureEmbedding.set_history`."""
        feature = self.feature
        k, v = (np.asarray(x, np.int64).ravel() for x in (keys, values))
        fits = len(k) == feature.num_pairs or (
            leaves_room and len(k) < feature.num_pairs
        )
        if len(k) != len(v) or not fits:
            raise ValueError(
                f"`keys` and `values` of {feature.name!r} must have "
                f"{'at most ' if leaves_room else ''}`num_pairs` = "
                f"{feature.num_pairs:,} entries. Received: {len(k):,} and {len(v):,}."
            )
        for name, x, first, size in (
            ("keys", k, 0, feature.num_keys),
            ("values", v, 1, feature.vocabulary_size),
        ):
            outside = (x < first) | (x >= size)
            if outside.any():
                raise ValueError(
                    f"`{name}` of {feature.name!r} must lie within {first} ... "
                    f"{size - 1}. Received: {x[outside][0]}."
                )
        order = np.lexsort((v, k))
        k, v = k[order], v[order]
        repeated = np.flatnonzero((k[1:] == k[:-1]) & (v[1:] == v[:-1]))
        if len(repeated):
            raise ValueError(
                f"`keys` and `values` of {feature.name!r} must not have a pair twice. "
                f"Received: the key {k[repeated[0]]} with the value {v[repeated[0]]}."
            )
        lengths = np.bincount(k, minlength=feature.num_keys + 1)
        self.offsets.assign(np.concatenate([[0], np.cumsum(lengths)]).astype("int32"))
        unused = np.zeros(feature.num_pairs - len(v), v.dtype)
        self.values.assign(np.concatenate([v, unused]).astype("int32"))

    def call(self, keys: Tensor, own: Tensor | None = None) -> BatchHistories:
        last = self.feature.num_keys
        inside = ops.logical_and(keys >= 0, keys < last)
        keys = ops.cast(ops.where(inside, keys, last), "int32")
        offsets = ops.convert_to_tensor(self.offsets)
        values = ops.convert_to_tensor(self.values)
        positions, owners, lengths, index = spans_of_batch(
            offsets, keys, self.feature.num_pairs
        )
        values = ops.take(values, positions)
        size = self.feature.vocabulary_size
        if own is None:
            own = ops.zeros_like(keys)
        else:
            inside = ops.logical_and(own > 0, own < size)
            own = ops.cast(ops.where(inside, own, 0), "int32")
            is_in = pairs_contain(owners, values, size, index, own)
            if is_in is None:
                own = self._own_in_list(keys, own)
            else:
                own = ops.where(is_in, own, 0)
        rows, values = distinct(values, size)
        return BatchHistories(index, own, lengths, rows, values, owners)

    def index(self) -> HistoryIndex:
        """Returns the histories in the form in which batches look them up."""
        key, value = self.feature.entries
        offsets, values = map(ops.convert_to_numpy, (self.offsets, self.values))
        return HistoryIndex(
            key.name,
            value.name,
            self.feature.vocabulary_size,
            offsets,
            values[: offsets[-1]],
            pads=keras.backend.backend() == "jax",
        )

    def _own_in_list(self, keys: Tensor, own: Tensor) -> Tensor:
        """Returns `own` where the history of its key contains it, else 0.

        It is a binary search in the sorted values of each key.
        """
        low = ops.take(self.offsets, keys)
        end = ops.take(self.offsets, keys + 1)
        high = end
        last = self.feature.num_pairs - 1
        for _ in range(math.ceil(math.log2(last + 2))):
            middle = (low + high) // 2
            below = ops.take(self.values, ops.minimum(middle, last)) < own
            searching = low < high
            low = ops.where(ops.logical_and(searching, below), middle + 1, low)
            high = ops.where(
                ops.logical_and(searching, ops.logical_not(below)), middle, high
            )
        is_equal = ops.take(self.values, ops.minimum(low, last)) == own
        return ops.where(ops.logical_and(low < end, is_equal), own, 0)

    def _add_integers(self, name: str, size: int) -> Any:
        return self.add_weight(
            shape=(size,),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            autocast=False,
            name=name,
        )
