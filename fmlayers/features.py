"""Descriptions of features, from which `FeatureEmbedding` and the models are built.

A description names the entry of the input dict that a field reads, and how the entry
becomes a vector. It has no weights, is compared by value, and is saved with the layer
that uses it.
"""

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Self, get_args

import keras

from fmlayers._checks import boolean, choice, integer
from fmlayers._entries import (
    Entry,
    IdEntry,
    IdsEntry,
    NumberEntry,
    VectorEntry,
    WeightsEntry,
)
from fmlayers._types import Combiner


@dataclass(frozen=True)
class Feature(ABC):
    """Base class of the descriptions of features.

    A kind of feature is a frozen dataclass, registered for serialization, that defines
    `entries` and `num_rows` and, if its vectors are the rows of a table, `table_name`.
    A field class in `fmlayers/layers/_fields` computes its vectors.

    Args:
        name: Non-empty string, the name of the feature, distinct in a model.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"`name` must be a non-empty string. Received: name={self.name!r}."
            )

    @property
    @abstractmethod
    def entries(self) -> tuple[Entry, ...]:
        """The entries of the input dict that the field reads, in order."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the required entries of the input dict."""
        return tuple(entry.name for entry in self.entries if entry.required)

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """The number of vectors that the field learns, without that of unknown ids."""

    @property
    def table_name(self) -> str | None:
        """The name of the table whose rows are the vectors; `None` without a table.

        Features with the same table name share the table.
        """
        return None

    def keras_inputs(self) -> dict[str, keras.KerasTensor]:
        """Returns a `keras.Input` for each required entry, by the entry's name."""
        return {x.name: x.keras_input() for x in self.entries if x.required}

    def get_config(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


class _NamedEntry(Feature):
    """A feature whose first entry has the feature's name."""

    def keras_input(self) -> keras.KerasTensor:
        """Returns a `keras.Input` of this feature's name, shape and dtype."""
        return self.entries[0].keras_input()


@dataclass(frozen=True)
class _TableFeature(Feature):
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
        """The number of rows of the table, without that of unknown ids."""
        return self.vocabulary_size

    @property
    def ids_entry(self) -> str:
        """The entry of the input dict whose ids are rows of the table."""
        return self.name

    @property
    def table_name(self) -> str:
        """The name of the table, which features may share."""
        return self.table or self.name


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Categorical(_NamedEntry, _TableFeature):
    """One id per example: a user, an item, a sex.

    Args:
        name: String, the entry of the input dict that has the ids: integers of shape
            `(batch,)` or `(batch, 1)`.
        vocabulary_size: Positive integer, in rows. Valid ids are
            0 ... `vocabulary_size` - 1.
        table: Optional string, the name of a table. Features with the same table name
            share its rows and must have the same `vocabulary_size`. Defaults to
            `None` (the feature has a separate table).
        mask_zero: Boolean, whether the id 0 marks a missing value, whose vector is
            zero. Defaults to `False`.
    """

    _: KW_ONLY
    mask_zero: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mask_zero", boolean("mask_zero", self.mask_zero))

    @property
    def entries(self) -> tuple[IdEntry]:
        """The entry of the input dict that the field reads."""
        last = self.vocabulary_size - 1
        return (
            IdEntry(
                self.name,
                feature=self,
                size=self.vocabulary_size,
                meaning=f"an id 1 ... {last}; 0: missing"
                if self.mask_zero
                else f"an id 0 ... {last}",
                remedy="For several ids per example, use `MultiCategorical`. To score "
                "many items for one user, repeat the user in every row.",
            ),
        )


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class MultiCategorical(_NamedEntry, _TableFeature):
    """Any number of ids per example, pooled into one vector: genres, a history.

    Args:
        name: String, the entry of the input dict that has the ids: integers of shape
            `(batch, length)`, padded with the id 0; or a pair of the ids of all
            examples `(values,)` and their row splits `(batch + 1,)`; or a
            `tf.RaggedTensor` or `tf.SparseTensor`. They are ids, not multi-hot rows.
            The vector of an example without values is zero.
        vocabulary_size: Positive integer, in rows. Valid ids are
            0 ... `vocabulary_size` - 1, where 0 is the padding.
        table: Optional string, the name of a table. Features with the same table name
            share its rows and must have the same `vocabulary_size`. Defaults to
            `None` (the feature has a separate table).
        combiner: `"mean"`, `"sum"` or `"sqrtn"`; see `MaskedMeanPooling`.
            Defaults to `"mean"`.
        weights: Optional string, the entry of the input dict that has the weights of
            the ids, in the form of the ids: `(batch, length)`, a pair of the weights
            and the row splits of the ids, or a tensor of the same kind. See
            `MaskedMeanPooling`; weights of ids that count as missing are ignored.
            Defaults to `None` (all weights are 1).
    """

    _: KW_ONLY
    combiner: Combiner = "mean"
    weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_combiner(self)
        weights = self.weights
        is_name = isinstance(weights, str) and weights not in ("", self.name)
        if weights is not None and not is_name:
            raise ValueError(
                "`weights` must be None or the name of another entry. "
                f"Received: weights={weights!r} for feature {self.name!r}."
            )

    @property
    def entries(self) -> tuple[IdsEntry] | tuple[IdsEntry, WeightsEntry]:
        """The entries of the input dict that the field reads."""
        ids = IdsEntry(
            self.name,
            feature=self,
            size=self.vocabulary_size,
            meaning=f"ids 1 ... {self.vocabulary_size - 1}, padded with 0",
            remedy="For one id per example, use `Categorical`.",
        )
        if self.weights is None:
            return (ids,)
        weights = WeightsEntry(
            self.weights,
            feature=self,
            ids=ids,
            meaning=f"the weights of {self.name}",
            remedy="It must have one weight per id.",
        )
        return (ids, weights)


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Numeric(_NamedEntry):
    """One number per example, times a learned vector: an age, a year, a price.

    Standardize the numbers first, as `fmlayers.data.Encoder` does: the gradient of the
    vector grows with the value.

    Args:
        name: String, the entry of the input dict that has the numbers, of shape
            `(batch,)` or `(batch, 1)`. NaN marks a missing value, whose vector is zero.
        use_bias: Boolean, whether to add a second learned vector to the product, as
            `Dense(dim)` on the number does. Defaults to `False`.
    """

    _: KW_ONLY
    use_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "use_bias", boolean("use_bias", self.use_bias))

    @property
    def entries(self) -> tuple[NumberEntry]:
        """The entry of the input dict that the field reads."""
        return (
            NumberEntry(
                self.name,
                feature=self,
                meaning="a number, as the encoder scales it; NaN: missing",
                remedy="For a dense vector per example, use `Vector`.",
            ),
        )

    @property
    def num_rows(self) -> int:
        """The number of vectors that the field learns: one, and one for the bias."""
        return 1 + self.use_bias


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Vector(_NamedEntry):
    """A dense vector per example, projected by a learned matrix: a text embedding.

    Scale the vectors to a norm of about 1 first, as `fmlayers.data.Encoder` does: the
    gradient of the matrix grows with the norm.

    Args:
        name: String, the entry of the input dict that has the vectors, numbers of shape
            `(batch, size)`. A vector with a NaN counts as missing; its field vector is
            zero.
        size: Positive integer, the length of the vectors.
        use_bias: Boolean, whether to add a learned vector to the product, as
            `Dense(dim)` does. Defaults to `False`.
    """

    size: int
    _: KW_ONLY
    use_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        size = integer("size", self.size, of=f" for feature {self.name!r}")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "use_bias", boolean("use_bias", self.use_bias))

    @property
    def entries(self) -> tuple[VectorEntry]:
        """The entry of the input dict that the field reads."""
        return (
            VectorEntry(
                self.name,
                feature=self,
                size=self.size,
                meaning=f"a vector of {self.size} numbers, as the encoder scales it; "
                "NaN: missing",
                remedy="For a number per example, use `Numeric`, and for several ids "
                "per example, use `MultiCategorical`.",
            ),
        )

    @property
    def num_rows(self) -> int:
        """The number of vectors that the field learns: the matrix and the bias."""
        return self.size + self.use_bias


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class History(_TableFeature):
    """The ids that belong to another id, such as the items that a user has rated.

    The histories are part of the layer. Set them once with
    `FeatureEmbedding.set_history`; they are saved with the layer, and the input dict
    needs only the ids of the user and the item. The example's own value is excluded
    from its history: a user's rating of an item is predicted from the user's *other*
    items, in training and in inference.

    Args:
        name: String, the name of the field. It has no entry in the input dict.
        vocabulary_size: Positive integer, in rows. The values in the histories are
            1 ... `vocabulary_size` - 1.
        table: Optional string, the name of a table. Features with the same table name
            share its rows and must have the same `vocabulary_size`. Defaults to
            `None` (the feature has a separate table).
        of: String, the entry of the input dict that has the key of the history, an id.
        num_keys: Positive integer, the number of keys. Keys are 0 ... `num_keys` - 1;
            the history of any other id is empty.
        values: String, the entry of the input dict that has the example's own value.
            The entry is optional; without it, nothing is excluded.
        num_pairs: Positive integer, the number of values in all histories together.
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
        """The entries of the input dict that the field reads: key and own value."""
        remedy = "It must have one id per example."
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
        """The entry of the input dict whose ids are rows of the table."""
        return self.values


def _check_combiner(feature: MultiCategorical | History) -> None:
    of = f" for feature {feature.name!r}"
    combiner = choice("combiner", feature.combiner, get_args(Combiner), of=of)
    object.__setattr__(feature, "combiner", combiner)
