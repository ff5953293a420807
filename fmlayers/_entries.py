"""The entries of the input dict: the form of each, and how to read it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._backend import (
    concrete,
    dtype_of,
    id_dtype,
    is_ragged,
    is_sparse,
    only_traces_shapes,
    rows_are_sorted,
    rows_of_sparse,
    wide_integers,
    with_rank,
)
from fmlayers._names import input_name
from fmlayers._row_splits import check_row_splits
from fmlayers._types import Tensor

if TYPE_CHECKING:
    from fmlayers.features import Feature


_USE_VECTOR = "For a dense vector per example, use `Vector`."


@dataclass(frozen=True)
class Entry(ABC):
    """An entry of the input dict, as a feature reads it.

    Each subclass is a form of entry. By default an entry has one value per example.

    Attributes:
        name: String, the name of the entry.
        feature: The feature that reads the entry, for errors.
        meaning: String, the meaning of the values, for documentation.
        remedy: String, what to do with an entry of another shape, for errors.
        required: Boolean, whether the input dict must have the entry.
    """

    name: str
    _: KW_ONLY
    feature: "Feature"
    meaning: str
    remedy: str
    required: bool = True

    @property
    def wanted(self) -> str:
        """The allowed shapes, for errors."""
        return "(batch,) or (batch, 1)"

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the entry, with the batch axis first."""
        return (None,)

    @property
    @abstractmethod
    def dtype(self) -> str:
        """The dtype of the entry, into which every value fits."""

    @property
    @abstractmethod
    def example(self) -> list[Any]:
        """The values of two examples."""

    @abstractmethod
    def read(self, inputs: Mapping[str, Tensor]) -> Any:
        """Returns the values in the form in which layers compute."""

    def is_in(self, inputs: Any) -> bool:
        """Returns whether to read the entry: if it is required or present."""
        return self.required or self.name in inputs

    def check(self, inputs: Any) -> None:
        """Raises `ValueError` unless the entry has the right shape and dtype."""
        x = value_of(inputs, self.name)
        if not self._accepts(x):
            raise ValueError(
                f"{type(self.feature).__name__} {self._where} must be of shape "
                f"{self.wanted}. Received: {_description(x)}. {self._remedy(x)}"
            )
        self._check_values(x)

    def with_rank(self, x: Any) -> Any:
        """Returns the entry with its rank, which compiled TensorFlow may not know."""
        rank = len(self.shape)
        message = f"{type(self.feature).__name__} {self._where} must be of shape "
        return with_rank(x, rank, f"{message}{self.wanted}. Received:")

    def keras_input(self) -> keras.KerasTensor:
        """Returns a `keras.Input` of this entry's name, shape and dtype."""
        name = input_name(self.name)
        return keras.Input(self.shape[1:], dtype=self.dtype, name=name)

    def blank(self, batch: int = 1) -> npt.NDArray[Any]:
        """Returns an entry of zeros."""
        return np.zeros([batch, *(size or 1 for size in self.shape[1:])], self.dtype)

    @property
    def _where(self) -> str:
        if self.name == self.feature.name:
            return f"feature {self.name!r}"
        return f"entry {self.name!r}, which feature {self.feature.name!r} reads,"

    def _accepts(self, x: Any) -> bool:
        if not _is_tensor(x) or is_sparse(x) or is_ragged(x):
            return False
        shape = tuple(x.shape)
        return len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None))

    def _check_values(self, x: Any) -> None:
        self._check_dtype(dtype_of(x))

    def _remedy(self, x: Any) -> str:
        return self.remedy

    @abstractmethod
    def _check_dtype(self, dtype: str) -> None: ...


@dataclass(frozen=True)
class NumberEntry(Entry):
    """One number per example, NaN where it is missing."""

    @property
    def dtype(self) -> str:
        return str(keras.config.floatx())

    @property
    def example(self) -> list[Any]:
        return [0.0, 1.0]

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns numbers `(batch,)`."""
        return _flat(value_of(inputs, self.name))

    def _check_dtype(self, dtype: str) -> None:
        if not dtype.startswith(("int", "uint", "float", "bfloat", "bool")):
            raise ValueError(
                f"Values of {self._where} must be numbers: encode raw values with "
                f"`fmlayers.data.Encoder` first. Received: {dtype=!s}."
            )


@dataclass(frozen=True)
class VectorEntry(NumberEntry):
    """A vector per example, with NaN where it is missing.

    Attributes:
        size: Positive integer, the length of the vectors.
    """

    _: KW_ONLY
    size: int

    @property
    def wanted(self) -> str:
        return f"(batch, {self.size})"

    @property
    def shape(self) -> tuple[int | None, ...]:
        return (None, self.size)

    @property
    def example(self) -> list[Any]:
        return [[1.0] + [0.0] * (self.size - 1), [0.0] * self.size]

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns vectors `(batch, size)`."""
        return value_of(inputs, self.name)

    def _accepts(self, x: Any) -> bool:
        if not _is_tensor(x) or is_sparse(x) or is_ragged(x):
            return False
        return len(x.shape) == 2 and x.shape[1] in (self.size, None)


@dataclass(frozen=True)
class IdEntry(Entry):
    """One id per example.

    Attributes:
        size: Positive integer. Ids are 0 ... `size` - 1.
    """

    _: KW_ONLY
    size: int

    @property
    def dtype(self) -> str:
        return id_dtype()

    @property
    def example(self) -> list[Any]:
        return [min(i, self.size - 1) for i in (1, 2)]

    def read(self, inputs: Mapping[str, Tensor]) -> Any:
        """Returns integers `(batch,)`."""
        return _flat(wide_integers(value_of(inputs, self.name)))

    def _remedy(self, x: Any) -> str:
        is_float = _is_tensor(x) and "float" in dtype_of(x)
        return _USE_VECTOR if is_float else self.remedy

    def _check_dtype(self, dtype: str) -> None:
        if dtype.startswith(("int", "uint")) or only_traces_shapes():
            return
        if "float" in dtype:
            reason = (
                "float32 represents integers exactly only up to 2^24, and larger ids "
                "would silently become other ids"
            )
            if len(self.shape) == 2:
                reason += f". {_USE_VECTOR[:-1]}"
        elif dtype == "bool":
            reason = (
                "convert n multi-hot columns to ids 1 ... n with "
                "`np.where(x, np.arange(1, n + 1), 0)`"
            )
        else:
            reason = "encode raw values with `fmlayers.data.Encoder` first"
        raise ValueError(
            f"Ids of {self._where} must be integers: {reason}. Received: {dtype=!s}."
        )


@dataclass(frozen=True)
class _RowsEntry(Entry):
    """Any number of values per example, padded or ragged."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        return (None, None)

    def check(self, inputs: Any) -> None:
        super().check(inputs)
        self._check_rows(inputs)

    def _accepts(self, x: Any) -> bool:
        if _are_tensors(x):
            return [len(part.shape) for part in x] == [1, 1]
        if not _is_tensor(x) or len(x.shape) != 2:
            return False
        return not is_sparse(x) or keras.backend.backend() == "tensorflow"

    def _check_values(self, x: Any) -> None:
        if is_sparse(x) and not rows_are_sorted(x):
            raise ValueError(
                f"A sparse {self._where} must have its entries sorted by row, within "
                "its shape. Sort them with `tf.sparse.reorder`."
            )
        super()._check_values(_parts(x)[0])

    def _check_rows(self, inputs: Any) -> None:
        values, row_splits = _parts(value_of(inputs, self.name))
        if row_splits is not None:
            check_row_splits(self._where, row_splits, values.shape[0])


@dataclass(frozen=True)
class IdsEntry(_RowsEntry, IdEntry):
    """Any number of ids per example, padded with 0 or ragged."""

    @property
    def wanted(self) -> str:
        return (
            "(batch, length), ragged, or a pair of ids (values,) and row splits "
            "(batch + 1,)"
        )

    @property
    def example(self) -> list[Any]:
        first, second = super().example
        return [[first, second], [second, 0]]

    def read(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns padded ids and `None`, or all rows' ids and their row splits."""
        ids, row_splits = _parts(value_of(inputs, self.name))
        return wide_integers(ids), row_splits


@dataclass(frozen=True)
class WeightsEntry(_RowsEntry, NumberEntry):
    """One weight for each id of another entry, in the form of the ids.

    Attributes:
        ids: The entry of the ids.
    """

    _: KW_ONLY
    ids: IdsEntry

    @property
    def wanted(self) -> str:
        return (
            "(batch, length), ragged, or a pair of weights (values,) and row splits "
            "(batch + 1,)"
        )

    @property
    def example(self) -> list[Any]:
        return [[1.0, 0.5], [1.0, 0.0]]

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Returns padded weights, or the weights of all rows."""
        return _parts(value_of(inputs, self.name))[0]

    def _check_rows(self, inputs: Any) -> None:
        weights, ids = value_of(inputs, self.name), value_of(inputs, self.ids.name)
        if not _have_same_rows(_parts(weights), _parts(ids)):
            raise ValueError(
                f"Weights of {self._where} must have the shape of the ids, and the "
                f"same row splits if there are any. Received: {_description(weights)}, "
                f"and {_description(ids)} of the ids."
            )
        super()._check_rows(inputs)


def value_of(inputs: Any, name: str) -> Any:
    """Returns an entry of the input dict, or raises `ValueError` if it is missing."""
    if not isinstance(inputs, Mapping):
        raise ValueError(
            "`inputs` must be a dict from feature name to tensor. "
            f"Received: {type(inputs).__name__}."
        )
    if name not in inputs:
        raise ValueError(
            f"`inputs` must have an entry {name!r}. Received: entries {sorted(inputs)}."
        )
    return inputs[name]


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _are_tensors(x: Any) -> bool:
    return (
        isinstance(x, (tuple, list)) and bool(x) and all(hasattr(p, "shape") for p in x)
    )


def _description(x: Any) -> str:
    if _are_tensors(x):
        return f"shapes {[tuple(part.shape) for part in x]}"
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__}; convert it with `np.array(...)`"
    if not _is_tensor(x):
        return f"{x!r}, of type {type(x).__name__}"
    if is_sparse(x):
        return (
            "a sparse tensor; only `MultiCategorical` accepts one, on TensorFlow. "
            "Parse the entry with `tf.io.FixedLenFeature`, or convert it to a dense "
            "tensor"
        )
    if is_ragged(x):
        return f"a ragged tensor of shape {tuple(x.shape)}"
    return f"shape {tuple(x.shape)}"


def _parts(x: Any) -> tuple[Tensor, Tensor | None]:
    """Returns padded values and `None`, or all rows' values and their row splits."""
    if isinstance(x, keras.KerasTensor):  # even if it is ragged
        return x, None
    if is_ragged(x):
        return x.values, x.row_splits
    if is_sparse(x):
        return rows_of_sparse(x)
    if isinstance(x, (tuple, list)):
        values, row_splits = x
        return values, row_splits
    return x, None


def _have_same_rows(
    one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]
) -> bool:
    """Returns whether two entries have the same form, as far as it is known."""
    (values, splits), (other_values, other_splits) = one, other
    if splits is None or other_splits is None:
        is_same = splits is other_splits
        return is_same and _is_same_shape(values.shape, other_values.shape)
    if not (
        _is_same_shape(values.shape, other_values.shape)
        and _is_same_shape(splits.shape, other_splits.shape)
    ):
        return False
    array, other_array = concrete(splits), concrete(other_splits)
    if array is None or other_array is None:
        return True
    return np.array_equal(array, other_array)


def _is_same_shape(one: Any, other: Any) -> bool:
    """Returns whether two shapes are the same, as far as they are known."""
    one, other = tuple(one), tuple(other)
    return len(one) == len(other) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(one, other, strict=True)
    )


def _flat(x: Tensor) -> Tensor:
    """Returns `(batch,)` for `(batch,)` or `(batch, 1)`."""
    return ops.squeeze(x, axis=1) if len(x.shape) == 2 else x
