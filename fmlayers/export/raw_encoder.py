"""Encoding of raw values inside a TensorFlow graph."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from fmlayers._types import Tensor
from fmlayers.data.encoder import MISSING, UNKNOWN, Encoder
from fmlayers.export.signature import Entry, Signature, outer_names

INT64 = range(-(2**63), 2**63)


class RawEncoder:
    """Encodes raw values like `Encoder.transform`, with lookup tables in the graph.

    Texts are looked up unchanged. The empty text means that the value is missing,
    unless it is in the vocabulary.

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
        """List of the lookup tables, which a SavedModel must track."""
        return list(self._tables.values())

    def entries(
        self,
        columns: Iterable[str],
        *,
        typed: bool = False,
        reserved: Iterable[str] = (),
    ) -> list[Entry]:
        """Returns the inputs of a signature for some columns.

        Args:
            columns: Names of the columns.
            typed: Whether columns of integers are int64 and multi-valued columns have
                a second axis, instead of being text. Defaults to `False`.
            reserved: Names of other inputs. Defaults to `()`.
        """
        names = outer_names(columns, reserved)
        return [
            replace(self._entry(column, typed), name=names[column], feature=column)
            for column in names
        ]

    def __call__(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs of the model for a dict of raw values by column."""
        return {column: self._encode(column, x) for column, x in raw.items()}

    def _entry(self, column: str, typed: bool) -> Entry:
        kind = self._encoder.columns[column]
        if kind == "numeric":
            mean, _ = self._encoder.scale(column)
            meaning = "a number, not standardized; NaN: missing"
            example: list[Any] = [round(mean), round(mean) + 1]
            return Entry("", "float32", (None,), meaning, example=example)
        values = self._vocabularies[column]
        size = f"vocabulary of {len(values):,}"
        first, second = (values * 2 or ["", ""])[:2]
        if kind == "multi_categorical":
            if typed:
                meaning = f'values, {size}; padded with ""'
                example = [[first, second], [second, ""]]
                return Entry("", "string", (None, None), meaning, example=example)
            separator = self._encoder.separator
            meaning = f'values, {size}; separated by "{separator}"'
            example = [f"{first}{separator}{second}", second]
            return Entry("", "string", (None,), meaning, example=example)
        if typed and self.is_integer(column):
            example = [int(first), int(second)]
            return Entry("", "int64", (None,), f"a value, {size}", example=example)
        empty = "" if "" in values else '; "": missing'
        meaning = f"a value, {size}{empty}"
        return Entry("", "string", (None,), meaning, example=[first, second])

    def is_integer(self, column: str) -> bool:
        """Returns whether the vocabulary of a column consists of 64-bit integers."""
        values = self._vocabularies[column]
        return bool(values) and all(map(_is_integer, values))

    def _encode(self, column: str, x: Tensor) -> Tensor:
        kind = self._encoder.columns[column]
        if kind == "numeric":
            mean, deviation = self._encoder.scale(column)
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
        # At least one column, same as in the encoder.
        width = tf.maximum(1 - tf.shape(ids)[1], 0)
        return tf.pad(ids, [[0, 0], [0, width]], constant_values=MISSING)


def raw_signature(signature: Signature, raw: RawEncoder, *, typed: bool) -> Signature:
    """Returns a signature that takes raw values in place of ids and numbers.

    Args:
        signature: Signature of the model.
        raw: The encoder.
        typed: Same as in `RawEncoder.entries`.
    """
    columns = [entry.feature for entry in signature.inputs]
    inputs = raw.entries(columns, typed=typed)

    def function(values: dict[str, Tensor]) -> dict[str, Tensor]:
        ids = raw({entry.feature: values[entry.name] for entry in inputs})
        return signature.function(
            {e.name: tf.cast(ids[e.feature], e.dtype) for e in signature.inputs}
        )

    return replace(
        signature,
        name="serve_raw_values" if typed else "serve_raw",
        meaning="The outputs of the model for raw values"
        + (", typed." if typed else ", all but numbers as text."),
        inputs=tuple(inputs),
        function=function,
    )


def table_of(keys: list[str], first: int = 1) -> Any:
    """Returns a lookup table from texts to consecutive integers, -1 for other texts.

    Args:
        keys: The texts.
        first: The integer of the first text. Defaults to 1.
    """
    numbers = list(range(first, first + len(keys)))
    # TensorFlow does not support an empty table.
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
