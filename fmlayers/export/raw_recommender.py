"""Top-N recommendations inside a TensorFlow graph, from raw values."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import tensorflow as tf
from keras import ops

from fmlayers._types import Tensor
from fmlayers.data.cells import as_text
from fmlayers.data.encoder import Encoder
from fmlayers.export.item_vectors import query_vectors
from fmlayers.export.raw_encoder import RawEncoder, table_of
from fmlayers.export.signature import Entry, Signature
from fmlayers.retrieval.blocks import merge, nothing
from fmlayers.retrieval.item_search import method_of
from fmlayers.retrieval.top_n import TopN
from fmlayers.scoring_model import ScoringModel

BLOCK_SIZE = 8192  # items scored at a time


class RawRecommender:
    """Retrieves the top k items of a catalog for queries of raw values.

    It uses `TopN` if the decomposition of the model is exact. For any other model, it
    scores all items, one query after the other.

    Args:
        model: A `ScoringModel`.
        encoder: A fitted `Encoder` of all inputs of the model.
        raw: The `RawEncoder` of `encoder`.
        items: `DataFrame` of raw values with one row per item. Columns of the encoder
            that it contains are item features; the others are query features.
        key: Name of the column of `items` that identifies an item.

    Raises:
        ValueError: If `items` has no rows, no column `key` or duplicate keys, or if
            there are no item features or no query features.
    """

    def __init__(
        self,
        model: ScoringModel,
        encoder: Encoder,
        raw: RawEncoder,
        items: pd.DataFrame,
        key: str,
    ) -> None:
        if key not in items or not len(items):
            raise ValueError(
                f"`items` must have rows and the column {key!r}. "
                f"Received: {len(items)} rows of {list(items.columns)}."
            )
        keys = [as_text(value) for value in items[key]]
        if len(set(keys)) < len(keys):
            twice = next(value for value in keys if keys.count(value) > 1)
            raise ValueError(
                f"`items` must not have duplicates in the column {key!r}. "
                f"Received: {twice!r} more than once."
            )
        item_columns = [column for column in encoder.columns if column in items]
        self.query_columns = [c for c in encoder.columns if c not in item_columns]
        if not item_columns or not self.query_columns:
            raise ValueError(
                "`items` must contain some of the encoder's columns "
                f"{list(encoder.columns)}, but not all: the others are query features. "
                f"Received: columns {list(items.columns)}."
            )
        self._model = model
        self._raw = raw
        self._key = key
        catalog = encoder.transform(items, item_columns)
        self._has_ids = encoder.columns.get(key) == "categorical"
        ids = catalog[key].tolist() if self._has_ids else range(len(keys))
        self._first_key = keys[0]
        # A rank without an item, -1, is mapped to the last entry.
        self._keys = tf.constant([*keys, ""], tf.string)
        self._ids = tf.constant([*ids, -1], tf.int64)
        self._positions = table_of(keys, first=0)
        self.resources: list[Any] = [self._positions]
        self.top_n: TopN | None = None
        if method_of(model) == "product":
            names = model.features_within(catalog)
            self.top_n = TopN(model, names, len(keys), block_size=BLOCK_SIZE)
            self.top_n.index(catalog)
            self.resources += [v.value for v in self.top_n.variables]
        else:
            # As variables, since a graph can contain at most 2 GB of constants.
            self._catalog = {
                column: tf.Variable(x, trainable=False) for column, x in catalog.items()
            }
            self.resources += list(self._catalog.values())

    def signatures(self) -> list[Signature]:
        """Returns `recommend` and, with an exact decomposition, `query_vectors`."""
        return [
            self._recommend(),
            *([] if self.top_n is None else [self._vectors(self.top_n)]),
        ]

    def _recommend(self) -> Signature:
        queries = self._raw.entries(self.query_columns, reserved=("exclude", "k"))
        inputs = (
            *queries,
            Entry(
                "exclude",
                "string",
                (None, None),
                f'{self._key} of the items to exclude, padded with ""; unknown ones '
                "are ignored",
                example=[[self._first_key], [self._first_key]],
            ),
            Entry("k", "int32", (), "the number of items per query", example=3),
        )
        outputs = {
            "keys": f'{self._key} of the items, the best first; "" if none is left',
            "ids": f"{'ids' if self._has_ids else 'rows'} of the items; -1 if none is "
            "left",
            "scores": "the raw scores; -inf if no item is left",
        }
        if self._model.scaler is not None:
            outputs["ratings"] = "the predicted ratings; NaN if no item is left"

        def function(values: dict[str, Tensor]) -> dict[str, Tensor]:
            raw = {entry.feature: values[entry.name] for entry in queries}
            exclude = tf.cast(self._positions.lookup(values["exclude"]), tf.int32)
            exclude = tf.where(tf.equal(values["exclude"], ""), -1, exclude)
            k = tf.maximum(values["k"], 0)
            scores, positions = self._best(self._raw(raw), exclude, k)
            positions = tf.where(positions < 0, tf.size(self._keys) - 1, positions)
            top = {
                "keys": tf.gather(self._keys, positions),
                "ids": tf.gather(self._ids, positions),
                "scores": scores,
            }
            if "ratings" in outputs:
                present = tf.math.is_finite(scores)
                ratings = self._model.scaler(tf.where(present, scores, 0.0))
                top["ratings"] = tf.where(present, ratings, float("nan"))
            return top

        meaning = "The top k items of each query, from the whole catalog."
        return Signature("recommend", meaning, inputs, outputs, function)

    def _vectors(self, top_n: TopN) -> Signature:
        queries = self._raw.entries(self.query_columns)
        outputs = {
            "vectors": "inner products with the `item_vectors` rank the items",
            "constants": "added to the inner products, they yield the raw scores",
        }

        def function(values: dict[str, Tensor]) -> dict[str, Tensor]:
            raw = {entry.feature: values[entry.name] for entry in queries}
            vectors, constants = query_vectors(top_n, self._raw(raw))
            return {"vectors": vectors, "constants": constants}

        meaning = "Query vectors, for an index of the item vectors."
        return Signature("query_vectors", meaning, tuple(queries), outputs, function)

    def _best(
        self, queries: dict[str, Tensor], exclude: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.top_n is not None:
            scores, positions = self.top_n(queries, exclude=exclude, k=k)
            return scores, positions
        count = tf.shape(exclude)[0]
        # At least one query, since `map_fn` cannot infer k from none.
        spare = tf.cast(tf.equal(count, 0), tf.int32)

        def padded(x: Tensor) -> Tensor:
            return tf.pad(x, [[0, spare], *[[0, 0]] * (x.shape.rank - 1)])

        types = (tf.TensorSpec((None,), tf.float32), tf.TensorSpec((None,), tf.int32))
        scores, positions = tf.map_fn(
            lambda query: self._best_of_one(query[0], query[1], k),
            ({name: padded(x) for name, x in queries.items()}, padded(exclude)),
            fn_output_signature=types,
        )
        return scores[:count], positions[:count]

    def _best_of_one(
        self, query: Mapping[str, Tensor], exclude: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns scores and positions `(k,)` for one query without a batch axis."""
        count = len(self._ids) - 1
        size = min(BLOCK_SIZE, count)
        blocks, rest = divmod(count, size)

        def add(start: Any, size: int, best: Any) -> Any:
            pairs = {
                name: tf.repeat(x[tf.newaxis], size, axis=0)
                for name, x in query.items()
            }
            for name, x in self._catalog.items():
                pairs[name] = x[start : start + size]
            scores = tf.cast(self._model.score(pairs), tf.float32)
            scores = tf.where(tf.math.is_nan(scores), float("-inf"), scores)
            scores = tf.reshape(scores, (1, size))
            scores = tf.pad(scores, [[0, 0], [0, 1]], constant_values=float("-inf"))
            return merge(best, scores, start, exclude[tf.newaxis])

        best = ops.fori_loop(
            0,
            blocks,
            lambda i, best: add(i * size, size, best),
            nothing(tf.zeros((1, 1)), k),
        )
        if rest:
            best = add(blocks * size, rest, best)
        return best[0][0], best[1][0]
