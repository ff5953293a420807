"""Descriptions of features: what `FeatureEmbedding` and the models are built from.

A description says which entry of the input dict a field reads and how that
becomes a vector. It holds no weights, is compared by value, and is saved with
the layer that uses it.
"""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Self, get_args

import keras

from fmlayers._checks import boolean, integer
from fmlayers._entries import Entry, IdEntry, IdsEntry, NumberEntry
from fmlayers._types import Combiner


@dataclass(frozen=True)
class _Feature(ABC):
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"`name` must be a non-empty string. Received: name={self.name!r}."
            )

    @property
    @abstractmethod
    def entries(self) -> tuple[Entry, ...]:
        """What the field reads from the input dict, in order."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The entries of the input dict that the field cannot do without."""
        return tuple(entry.name for entry in self.entries if entry.required)

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """The vectors that the field learns, without one for unknown ids."""

    @property
    def table_name(self) -> str | None:
        """The name under which the rows are kept, and shared; None without a table."""
        return None

    def get_config(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


class _HasInput(_Feature):
    """A feature with an entry of its name, and no other."""

    def keras_input(self) -> keras.KerasTensor:
        """Returns a `keras.Input` of this feature's name, shape and dtype."""
        (entry,) = self.entries
        return entry.keras_input()


@dataclass(frozen=True)
class _TableFeature(_Feature):
    vocabulary_size: int
    _: KW_ONLY
    table: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        of = f" for feature {self.name!r}"
        size = integer("vocabulary_size", self.vocabulary_size, of=of)
        object.__setattr__(self, "vocabulary_size", size)

    @property
    def num_rows(self) -> int:
        """The rows of the table, without one for unknown ids."""
        return self.vocabulary_size

    @property
    def ids_entry(self) -> str:
        """The entry of the input dict that has ids of the table's rows."""
        return self.name

    @property
    def table_name(self) -> str:
        """The name under which the rows are kept, and shared."""
        return self.table or self.name


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Categorical(_HasInput, _TableFeature):
    """One id an example: a user, an item, a sex.

    Args:
        name: String, the entry of the input dict: integers of shape `(batch,)`
            or `(batch, 1)`.
        vocabulary_size: Positive integer, in rows. Valid ids are
            0 ... `vocabulary_size` - 1.
        table: Optional string. Features that name the same table share its rows;
            their `vocabulary_size` must agree. Defaults to a table of its own.
        mask_zero: Boolean, whether the id 0 means that the value is missing, in
            which case the field is the zero vector. Defaults to `False`.
    """

    _: KW_ONLY
    mask_zero: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mask_zero", boolean("mask_zero", self.mask_zero))

    @property
    def entries(self) -> tuple[IdEntry]:
        """What the field reads from the input dict."""
        last = self.vocabulary_size - 1
        return (
            IdEntry(
                self.name,
                feature=self,
                size=self.vocabulary_size,
                meaning=f"an id 1 ... {last}; 0: missing"
                if self.mask_zero
                else f"an id 0 ... {last}",
                remedy="For several ids an example describe it as `MultiCategorical`; "
                "to score many items for one user give each pair a row, the user "
                "repeated.",
            ),
        )


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class MultiCategorical(_HasInput, _TableFeature):
    """Any number of ids an example, pooled into one vector: genres, a history.

    Args:
        name: String, the entry of the input dict: integers of shape
            `(batch, length)`, padded with the id 0; or a pair of all examples' ids
            `(values,)` and their row splits `(batch + 1,)`; or a `tf.RaggedTensor`
            or `tf.SparseTensor`. They are ids, not multi-hot rows. An example with
            no value contributes the zero vector.
        vocabulary_size: Positive integer, in rows. Valid ids are
            0 ... `vocabulary_size` - 1, of which 0 is the padding.
        table: Optional string. Features that name the same table share its rows;
            their `vocabulary_size` must agree. Defaults to a table of its own.
        combiner: `"mean"`, `"sum"` or `"sqrtn"`; see `MaskedMeanPooling`.
            Defaults to `"mean"`.
    """

    _: KW_ONLY
    combiner: Combiner = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_combiner(self)

    @property
    def entries(self) -> tuple[IdsEntry]:
        """What the field reads from the input dict."""
        return (
            IdsEntry(
                self.name,
                feature=self,
                size=self.vocabulary_size,
                meaning=f"ids 1 ... {self.vocabulary_size - 1}, padded with 0",
                remedy="For one id an example describe it as `Categorical`.",
            ),
        )


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Numeric(_HasInput):
    """A number an example, times a learned vector: an age, a year, a price.

    Bring it to a mean near 0 and a standard deviation near 1 first, as
    `fmlayers.data.Encoder` does: the vector's step grows with the value.

    Args:
        name: String, the entry of the input dict: numbers of shape `(batch,)` or
            `(batch, 1)`. NaN means missing: the field is then the zero vector.
        use_bias: Boolean, whether a second learned vector is added to the
            product (what `Dense(dim)` on the number computes). Defaults to
            `False`.
    """

    _: KW_ONLY
    use_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "use_bias", boolean("use_bias", self.use_bias))

    @property
    def entries(self) -> tuple[NumberEntry]:
        """What the field reads from the input dict."""
        return (
            NumberEntry(
                self.name,
                feature=self,
                meaning="a number, as the encoder scales it; NaN: missing",
                remedy="For a vector an example describe each of its numbers as a "
                "`Numeric`, or project it with `keras.layers.Dense(dim)` and "
                "concatenate the result, as one more field, with the vectors of "
                "`FeatureEmbedding`.",
            ),
        )

    @property
    def num_rows(self) -> int:
        """The vectors that the field learns: one, and one for the bias."""
        return 1 + self.use_bias


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class History(_TableFeature):
    """The ids that go with another id: the items that the example's user has rated.

    The lists are part of the layer, given once by `FeatureEmbedding.set_history`
    and saved with it, so that an example has the user's id and the item's alone. An
    example's own value is left out of its list, wherever the list has it: a user's
    rating of a film is predicted from the user's *other* films, in training as in
    use.

    Args:
        name: String, the name of the field. It has no entry in the input dict.
        vocabulary_size: Positive integer: the values in the lists are
            1 ... `vocabulary_size` - 1.
        table: Optional string. Features that name the same table share its rows;
            their `vocabulary_size` must agree. Defaults to a table of its own.
        of: String, the entry of the input dict that has the lists' key, an id.
        num_keys: Positive integer: keys are 0 ... `num_keys` - 1, any other has no
            list.
        values: String, the entry of the input dict that has the example's own
            value. It may be left out of the dict: the list is then whole.
        num_pairs: Positive integer, the values in all lists together.
        combiner: `"mean"`, `"sum"` or `"sqrtn"`; see `MaskedMeanPooling`.
            Defaults to `"sqrtn"`.

    References:
        - Koren, Y. (2008). Factorization Meets the Neighborhood: a Multifaceted
          Collaborative Filtering Model. KDD, equation 15 (SVD++).
        - Rendle, S., Zhang, L. and Koren, Y. (2019). On the Difficulty of
          Evaluating Baselines. arXiv:1905.01395, section 3.1 (both directions,
          "flipped").
    """

    _: KW_ONLY
    of: str
    num_keys: int
    values: str
    num_pairs: int
    combiner: Combiner = "sqrtn"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_combiner(self)
        try:
            for name in ("num_keys", "num_pairs"):
                size = integer(name, getattr(self, name), most=2**31 - 1)
                object.__setattr__(self, name, size)
        except ValueError:
            raise ValueError(
                "`num_keys` and `num_pairs` must be positive integers below 2^31. "
                f"Received: num_keys={self.num_keys!r}, num_pairs={self.num_pairs!r} "
                f"for feature {self.name!r}."
            ) from None

    @property
    def entries(self) -> tuple[IdEntry, IdEntry]:
        """What the field reads from the input dict: the key and the own value."""
        remedy = "It holds the ids that the lists go with, one an example."
        return (
            IdEntry(
                self.of,
                feature=self,
                size=self.num_keys,
                meaning=f"an id 0 ... {self.num_keys - 1}, the key of {self.name}",
                remedy=remedy,
            ),
            IdEntry(
                self.values,
                feature=self,
                size=self.vocabulary_size,
                required=False,
                meaning=f"the example's own value, left out of {self.name}; 0: none",
                remedy=remedy,
            ),
        )

    @property
    def ids_entry(self) -> str:
        """The entry of the input dict that has ids of the table's rows."""
        return self.values


Feature = Categorical | MultiCategorical | Numeric | History


def _check_combiner(feature: MultiCategorical | History) -> None:
    if feature.combiner not in get_args(Combiner):
        raise ValueError(
            '`combiner` must be "mean", "sum" or "sqrtn". '
            f"Received: combiner={feature.combiner!r} for feature {feature.name!r}."
        )
