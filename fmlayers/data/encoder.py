import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import numpy.typing as npt
import pandas as pd

from fmlayers._checks import integer
from fmlayers._json_files import read_json, write_json
from fmlayers.data.errors import DataError
from fmlayers.data.file_counts import FileCounts, write_counts
from fmlayers.data.kind_names import Kind
from fmlayers.data.kinds import ColumnEncoder, Options, column_encoder
from fmlayers.data.manifest import digest_of_config
from fmlayers.data.ragged import Column, without_padding
from fmlayers.data.tables_on_disk import TableFiles
from fmlayers.features import Feature

# The entries of a saved encoder with what was learned. Those of the first group are
# always there, if only as empty dicts.
RECORDS = {"vocabularies": True, "scales": True, "edges": False, "sizes": False}


@keras.saving.register_keras_serializable(package="fmlayers")
class Encoder:
    """Encodes the columns of a table as model inputs.

    Fit the encoder on the training rows, and save it with the model.

    Each column is of one of these kinds:

    - `"categorical"`: one value per row, encoded as an int32 id.
    - `"multi_categorical"`: a list, a tuple or a text such as `"A|B"` per row, encoded
      as int32 ids of shape `(rows, length)`, padded with 0.
    - `"weighted"`: the same with a finite weight per value: a text such as
      `"A:0.7|B:0.3"`, a dict from value to weight, or a list of pairs. The weights are
      a second input, float32 of the shape of the ids, with the name of the column and
      `_weights` appended. With `weights`, they are in a column of their own.
    - `"numeric"`: a number per row, standardized to float32 by the mean and standard
      deviation of the training rows. Missing values stay NaN.
    - `"log1p"`: the same for sign(x) log(1 + |x|) in place of x, for numbers with a
      long tail, such as counts and prices.
    - `"quantiles=N"`: a number per row, encoded as the id of one of N bins with about
      the same number of training rows each. There are fewer bins if some numbers occur
      often. Numbers below and above those of the training rows are in the first and
      the last bin. Missing values have the id 0. Above two million distinct numbers,
      the edges of the bins are approximate.
    - `"vector"`: a list, an array or a text such as `"0.1|0.2"` of n numbers per row,
      such as a text embedding, encoded as float32 of shape `(rows, n)`. All numbers are
      divided by one scale, the root mean square of the norms of the training rows.
      This changes no angle, and leaves vectors of norm 1 as they are. Vectors that are
      missing, or have a missing number, are NaN.
    - `"hash=N"`: one value per row, as in `"categorical"`, encoded as a hash from 1 to
      N of its text: 1 + SipHash-2-4 modulo N, the same on every machine. There is no
      vocabulary: no value is unknown, and different values may share an id. Of n
      values, a share of about n / N does, if n is much smaller than N. A missing value
      and an empty text have the id 0. `"multi_hash=N"` and `"weighted_hash=N"` are the
      same for the values of `"multi_categorical"` and `"weighted"`.

    The values of the training rows have the ids 1 to n in order of descending
    frequency (ties in the order of their text). A missing value (`None`, NaN or an
    empty list) has the id 0. An unknown value has the id -1, which `FeatureEmbedding`
    handles according to its `out_of_range`. Values are compared as text, so 64-bit ids
    and strings stay exact; 1, 1.0 and "1" are the same value. The text of a Boolean is
    "True" or "False", and that of bytes is `"b'...'"`: decode them first. Blanks count.
    An empty text is a value in a categorical column.

    A multi-categorical text is split by the separator, and empty parts are dropped. The
    values of a list are not split; `None` and NaN in a list are dropped, and an empty
    text is a value. Numeric columns may contain Booleans, and texts and bytes with a
    decimal number such as `"-1.5e3"`, which blanks may surround. Weights and the
    numbers of vectors are read like numeric cells, except that a Boolean or missing
    weight raises `DataError`.

    The encoding of a cell does not depend on the other cells of the column. But a
    `DataFrame` converts columns of mixed numbers before the encoder sees them: pass
    `dtype=object` if integers above 2^53 share a column with floats or missing values.

    Args:
        columns: Dict from column name to kind, in the order of the fields.
        min_count: Positive integer. Values that occur less often in the training rows
            count as unknown, which trains the embedding of unknown values on rare
            ones. Defaults to 1.
        separator: String that separates the values of a text. Defaults to `"|"`.
        weights: Optional dict from the names of weighted columns to the columns with
            their weights, lists or texts such as `"0.7|0.3"`. The input of the weights
            has the name of that column.

    Raises:
        ValueError: If an argument violates its constraint, or the encoder is used
            before `fit`.
        DataError: If the table lacks a column, a numeric column contains a value that
            is not a finite number or exceeds float32 when it is standardized, a value
            of a weighted column does not have one finite weight, a vector does not have
            n finite numbers or exceeds float32 when it is divided, or another column
            contains a dict, a set or a nested list, or a list in a categorical column.

    Example:

    >>> table = pd.DataFrame({"user": [7, 8, 8], "genres": ["Drama", "", "War|Drama"]})
    >>> columns = {"user": "categorical", "genres": "multi_categorical"}
    >>> encoder = fmlayers.data.Encoder(columns).fit(table)
    >>> encoder.transform(table)["user"]
    array([2, 1, 1], dtype=int32)
    >>> model = fmlayers.models.FactorizationMachine(
    ...     encoder.features, dim=8, encoder=encoder
    ... )
    """

    def __init__(
        self,
        columns: Mapping[str, Kind],
        *,
        min_count: int = 1,
        separator: str = "|",
        weights: Mapping[str, str] | None = None,
    ) -> None:
        if not columns:
            raise ValueError("`columns` must not be empty. Received: columns={}.")
        min_count = integer("min_count", min_count)
        if not separator:
            raise ValueError("`separator` must not be empty. Received: separator=''.")
        self.columns = dict(columns)
        self.min_count = min_count
        self.separator = separator
        self.weights = dict(weights or {})
        self._encoders = self.new_columns()
        self._check_weights()

    @property
    def is_fitted(self) -> bool:
        return all(encoder.is_fitted for encoder in self._encoders.values())

    @property
    def features(self) -> list[Feature]:
        """List of the features that a layer or model of these columns takes."""
        self._require_fitted()
        return [encoder.feature for encoder in self._encoders.values()]

    def fit(self, table: pd.DataFrame | Iterable[pd.DataFrame] | TableFiles) -> Self:
        """Learns the vocabularies, means, standard deviations and quantiles.

        Args:
            table: `DataFrame` of the training rows. For data larger than memory,
                `TableFiles` or an iterable of `DataFrame`s, such as
                `pd.read_csv(path, chunksize=1_000_000)`. DuckDB counts the values of
                `TableFiles` in bounded memory. Those of an iterable are counted in
                memory. The result is the same.

        Returns:
            The encoder.
        """
        if isinstance(table, TableFiles):
            return self._fit_files(table)
        encoders = self.new_columns()
        for part in [table] if isinstance(table, pd.DataFrame) else table:
            self._require_columns(part)
            for encoder in encoders.values():
                encoder.learn(*(part[name] for name in encoder.columns))
        for encoder in encoders.values():
            encoder.finish()
        self._encoders = encoders
        return self

    def fit_counts(
        self,
        folder: str | os.PathLike[str],
        *,
        vocabularies: str | os.PathLike[str] | None = None,
        memory_limit: str = "1GB",
        temp_folder: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fits the encoder to the counts that `write_counts` has written.

        The result is the same as that of `fit` on the rows of all files.

        Args:
            folder: Folder with the counts of all files.
            vocabularies: Optional folder for the vocabularies, as Parquet files. The
                encoder then looks up values in these files. It loads the vocabularies
                into memory only when it is saved, by itself or with a model. Files of
                an earlier call with the same counts are reused. Defaults to `None` (in
                memory).
            memory_limit: See `TableFiles`. Defaults to `"1GB"`.
            temp_folder: See `TableFiles`.

        Returns:
            The encoder.

        Raises:
            DataError: If the folder lacks the counts of a file, or if the counts are
                those of other columns.
            ImportError: If pyarrow or DuckDB is not installed.
        """
        temp_folder = None if temp_folder is None else Path(temp_folder)
        counts = FileCounts(Path(folder), self, memory_limit, temp_folder)
        encoders = self.new_columns()
        stored = None if vocabularies is None else Path(vocabularies)
        counts.learn(encoders, self.min_count, stored)
        self._encoders = encoders
        return self

    def transform(
        self, table: pd.DataFrame, columns: Iterable[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Returns the model inputs of a table, a dict from input name to array.

        Values that are not in the vocabulary have the id -1; they raise no error.

        Args:
            table: `DataFrame` with the columns to encode. Others are ignored.
            columns: Optional names of the columns to encode. Defaults to all columns
                of the encoder.
        """
        self._require_fitted()
        chosen = list(self.columns if columns is None else columns)
        self._require_columns(table, chosen)
        inputs: dict[str, npt.NDArray[Any]] = {}
        for encoder in (self._encoders[column] for column in chosen):
            inputs |= encoder.transform(*(table[name] for name in encoder.columns))
        return inputs

    def encode(self, column: str, values: "pd.Series[Any]") -> npt.NDArray[Any]:
        """Encodes the values of a single column, as `transform` does.

        If the weights of a weighted column are in another column, returns the ids of
        the values alone.
        """
        return self._encoders[column].transform(values)[column]

    def without_padding(
        self, inputs: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, Column]:
        """Converts the padded inputs that `transform` returns to ragged ones.

        See `fmlayers.data.without_padding`. Weights keep those of their ids.
        """
        columns: dict[str, Column] = dict(inputs)
        for column, encoder in self._encoders.items():
            if encoder.is_multiple and column in inputs:
                ids = inputs[column]
                columns[column] = without_padding(ids)
                for weights in encoder.inputs[1:]:
                    if weights in inputs:
                        columns[weights] = without_padding(inputs[weights], ids != 0)
        return columns

    @property
    def inputs(self) -> list[str]:
        """List of the names of the inputs that `transform` returns."""
        return [name for encoder in self._encoders.values() for name in encoder.inputs]

    @property
    def table_columns(self) -> list[str]:
        """List of the names of the table columns that `transform` reads."""
        read = [encoder.columns for encoder in self._encoders.values()]
        # The columns, and then those of their weights.
        return [*(x[0] for x in read), *(name for x in read for name in x[1:])]

    def column(self, name: str) -> ColumnEncoder:
        """Returns the encoder of a column."""
        return self._encoders[name]

    def weights_input(self, column: str) -> str | None:
        """Returns the input of a column's weights, `None` if it is not weighted."""
        return next(iter(self._encoders[column].inputs[1:]), None)

    def vocabulary(self, column: str) -> list[str]:
        """Returns the vocabulary of a column as text; the first value has the id 1.

        Those of a column of quantiles are the intervals of its bins.
        """
        self._require_fitted()
        values = self._encoders[column].values() if column in self._encoders else None
        if values is None:
            known = [x.name for x in self._encoders.values() if x.values() is not None]
            raise _not_among(known, column)
        return values

    def scale(self, column: str) -> tuple[float, float]:
        """Returns the mean and the standard deviation of a numeric column.

        Those of the kind `"log1p"` are of the logarithms. Those of a column of vectors
        are 0 and the number by which they are divided.
        """
        self._require_fitted()
        scale = self._encoders[column].scale if column in self._encoders else None
        if scale is None:
            known = [x.name for x in self._encoders.values() if x.scale is not None]
            raise _not_among(known, column)
        return scale

    def size(self, column: str) -> int:
        """Returns the length of the vectors of a column."""
        self._require_fitted()
        sizes = {x.name: x.size for x in self._encoders.values() if x.size is not None}
        if column not in sizes:
            raise _not_among(list(sizes), column)
        return sizes[column]

    def decode(self, column: str, ids: Sequence[int]) -> list[str | None]:
        """Returns the values of ids, with `None` for a missing or unknown value."""
        values = self.vocabulary(column)
        return [values[i - 1] if 1 <= i <= len(values) else None for i in ids]

    def get_config(self) -> dict[str, Any]:
        return self._config(lambda encoder: encoder.record())

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        if not isinstance(config.get("columns"), Mapping):
            raise ValueError(
                f"`columns` must be a dict. Received: {config.get('columns')!r:.60}."
            )
        records = {name: config.pop(name, {}) for name in RECORDS}
        encoder = cls(**config)
        if not all(isinstance(record, Mapping) for record in records.values()):
            *names, last = (f"`{name}`" for name in RECORDS)
            raise ValueError(f"{', '.join(names)} and {last} must be dicts.")
        if any(records.values()):
            encoder._restore(records)
        return encoder

    def digest(self) -> str:
        """Returns a SHA-256 digest of what the encoder has learned."""
        return digest_of_config(self._config(lambda encoder: encoder.digest_record()))

    def select(self, columns: Iterable[str]) -> Self:
        """Returns an encoder of some of the columns, with the same vocabularies.

        Raises:
            ValueError: If a column is not among those of the encoder.
        """
        chosen = list(columns)
        if not set(chosen) <= set(self.columns):
            raise ValueError(
                f"`columns` must be among {list(self.columns)}. Received: {chosen}."
            )
        config = self.get_config()
        for name in {"columns", "weights", *RECORDS} & set(config):
            kept = [column for column in chosen if column in config[name]]
            config[name] = {column: config[name][column] for column in kept}
        return type(self).from_config(config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the encoder to a JSON file, atomically."""
        write_json(Path(path), self.get_config())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Loads an encoder from a JSON file that was written by `save`.

        Raises:
            DataError: If the file is not a saved encoder, is damaged or was edited.
        """
        config = read_json(Path(path), DataError)
        try:
            return cls.from_config(config)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{path} is not a saved encoder: {error}") from error

    def new_columns(self) -> dict[str, ColumnEncoder]:
        """Returns new encoders of the columns, which are not fitted yet."""
        options = Options(self.min_count, self.separator, self.weights)
        encoders = {}
        for column, kind in self.columns.items():
            try:
                encoders[column] = column_encoder(column, kind, options)
            except ValueError as error:
                raise ValueError(
                    f"`columns` must map to one {error}. Received: {kind!r} for column "
                    f"{column!r}."
                ) from None
        return encoders

    def _config(self, record_of: Callable[[ColumnEncoder], Any]) -> dict[str, Any]:
        records: dict[str, dict[str, Any]] = {record: {} for record in RECORDS}
        for column, encoder in self._encoders.items():
            for record, content in record_of(encoder).items():
                records[record][column] = content
        return {
            "columns": self.columns,
            "min_count": self.min_count,
            "separator": self.separator,
            **({"weights": self.weights} if self.weights else {}),
            **{name: x for name, x in records.items() if x or RECORDS[name]},
        }

    def _fit_files(self, files: TableFiles) -> Self:
        with tempfile.TemporaryDirectory(dir=files.temp_folder) as folder:
            write_counts(files, folder, self)
            return self.fit_counts(
                folder,
                memory_limit=files.memory_limit,
                temp_folder=files.temp_folder,
            )

    def _restore(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        for name, record in records.items():
            encoders = self._encoders.values()
            if {x.name for x in encoders if name in x.records} != set(record):
                raise ValueError("vocabularies and scales do not match the columns")
        for column, encoder in self._encoders.items():
            encoder.restore({name: records[name][column] for name in encoder.records})

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "The `Encoder` must be fitted on the training rows first: call `fit()`."
            )

    def _check_weights(self) -> None:
        weighted = {x.name for x in self._encoders.values() if len(x.inputs) > 1}
        for column, source in self.weights.items():
            if column not in weighted or not isinstance(source, str):
                raise ValueError(
                    '`weights` must map columns of the kind "weighted" to the names of '
                    f"columns. Received: weights={self.weights!r}."
                )
        if len(set(self.inputs)) < len(self.inputs):
            twice = next(name for name in self.inputs if self.inputs.count(name) > 1)
            raise ValueError(
                f"The input of weights must have a name that no column has: rename the "
                f"column {twice!r}, or name another one in `weights`. Received: "
                f"columns {list(self.columns)}, weights={self.weights!r}."
            )

    def _require_columns(
        self, table: pd.DataFrame, columns: Sequence[str] | None = None
    ) -> None:
        names = self.table_columns
        if columns is not None:
            names = [name for x in columns for name in self._encoders[x].columns]
        absent = [name for name in names if name not in table.columns]
        if absent:
            raise DataError(
                f"The table lacks the columns {absent}. It has {list(table.columns)}."
            )


def _not_among(known: list[str], column: str) -> ValueError:
    return ValueError(f"`column` must be one of {known}. Received: column={column!r}.")
