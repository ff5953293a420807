"""The encoder inside a TensorFlow graph: raw values in, ids and numbers out."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from fmlayers._types import Tensor
from fmlayers.data.encoder import MISSING, UNKNOWN, Encoder
from fmlayers.export.signature import Entry, Signature, outer_names

INT64 = range(-(2**63), 2**63)


class RawEncoder:
    """Encodes raw values as `Encoder.transform` does, by tables in the graph.

    A text is looked up as it is. The empty text means that the value is missing,
    unless it stands in the vocabulary itself.

    Args:
        encoder: A fitted `Encoder`.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._vocabularies = {
            column: encoder.vocabulary(column)
            for column, kind in encoder.columns.items()
            if kind != "numeric"
        }
        self._tables = {
            column: table_of(values) for column, values in self._vocabularies.items()
        }

    @property
    def resources(self) -> list[Any]:
        """What a SavedModel must hold."""
        return list(self._tables.values())

    def entries(
        self,
        columns: Iterable[str],
        *,
        typed: bool = False,
        reserved: Iterable[str] = (),
    ) -> list[Entry]:
        """Returns the inputs for some columns.

        Args:
            columns: Names of columns.
            typed: Whether columns of integers are integers, and lists are lists,
                instead of text.
            reserved: Names that other inputs have.
        """
        names = outer_names(columns, reserved)
        return [
            replace(self._entry(column, typed), name=names[column], feature=column)
            for column in names
        ]

    def __call__(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns a model's inputs, for raw values by column."""
        return {column: self._encode(column, x) for column, x in raw.items()}

    def _entry(self, column: str, typed: bool) -> Entry:
        kind = self._encoder.columns[column]
        if kind == "numeric":
            mean, _ = self._encoder._scales[column]
            meaning = "a number in its own unit; NaN: missing"
            example: list[Any] = [round(mean), round(mean) + 1]
            return Entry("", "float32", (None,), meaning, example=example)
        values = self._vocabularies[column]
        size = f"{len(values):,} known"
        first, second = (values * 2 or ["", ""])[:2]
        if kind == "multi_categorical":
            if typed:
                meaning = f'values, {size}; padded with ""'
                example = [[first, second], [second, ""]]
                return Entry("", "string", (None, None), meaning, example=example)
            separator = self._encoder.separator
            meaning = f'values, {size}, with "{separator}" between'
            example = [f"{first}{separator}{second}", second]
            return Entry("", "string", (None,), meaning, example=example)
        if typed and self.is_integer(column):
            example = [int(first), int(second)]
            return Entry("", "int64", (None,), f"a value, {size}", example=example)
        empty = "" if "" in values else '; "": missing'
        meaning = f"a value, {size}{empty}"
        return Entry("", "string", (None,), meaning, example=[first, second])

    def is_integer(self, column: str) -> bool:
        """Tells whether all known values of a column are integers of 64 bits."""
        values = self._vocabularies[column]
        return bool(values) and all(map(_is_integer, values))

    def _encode(self, column: str, x: Tensor) -> Tensor:
        kind = self._encoder.columns[column]
        if kind == "numeric":
            mean, deviation = self._encoder._scales[column]
            return tf.cast((tf.cast(x, tf.float64) - mean) / deviation, tf.float32)
        if kind == "multi_categorical":
            return self._encode_lists(column, x)
        if x.dtype.is_integer:
            return self._tables[column].lookup(tf.strings.as_string(x))
        ids = self._tables[column].lookup(x)
        if "" in self._vocabularies[column]:
            return ids
        return tf.where(tf.equal(x, ""), tf.constant(MISSING, tf.int64), ids)

    def _encode_lists(self, column: str, x: Tensor) -> Tensor:
        if x.shape.rank == 1:
            lists = tf.strings.split(x, self._encoder.separator)
            lists = tf.ragged.boolean_mask(lists, tf.not_equal(lists, ""))
            x = lists.to_tensor(default_value="")
        ids = self._tables[column].lookup(x)
        ids = tf.where(tf.equal(x, ""), tf.constant(MISSING, tf.int64), ids)
        # One column at least, as of the encoder.
        width = tf.maximum(1 - tf.shape(ids)[1], 0)
        return tf.pad(ids, [[0, 0], [0, width]], constant_values=MISSING)


def raw_signature(signature: Signature, raw: RawEncoder, *, typed: bool) -> Signature:
    """Returns a model's signature with raw values in place of ids and numbers."""
    columns = [entry.feature for entry in signature.inputs]
    inputs = raw.entries(columns, typed=typed)

    def function(given: dict[str, Tensor]) -> dict[str, Tensor]:
        ids = raw({entry.feature: given[entry.name] for entry in inputs})
        return signature.function(
            {e.name: tf.cast(ids[e.feature], e.dtype) for e in signature.inputs}
        )

    return replace(
        signature,
        name="serve_raw_values" if typed else "serve_raw",
        meaning="What the model computes, of raw values"
        + (", integers and lists as such." if typed else ", all but numbers as text."),
        inputs=tuple(inputs),
        function=function,
    )


def table_of(keys: list[str], first: int = 1) -> Any:
    """Returns a table from text to the numbers from `first` on; -1 for others."""
    numbers = list(range(first, first + len(keys)))
    # TensorFlow takes no table without a row.
    texts, numbers = (keys, numbers) if keys else ([""], [UNKNOWN])
    initializer = tf.lookup.KeyValueTensorInitializer(
        tf.constant(texts, tf.string), tf.constant(numbers, tf.int64)
    )
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN)


def _is_integer(text: str) -> bool:
    try:
        number = int(text)
    except ValueError:
        return False
    return str(number) == text and number in INT64
