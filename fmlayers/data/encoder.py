import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import infer_dtype, is_complex_dtype, is_numeric_dtype

from fmlayers._checks import integer
from fmlayers._json_files import read_json, write_json
from fmlayers.data.cells import as_number, as_text, shown, text_of, texts_of
from fmlayers.data.errors import CellError, DataError
from fmlayers.data.ragged import Column, without_padding
from fmlayers.data.vectors import Norms, as_vectors
from fmlayers.data.weighted import Pairs, join_pairs, parse_pairs
from fmlayers.features import Categorical, Feature, MultiCategorical, Numeric, Vector

Kind = Literal["categorical", "multi_categorical", "weighted", "numeric", "vector"]

MULTIPLE = ("multi_categorical", "weighted")  # kinds with several values per row
SCALED = ("numeric", "vector")  # kinds of numbers, which have no vocabulary
# What `infer_dtype` calls columns whose equal values have equal texts.
UNIFORM = ("boolean", "bytes", "empty", "integer", "string")
MISSING = 0  # id of a missing value: masked by `mask_zero`, and the padding of lists
UNKNOWN = -1  # id outside every vocabulary: handled by the layer's `out_of_range`


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
    - `"vector"`: a list, an array or a text such as `"0.1|0.2"` of n numbers per row,
      such as a text embedding, encoded as float32 of shape `(rows, n)`. All numbers are
      divided by one scale, the root mean square of the norms of the training rows.
      This changes no angle, and leaves vectors of norm 1 as they are. Vectors that are
      missing, or have a missing number, are NaN.

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
        for column, kind in columns.items():
            if kind not in get_args(Kind):
                raise ValueError(
                    f"`columns` must map to one of the kinds {get_args(Kind)}. "
                    f"Received: {kind!r} for column {column!r}."
                )
        min_count = integer("min_count", min_count)
        if not separator:
            raise ValueError("`separator` must not be empty. Received: separator=''.")
        self.columns = dict(columns)
        self.min_count = min_count
        self.separator = separator
        self.weights = dict(weights or {})
        self._check_weights()
        self._vocabularies: dict[str, pd.Index] = {}
        self._scales: dict[str, tuple[float, float]] = {}
        self._sizes: dict[str, int] = {}

    @property
    def is_fitted(self) -> bool:
        return len(self._vocabularies) + len(self._scales) == len(self.columns)

    @property
    def features(self) -> list[Feature]:
        """List of the features that a layer or model of these columns takes."""
        self._require_fitted()
        return [self._feature(column, kind) for column, kind in self.columns.items()]

    def fit(self, table: pd.DataFrame | Iterable[pd.DataFrame]) -> Self:
        """Learns the vocabularies, means and standard deviations.

        Args:
            table: `DataFrame` of the training rows or, for data larger than memory, an
                iterable of `DataFrame`s, such as
                `pd.read_csv(path, chunksize=1_000_000)`.

        Returns:
            The encoder.
        """
        counts: dict[str, dict[str, int]] = {}
        moments: dict[str, _Moments] = {}
        norms: dict[str, Norms] = {}
        for column, kind in self.columns.items():
            if kind == "numeric":
                moments[column] = _Moments()
            elif kind == "vector":
                norms[column] = Norms()
            else:
                counts[column] = {}
        for part in [table] if isinstance(table, pd.DataFrame) else table:
            self._require_columns(part)
            for column, numbers in moments.items():
                numbers.add(as_numbers(column, part[column]))
            for column, vectors in norms.items():
                size = vectors.size
                vectors.add(as_vectors(column, part[column], self.separator, size))
            for column, known in counts.items():
                codes, cells, _ = self._cells(column, *self._sources(column, part))
                repeats = np.bincount(codes[codes >= 0], minlength=len(cells))
                for cell, count in zip(cells, repeats.tolist(), strict=True):
                    for value in cell:
                        known[value] = known.get(value, 0) + count
        self._scales = {column: numbers.scale() for column, numbers in moments.items()}
        self._sizes = {}
        for column, vectors in norms.items():
            if vectors.size is None:
                raise DataError(
                    f"Column {column!r} has no vector in the training rows."
                )
            self._scales[column] = 0.0, vectors.scale()
            self._sizes[column] = vectors.size
        self._vocabularies = {}
        for column, known in counts.items():
            kept = [(-n, value) for value, n in known.items() if n >= self.min_count]
            values = [value for _, value in sorted(kept)]
            self._vocabularies[column] = pd.Index(values, dtype=object)
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
        for column in chosen:
            inputs |= self._inputs_of(column, *self._sources(column, table))
        return inputs

    def encode(self, column: str, values: "pd.Series[Any]") -> npt.NDArray[Any]:
        """Encodes the values of a single column, as `transform` does.

        If the weights of a weighted column are in another column, returns the ids of
        the values alone.
        """
        return self._inputs_of(column, values)[column]

    def without_padding(
        self, inputs: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, Column]:
        """Converts the padded inputs that `transform` returns to ragged ones.

        See `fmlayers.data.without_padding`. Weights keep those of their ids.
        """
        columns: dict[str, Column] = dict(inputs)
        for column, kind in self.columns.items():
            if kind in MULTIPLE and column in inputs:
                ids = inputs[column]
                columns[column] = without_padding(ids)
                weights = self.weights_input(column)
                if weights is not None and weights in inputs:
                    columns[weights] = without_padding(inputs[weights], ids != 0)
        return columns

    @property
    def inputs(self) -> list[str]:
        """List of the names of the inputs that `transform` returns."""
        names = []
        for column in self.columns:
            weights = self.weights_input(column)
            names += [column] if weights is None else [column, weights]
        return names

    def weights_input(self, column: str) -> str | None:
        """Returns the input of a column's weights, `None` if it is not weighted."""
        if self.columns[column] != "weighted":
            return None
        return self.weights.get(column, f"{column}_weights")

    def vocabulary(self, column: str) -> list[str]:
        """Returns the vocabulary of a column as text; the first value has the id 1."""
        self._require_fitted()
        if column not in self._vocabularies:
            raise ValueError(
                f"`column` must be one of {list(self._vocabularies)}. "
                f"Received: column={column!r}."
            )
        return [str(value) for value in self._vocabularies[column]]

    def scale(self, column: str) -> tuple[float, float]:
        """Returns the mean and the standard deviation of a numeric column.

        Those of a column of vectors are 0 and the number by which they are divided.
        """
        self._require_fitted()
        if column not in self._scales:
            raise ValueError(
                f"`column` must be one of {list(self._scales)}. "
                f"Received: column={column!r}."
            )
        return self._scales[column]

    def size(self, column: str) -> int:
        """Returns the length of the vectors of a column."""
        self._require_fitted()
        if column not in self._sizes:
            raise ValueError(
                f"`column` must be one of {list(self._sizes)}. "
                f"Received: column={column!r}."
            )
        return self._sizes[column]

    def decode(self, column: str, ids: Sequence[int]) -> list[str | None]:
        """Returns the values of ids, with `None` for a missing or unknown value."""
        values = self.vocabulary(column)
        return [values[i - 1] if 1 <= i <= len(values) else None for i in ids]

    def get_config(self) -> dict[str, Any]:
        return {
            "columns": self.columns,
            "min_count": self.min_count,
            "separator": self.separator,
            **({"weights": self.weights} if self.weights else {}),
            "vocabularies": {
                column: list(values) for column, values in self._vocabularies.items()
            },
            "scales": {column: list(scale) for column, scale in self._scales.items()},
            **({"sizes": self._sizes} if self._sizes else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        if not isinstance(config.get("columns"), Mapping):
            raise ValueError(
                f"`columns` must be a dict. Received: {config.get('columns')!r:.60}."
            )
        vocabularies = config.pop("vocabularies", {})
        scales = config.pop("scales", {})
        sizes = config.pop("sizes", {})
        encoder = cls(**config)
        if not all(isinstance(x, Mapping) for x in (vocabularies, scales, sizes)):
            raise ValueError("`vocabularies`, `scales` and `sizes` must be dicts.")
        if vocabularies or scales or sizes:
            kinds = encoder.columns
            scaled = {column for column, kind in kinds.items() if kind in SCALED}
            if (
                set(scales) != scaled
                or set(sizes) != {c for c, kind in kinds.items() if kind == "vector"}
                or set(vocabularies) != {*kinds} - scaled
            ):
                raise ValueError("vocabularies and scales do not match the columns")
        encoder._vocabularies = {
            column: pd.Index(_checked_vocabulary(column, values), dtype=object)
            for column, values in vocabularies.items()
        }
        encoder._sizes = {
            column: integer("sizes", size, of=f" for column {column!r}")
            for column, size in sizes.items()
        }
        encoder._scales = {
            column: _checked_scale(column, scale) for column, scale in scales.items()
        }
        return encoder

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

    def _feature(self, column: str, kind: Kind) -> Feature:
        if kind == "numeric":
            return Numeric(column)
        if kind == "vector":
            return Vector(column, self._sizes[column])
        size = len(self._vocabularies[column]) + 1  # with the id 0
        if kind in MULTIPLE:
            weights = self.weights_input(column)
            return MultiCategorical(column, size, weights=weights)
        return Categorical(column, size, mask_zero=True)

    def _sources(self, column: str, table: pd.DataFrame) -> "list[pd.Series[Any]]":
        """Returns a column and, if they are in another column, its weights."""
        weights = self.weights.get(column)
        return [table[name] for name in (column, weights) if name is not None]

    def _inputs_of(
        self, column: str, values: "pd.Series[Any]", *weights: "pd.Series[Any]"
    ) -> dict[str, npt.NDArray[Any]]:
        kind = self.columns[column]
        if kind == "numeric":
            mean, deviation = self._scales[column]
            with np.errstate(over="ignore"):
                scaled = (as_numbers(column, values) - mean) / deviation
                scaled = scaled.astype(np.float32)
            wrong = np.isinf(scaled)
            _refuse(wrong, column, values, "must be a number in float32's range")
            return {column: scaled}
        if kind == "vector":
            size, (_, scale) = self._sizes[column], self._scales[column]
            return {column: as_vectors(column, values, self.separator, size, scale)}
        cells = self._cells(column, values, *weights)
        flat = [value for cell in cells.texts for value in cell]
        index = self._vocabularies[column].get_indexer(pd.Index(flat, dtype=object))
        ids = np.where(index >= 0, index + 1, UNKNOWN).astype(np.int32)
        encoded = cells.padded(ids, MISSING)
        if kind not in MULTIPLE:
            return {column: encoded[:, 0]}
        inputs: dict[str, npt.NDArray[Any]] = {column: encoded}
        weights_input = self.weights_input(column)
        if weights_input is not None and cells.weights is not None:
            numbers = [weight for cell in cells.weights for weight in cell]
            inputs[weights_input] = cells.padded(np.array(numbers, np.float32), 0)
        return inputs

    def _cells(
        self, column: str, values: "pd.Series[Any]", *weights: "pd.Series[Any]"
    ) -> "_Cells":
        kind = self.columns[column]
        if kind == "weighted" and bool(weights) == (column in self.weights):
            return self._weighted_cells(column, values, *weights)
        multiple = kind in MULTIPLE
        text = texts_of if multiple else text_of
        cells = values.to_numpy(dtype=object)
        try:
            if multiple or _is_mixed(values):
                keys = np.fromiter(map(text, cells), object, count=len(cells))
                codes, distinct = pd.factorize(keys)
                return _Cells(codes, [self._split(cell) for cell in distinct])
            codes, distinct = pd.factorize(cells)
            return _Cells(codes, [[as_text(cell)] for cell in distinct])
        except (TypeError, ValueError):
            wrong = np.array([not _converts(text, cell) for cell in cells])
            allowed = "a value or a list of values" if multiple else "a single value"
            _refuse(wrong, column, values, f"must be {allowed}")
            raise

    def _weighted_cells(self, column: str, *sources: "pd.Series[Any]") -> "_Cells":
        parse: Callable[..., Pairs] = parse_pairs if len(sources) == 1 else join_pairs
        rows = zip(*(x.to_numpy(dtype=object) for x in sources), strict=True)
        distinct = np.fromiter(rows, object, count=len(sources[0]))
        codes = np.arange(len(distinct))
        if not any(map(_is_mixed, sources)):
            codes, distinct = pd.factorize(distinct)
        pairs = []
        for code, cells in enumerate(distinct):
            try:
                pairs.append(parse(*cells, self.separator))
            except ValueError as error:
                row = int(np.flatnonzero(codes == code)[0])
                raise CellError(column, row, str(error)) from None
        texts = [[text for text, _ in cell] for cell in pairs]
        return _Cells(codes, texts, [[weight for _, weight in cell] for cell in pairs])

    def _split(self, cell: str | tuple[str, ...]) -> list[str]:
        if isinstance(cell, tuple):
            return list(cell)
        return [value for value in cell.split(self.separator) if value]

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "The `Encoder` must be fitted on the training rows first: call `fit()`."
            )

    def _check_weights(self) -> None:
        for column, source in self.weights.items():
            if self.columns.get(column) != "weighted" or not isinstance(source, str):
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
        columns = list(self.columns) if columns is None else columns
        sources = [self.weights[column] for column in columns if column in self.weights]
        absent = [name for name in (*columns, *sources) if name not in table.columns]
        if absent:
            raise DataError(
                f"The table lacks the columns {absent}. It has {list(table.columns)}."
            )


def _checked_vocabulary(column: str, values: Any) -> list[str]:
    is_list = isinstance(values, list | tuple)
    if not is_list or not all(isinstance(value, str) for value in values):
        raise ValueError(f"The vocabulary of {column!r} must be a list of text.")
    index = pd.Index(values, dtype=object)
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        raise ValueError(f"The vocabulary of {column!r} has {twice!r} twice.")
    return list(values)


def _checked_scale(column: str, scale: Any) -> tuple[float, float]:
    numbers = list(scale) if isinstance(scale, list | tuple) else []
    if (
        len(numbers) == 2
        and all(isinstance(x, float | int) and math.isfinite(x) for x in numbers)
        and numbers[1] > 0
    ):
        return float(numbers[0]), float(numbers[1])
    raise ValueError(
        f"The scale of {column!r} must be a finite mean and a positive, finite "
        f"standard deviation. Received: {scale!r:.60}."
    )


def _is_mixed(values: "pd.Series[Any]") -> bool:
    """Returns whether equal values may have different texts, such as True and 1."""
    return values.dtype == object and infer_dtype(values) not in UNIFORM


def _converts(text: Callable[[Any], Any], cell: Any) -> bool:
    try:
        text(cell)
    except (TypeError, ValueError):
        return False
    return True


def _refuse(
    wrong: npt.NDArray[np.bool_], column: str, values: "pd.Series[Any]", message: str
) -> None:
    """Raises `DataError` for the first row that is wrong, if there is one."""
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong)[0])
    cell = shown(values.iloc[row])
    raise CellError(column, row, f"{message}. Received: {cell}.")


class _Cells(NamedTuple):
    """The distinct cells of a column.

    Attributes:
        codes: Integers, the index of each row's cell, -1 for a missing value.
        texts: The values of each cell, as text.
        weights: The weights of the values, `None` unless the column is weighted.
    """

    codes: npt.NDArray[np.intp]
    texts: list[list[str]]
    weights: list[list[float]] | None = None

    def padded(self, values: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
        """Returns a padded row per code, from the values of all cells."""
        lengths = [len(cell) for cell in self.texts]
        # One row per distinct cell and, last, one for missing cells (code -1).
        shape = (len(lengths) + 1, max(lengths, default=1) or 1)
        padded = np.full(shape, padding, values.dtype)
        padded[:-1][np.arange(shape[1]) < np.array(lengths)[:, None]] = values
        rows: npt.NDArray[Any] = padded[self.codes]
        return rows


class _Moments:
    """Mean and standard deviation of numbers that arrive in batches.

    References:
        Chan, T., Golub, G. and LeVeque, R. (1983). Algorithms for Computing the
        Sample Variance. The American Statistician 37(3), equation 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0
        self.least, self.most = math.inf, -math.inf

    def add(self, numbers: npt.NDArray[np.float64]) -> None:
        known = numbers[~np.isnan(numbers)]
        if not known.size:
            return
        count = self.count + known.size
        shift = float(known.mean()) - self.mean
        self.squares += float(known.var()) * known.size
        self.squares += shift**2 * self.count * known.size / count
        self.mean += shift * known.size / count
        self.count = count
        self.least = min(self.least, float(known.min()))
        self.most = max(self.most, float(known.max()))

    def scale(self) -> tuple[float, float]:
        """Returns mean and standard deviation, the latter 1 for constant values."""
        if not self.count:
            return 0.0, 1.0
        if self.least == self.most:  # the computed deviation may be a rounding error
            return self.least, 1.0
        # Of tiny numbers, the square underflows to 0.
        return self.mean, math.sqrt(self.squares / self.count) or 1.0


def as_numbers(column: str, values: "pd.Series[Any]") -> npt.NDArray[np.float64]:
    """Returns a column as float64 numbers, with NaN for missing values."""
    if values.dtype.kind in "mM":
        raise DataError(
            f"Column {column!r} must contain numbers: convert the times to seconds or "
            "days."
        )
    if is_numeric_dtype(values) and not is_complex_dtype(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = np.fromiter(map(as_number, values), np.float64, count=len(values))
    _refuse(np.isinf(numbers), column, values, "must be a finite number or missing")
    return numbers
