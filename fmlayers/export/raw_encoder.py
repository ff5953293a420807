"""Encoding of raw values inside a TensorFlow graph."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from fmlayers._types import Tensor
from fmlayers.data.cells import NUMBER
from fmlayers.data.encoder import Encoder
from fmlayers.data.kind_names import reads_numbers
from fmlayers.data.kinds import MISSING, UNKNOWN
from fmlayers.data.kinds.numeric import Log1pColumn
from fmlayers.data.kinds.quantiles import QuantilesColumn
from fmlayers.data.siphash import KEY
from fmlayers.data.weighted import SEPARATOR
from fmlayers.export.signature import Entry, Signature, outer_names

INT64 = range(-(2**63), 2**63)


class RawEncoder:
    """Encodes raw values like `Encoder.transform`, with lookup tables in the graph.

    Texts are looked up or hashed unchanged. The empty text means that the value is
    missing, unless it is in the vocabulary.

    Args:
        encoder: A fitted `Encoder`.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        columns = map(encoder.column, encoder.columns)
        self._vocabularies = {
            column.name: column.values() or []
            for column in columns
            if column.scale is None and not reads_numbers(encoder.columns[column.name])
        }
        self._tables = {
            column: table_of(values)
            for column, values in self._vocabularies.items()
            if encoder.column(column).number is None
        }

    def columns_of(self, inputs: Iterable[str]) -> list[str]:
        """Returns the columns among the inputs of a model, without those of weights."""
        return [name for name in inputs if name in self._encoder.columns]

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
        entries = [
            entry for column in columns for entry in self._entries(column, typed)
        ]
        names = outer_names([entry.feature for entry in entries], reserved)
        return [replace(entry, name=names[entry.feature]) for entry in entries]

    def __call__(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs of the model for a dict of raw values by column."""
        inputs = {}
        for column in filter(raw.__contains__, self._encoder.columns):
            weights = self._encoder.weights_input(column)
            if weights is None:
                inputs[column] = self._encode(column, raw[column])
            else:
                inputs[column], inputs[weights] = self._encode_weighted(
                    column, raw[column], raw.get(weights)
                )
        return inputs

    def _entries(self, column: str, typed: bool) -> list[Entry]:
        """Returns the inputs of a column, with its name or that of its weights."""
        values = replace(self._entry(column, typed), feature=column)
        weights = self._encoder.weights_input(column)
        if weights is None:
            return [values]
        separator = self._encoder.separator
        meaning = f"the weights of {column}"
        if typed:
            shape, example = (None, None), [[1.0, 0.5], [1.0, 0.0]]
            numbers = Entry("", "float32", shape, meaning, weights, example)
            return [values, numbers]
        if column in self._encoder.weights:
            meaning += f'; separated by "{separator}"'
            texts = [f"1{separator}0.5", "1"]
            return [values, Entry("", "string", (None,), meaning, weights, texts)]
        parts = [text.split(separator) for text in values.example]
        weighted = [[f"{part}{SEPARATOR}1" for part in cell] for cell in parts]
        return [
            replace(
                values,
                meaning=f'{values.meaning}, each as "value{SEPARATOR}weight"',
                example=[separator.join(cell) for cell in weighted],
            )
        ]

    def _entry(self, column: str, typed: bool) -> Entry:
        encoder = self._encoder.column(column)
        if reads_numbers(self._encoder.columns[column]):
            meaning = "a number, not standardized; NaN: missing"
            if encoder.scale is None:
                meaning = "a number; NaN: missing"
            example: list[Any] = encoder.examples()
            return Entry("", "float32", (None,), meaning, example=example)
        if encoder.size is not None:
            meaning = f"a vector of {encoder.size} numbers, not scaled; NaN: missing"
            return Entry("", "float32", (None, encoder.size), meaning)
        values = self._vocabularies[column]
        size = f"vocabulary of {len(values):,}"
        first, second = (values * 2 or ["", ""])[:2]
        if encoder.number is not None:
            size = f"hashed to {encoder.number:,} ids"
            first, second = "a", "b"
        if encoder.is_multiple:
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
        encoder = self._encoder.column(column)
        if isinstance(encoder, QuantilesColumn):
            return _bins(x, encoder.edges.tolist())
        if encoder.scale is not None:
            mean, deviation = encoder.scale
            x = tf.cast(x, tf.float64)
            if isinstance(encoder, Log1pColumn):
                x = tf.sign(x) * tf.math.log1p(tf.abs(x))
            return tf.cast((x - mean) / deviation, tf.float32)
        if encoder.is_multiple:
            return self._encode_lists(column, x)
        if x.dtype.is_integer:
            return self._tables[column].lookup(tf.strings.as_string(x))
        ids = self._ids(column, x)
        if "" in self._vocabularies[column]:
            return ids
        return tf.where(tf.equal(x, ""), tf.constant(MISSING, tf.int64), ids)

    def _ids(self, column: str, x: Tensor) -> Tensor:
        buckets = self._encoder.column(column).number
        if buckets is None:
            return self._tables[column].lookup(x)
        return tf.strings.to_hash_bucket_strong(x, buckets, list(KEY)) + 1

    def _encode_lists(self, column: str, x: Tensor) -> Tensor:
        if x.shape.rank == 1:
            x = self._split(x).to_tensor(default_value="")
        ids = self._ids(column, x)
        ids = tf.where(tf.equal(x, ""), tf.constant(MISSING, tf.int64), ids)
        return _with_a_column(ids)

    def _encode_weighted(
        self, column: str, x: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the ids of values and their weights.

        Args:
            column: Name of the column.
            x: The values: texts, with their weights if `weights` is `None`.
            weights: Optional weights, as numbers or as texts of the same form as `x`.
        """
        if weights is None:
            parts = self._split(x)
            texts = tf.strings.regex_replace(
                parts.flat_values, f"(?s){SEPARATOR}[^{SEPARATOR}]*$", ""
            )
            # A text without a separator has no number, which is an error.
            numbers = tf.strings.regex_replace(
                parts.flat_values, f"(?s)^.*{SEPARATOR}", ""
            )
            numbers = tf.where(
                tf.strings.regex_full_match(parts.flat_values, f"(?s).+{SEPARATOR}.*"),
                numbers,
                "",
            )
            x = parts.with_flat_values(texts)
            weights = parts.with_flat_values(_numbers(numbers))
        elif x.shape.rank == 1:
            x = tf.strings.split(x, self._encoder.separator)
            weights = tf.strings.split(weights, self._encoder.separator)
            present = tf.not_equal(x, "")
            x, weights = (
                tf.ragged.boolean_mask(part, present) for part in (x, weights)
            )
            weights = weights.with_flat_values(_numbers(weights.flat_values))
        if isinstance(x, tf.RaggedTensor):
            x, weights = x.to_tensor(default_value=""), weights.to_tensor()
        return self._encode_lists(column, x), _with_a_column(weights)

    def _split(self, x: Tensor) -> Any:
        """Returns the values in texts as a ragged tensor."""
        lists = tf.strings.split(x, self._encoder.separator)
        return tf.ragged.boolean_mask(lists, tf.not_equal(lists, ""))


def raw_signature(signature: Signature, raw: RawEncoder, *, typed: bool) -> Signature:
    """Returns a signature that takes raw values in place of ids and numbers.

    Args:
        signature: Signature of the model.
        raw: The encoder.
        typed: Same as in `RawEncoder.entries`.
    """
    columns = raw.columns_of(entry.feature for entry in signature.inputs)
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


def _numbers(texts: Tensor) -> Tensor:
    """Returns the numbers in texts; texts that the encoder refuses are errors."""
    is_number = tf.strings.regex_full_match(texts, f"(?i){NUMBER.pattern}")
    numbers = tf.strings.to_number(tf.where(is_number, texts, ""))
    return tf.debugging.check_numerics(numbers, "A weight exceeds float32:")


def _bins(x: Tensor, edges: list[float]) -> Tensor:
    """Returns the ids of the bins between edges that numbers are in."""
    x = tf.cast(x, tf.float64)
    ids = tf.searchsorted(tf.constant(edges, tf.float64), tf.reshape(x, [-1])) + 1
    is_missing = tf.math.is_nan(x)
    return tf.where(is_missing, MISSING, tf.reshape(ids, tf.shape(x)))


def _with_a_column(x: Tensor) -> Tensor:
    """Returns padded values with at least one column, same as in the encoder."""
    return tf.pad(x, [[0, 0], [0, tf.maximum(1 - tf.shape(x)[1], 0)]])


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
