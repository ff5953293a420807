import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self, get_args

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import infer_dtype, is_complex_dtype, is_numeric_dtype

from fmlayers._checks import integer
from fmlayers._json_files import read_json, write_json
from fmlayers.data.errors import DataError
from fmlayers.features import Categorical, Feature, MultiCategorical, Numeric

Kind = Literal["categorical", "multi_categorical", "numeric"]

# What `infer_dtype` calls columns whose equal values have equal texts.
UNIFORM = ("boolean", "bytes", "empty", "integer", "string")

# A decimal number between blanks. (`float` also accepts "1_000" and "nan".)
NUMBER = re.compile(
    r"[ \t\n\v\f\r]*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?[ \t\n\v\f\r]*",
    re.ASCII | re.IGNORECASE,
)
NUMBERS: tuple[Any, ...] = (
    bool,
    int,
    float,
    Decimal,
    np.bool_,
    np.integer,
    np.floating,
)

MISSING = 0  # id of a missing value: masked by `mask_zero`, and the padding of lists
UNKNOWN = -1  # id outside every vocabulary: handled by the layer's `out_of_range`


@keras.saving.register_keras_serializable(package="fmlayers")
class Encoder:
    """Encodes the columns of a table as model inputs.

    Fit the encoder on the training rows, and save it with the model.

    Each column is of one of three kinds:

    - `"categorical"`: one value per row, encoded as an int32 id.
    - `"multi_categorical"`: a list, a tuple or a text such as `"A|B"` per row, encoded
      as int32 ids of shape `(rows, length)`, padded with 0.
    - `"numeric"`: a number per row, standardized to float32 by the mean and standard
      deviation of the training rows. Missing values stay NaN.

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
    decimal number such as `"-1.5e3"`, which blanks may surround.

    The encoding of a cell does not depend on the other cells of the column. But a
    `DataFrame` converts columns of mixed numbers before the encoder sees them: pass
    `dtype=object` if integers above 2^53 share a column with floats or missing values.

    Args:
        columns: Dict from column name to kind, in the order of the fields.
        min_count: Positive integer. Values that occur less often in the training rows
            count as unknown, which trains the embedding of unknown values on rare
            ones. Defaults to 1.
        separator: String that separates the values of a multi-categorical text.
            Defaults to `"|"`.

    Raises:
        ValueError: If an argument violates its constraint, or the encoder is used
            before `fit`.
        DataError: If the table lacks a column, a numeric column contains a value that
            is not a finite number or exceeds float32 when it is standardized, or
            another column contains a dict, a set or a nested list, or a list in a
            categorical column.

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
    ) -> None:
        if not columns:
            raise ValueError("`columns` must not be empty. Received: columns={}.")
        for column, kind in columns.items():
            if kind not in get_args(Kind):
                raise ValueError(
                    '`columns` must map to "categorical", "multi_categorical" or '
                    f'"numeric". Received: {kind!r} for column {column!r}.'
                )
        min_count = integer("min_count", min_count)
        if not separator:
            raise ValueError("`separator` must not be empty. Received: separator=''.")
        self.columns = dict(columns)
        self.min_count = min_count
        self.separator = separator
        self._vocabularies: dict[str, pd.Index] = {}
        self._scales: dict[str, tuple[float, float]] = {}

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
        for column, kind in self.columns.items():
            if kind == "numeric":
                moments[column] = _Moments()
            else:
                counts[column] = {}
        for part in [table] if isinstance(table, pd.DataFrame) else table:
            self._require_columns(part)
            for column, numbers in moments.items():
                numbers.add(as_numbers(column, part[column]))
            for column, known in counts.items():
                codes, cells = self._cells(column, part[column])
                repeats = np.bincount(codes[codes >= 0], minlength=len(cells))
                for cell, count in zip(cells, repeats.tolist(), strict=True):
                    for value in cell:
                        known[value] = known.get(value, 0) + count
        self._scales = {column: numbers.scale() for column, numbers in moments.items()}
        self._vocabularies = {}
        for column, known in counts.items():
            kept = [(-n, value) for value, n in known.items() if n >= self.min_count]
            values = [value for _, value in sorted(kept)]
            self._vocabularies[column] = pd.Index(values, dtype=object)
        return self

    def transform(self, table: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Returns the model inputs of a table, a dict from column name to array.

        Values that are not in the vocabulary have the id -1; they raise no error.
        """
        self._require_fitted()
        self._require_columns(table)
        return {column: self.encode(column, table[column]) for column in self.columns}

    def encode(self, column: str, values: "pd.Series[Any]") -> npt.NDArray[Any]:
        """Encodes the values of a single column, as `transform` does."""
        kind = self.columns[column]
        if kind == "numeric":
            mean, deviation = self._scales[column]
            with np.errstate(over="ignore"):
                scaled = (as_numbers(column, values) - mean) / deviation
                scaled = scaled.astype(np.float32)
            wrong = np.isinf(scaled)
            _refuse(wrong, column, values, "must be a number in float32's range")
            return scaled
        codes, cells = self._cells(column, values)
        lengths = [len(cell) for cell in cells]
        flat = [value for cell in cells for value in cell]
        index = self._vocabularies[column].get_indexer(pd.Index(flat, dtype=object))
        ids = np.where(index >= 0, index + 1, UNKNOWN)
        # One row per distinct cell and, last, one for missing cells (code -1).
        padded = np.full((len(cells) + 1, max(lengths, default=1) or 1), MISSING)
        padded[:-1][np.arange(padded.shape[1]) < np.array(lengths)[:, None]] = ids
        encoded = padded.astype(np.int32)[codes]
        return encoded if kind == "multi_categorical" else encoded[:, 0]

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
        """Returns the mean and the standard deviation of a numeric column."""
        self._require_fitted()
        if column not in self._scales:
            raise ValueError(
                f"`column` must be one of {list(self._scales)}. "
                f"Received: column={column!r}."
            )
        return self._scales[column]

    def decode(self, column: str, ids: Sequence[int]) -> list[str | None]:
        """Returns the values of ids, with `None` for a missing or unknown value."""
        values = self.vocabulary(column)
        return [values[i - 1] if 1 <= i <= len(values) else None for i in ids]

    def get_config(self) -> dict[str, Any]:
        return {
            "columns": self.columns,
            "min_count": self.min_count,
            "separator": self.separator,
            "vocabularies": {
                column: list(values) for column, values in self._vocabularies.items()
            },
            "scales": {column: list(scale) for column, scale in self._scales.items()},
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
        encoder = cls(**config)
        if not (isinstance(vocabularies, Mapping) and isinstance(scales, Mapping)):
            raise ValueError("`vocabularies` and `scales` must be dicts.")
        if vocabularies or scales:
            numeric = {c for c, kind in encoder.columns.items() if kind == "numeric"}
            if (
                set(scales) != numeric
                or set(vocabularies) != {*encoder.columns} - numeric
            ):
                raise ValueError("vocabularies and scales do not match the columns")
        encoder._vocabularies = {
            column: pd.Index(_checked_vocabulary(column, values), dtype=object)
            for column, values in vocabularies.items()
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
        size = len(self._vocabularies[column]) + 1  # with the id 0
        if kind == "multi_categorical":
            return MultiCategorical(column, size)
        return Categorical(column, size, mask_zero=True)

    def _cells(
        self, column: str, values: "pd.Series[Any]"
    ) -> tuple[npt.NDArray[np.intp], list[list[str]]]:
        """Returns a code per row (-1: missing) and the texts of each distinct cell."""
        multiple = self.columns[column] == "multi_categorical"
        text = _texts if multiple else _text
        cells = values.to_numpy(dtype=object)
        try:
            if multiple or _is_mixed(values):
                keys = np.fromiter(map(text, cells), object, count=len(cells))
                codes, distinct = pd.factorize(keys)
                return codes, [self._split(cell) for cell in distinct]
            codes, distinct = pd.factorize(cells)
            return codes, [[as_text(cell)] for cell in distinct]
        except (TypeError, ValueError):
            wrong = np.array([not _converts(text, cell) for cell in cells])
            allowed = "a value or a list of values" if multiple else "a single value"
            _refuse(wrong, column, values, f"must be {allowed}")
            raise

    def _split(self, cell: str | tuple[str, ...]) -> list[str]:
        if isinstance(cell, tuple):
            return list(cell)
        return [value for value in cell.split(self.separator) if value]

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "The `Encoder` must be fitted on the training rows first: call `fit()`."
            )

    def _require_columns(self, table: pd.DataFrame) -> None:
        absent = [column for column in self.columns if column not in table.columns]
        if absent:
            raise DataError(
                f"The table lacks the columns {absent}. It has {list(table.columns)}."
            )


def as_text(value: Any) -> str:
    """Returns the text by which values are compared: "1" for 1.0, 1 and "1"."""
    if isinstance(value, np.floating):
        value = float(value)  # a float32 of 0.1 is 0.10000000149011612 in a column, too
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


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


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


def _is_mixed(values: "pd.Series[Any]") -> bool:
    """Returns whether equal values may have different texts, such as True and 1."""
    return values.dtype == object and infer_dtype(values) not in UNIFORM


def _text(cell: Any) -> tuple[str, ...] | None:
    """Returns the text of a cell in a tuple, or `None` for a missing value."""
    hash(cell)  # lists, sets, dicts and arrays are no values: they have no hash
    return None if _is_missing(cell) else (as_text(cell),)


def _texts(cell: Any) -> str | tuple[str, ...] | None:
    """Returns the texts of a cell, a text to split, or `None` for a missing value."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, (list, tuple, np.ndarray)):
        if {*map(type, cell)} <= {str}:
            return tuple(cell)
        return tuple([text for value in cell for text in _text(value) or ()])
    return _text(cell)


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
    try:
        cell = repr(values.iloc[row])
    except ValueError:  # Python does not print integers of more digits
        cell = f"an integer of more than {sys.get_int_max_str_digits()} digits"
    raise DataError(f"Column {column!r}, row {row}: {message}. Received: {cell}.")


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
        numbers = np.fromiter(map(_as_number, values), np.float64, count=len(values))
    _refuse(np.isinf(numbers), column, values, "must be a finite number or missing")
    return numbers


def _as_number(cell: Any) -> float:
    """Returns a number, NaN for a missing value, and infinity for any other value."""
    try:
        if isinstance(cell, (str, bytes)):
            text = cell if isinstance(cell, str) else cell.decode("latin-1")
            return float(text) if NUMBER.fullmatch(text) else math.inf
        if isinstance(cell, NUMBERS) and not isinstance(cell, np.timedelta64):
            return float(cell)
        return math.nan if _is_missing(cell) else math.inf
    except (OverflowError, TypeError, ValueError):
        return math.inf
