"""Descriptions of features: what `FeatureEmbedding` and the models are built from.

A description says which entry of the input dict a field reads and how that
becomes a vector. It holds no weights, is compared by value, and is saved with
the layer that uses it.
"""

import hashlib
import re
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Self, get_args

import keras

from fmlayers._backend import id_dtype
from fmlayers._checks import boolean, integer
from fmlayers._types import Combiner

_UNSAFE = re.compile(r"[^A-Za-z0-9_>-]")


def safe_name(name: str) -> str:
    """Returns a name for a weight or a layer that every backend accepts.

    It is `name` itself where that is such a name. Any other gets a digest, which keeps
    "a b" and "a_b" apart.
    """
    if not _UNSAFE.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_UNSAFE.sub('_', name)}_{digest[:8]}"


def input_name(name: str) -> str:
    """Returns the name of a `keras.Input`, in which Keras refuses slashes.

    In a model with a dict of inputs, Keras warns where it is not the dict's key.
    """
    return safe_name(name) if "/" in name else name


@dataclass(frozen=True)
class _Feature:
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"`name` must be a non-empty string. Received: name={self.name!r}."
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The entries of the input dict that the field cannot do without."""
        return (self.name,)

    def get_config(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


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
    def table_name(self) -> str:
        """The name under which the rows are kept, and shared."""
        return self.table or self.name


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Categorical(_TableFeature):
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

    def keras_input(self) -> keras.KerasTensor:
        """Returns a `keras.Input` of this feature's name, shape and dtype."""
        return keras.Input((), dtype=id_dtype(), name=input_name(self.name))


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class MultiCategorical(_TableFeature):
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
        if self.combiner not in get_args(Combiner):
            raise ValueError(
                '`combiner` must be "mean", "sum" or "sqrtn". '
                f"Received: combiner={self.combiner!r} for feature {self.name!r}."
            )

    def keras_input(self) -> keras.KerasTensor:
        """Returns a `keras.Input` of this feature's name, shape and dtype."""
        return keras.Input((None,), dtype=id_dtype(), name=input_name(self.name))


@keras.saving.register_keras_serializable(package="fmlayers")
@dataclass(frozen=True)
class Numeric(_Feature):
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

    def keras_input(self) -> keras.KerasTensor:
        """Returns a `keras.Input` of this feature's name and shape, in `floatx`."""
        dtype = keras.config.floatx()
        return keras.Input((), dtype=dtype, name=input_name(self.name))


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
        if self.combiner not in get_args(Combiner):
            raise ValueError(
                '`combiner` must be "mean", "sum" or "sqrtn". '
                f"Received: combiner={self.combiner!r} for feature {self.name!r}."
            )
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
    def inputs(self) -> tuple[str, ...]:
        """The entry of the input dict that the field cannot do without."""
        return (self.of,)


Feature = Categorical | MultiCategorical | Numeric | History
