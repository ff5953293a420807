from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

import keras
import numpy.typing as npt
from keras import ops

from fmlayers._backend import accumulation_dtype, raise_where, sum_spans
from fmlayers._checks import coefficient, integer
from fmlayers._config import freeze, restore, state_config
from fmlayers._types import OutOfRange, Tensor
from fmlayers.features import (
    Categorical,
    Feature,
    History,
    MultiCategorical,
    Numeric,
    safe_name,
)
from fmlayers.layers import _named_weights as named
from fmlayers.layers._inputs import (
    ChecksInputs,
    batch_size,
    check,
    entry,
    flat,
    integer_ids,
    rows_of,
    shape_of,
)
from fmlayers.layers.history_lists import HistoryLists
from fmlayers.layers.masked_mean_pooling import MaskedMeanPooling

# A combiner divides the sum of n vectors by n to this power.
_POWERS = {"sum": 0.0, "sqrtn": 0.5, "mean": 1.0}

# Up to so many cells of keys times values, a batch's lists are summed as a product
# of a dense matrix of ones with the table: five times as fast as by gathering rows
# on MovieLens, where one cell in twenty is a pair.
_DENSE = 2**25


@keras.saving.register_keras_serializable(package="fmlayers")
class FeatureEmbedding(ChecksInputs, keras.layers.Layer):
    """Turns a dict of features into one vector a field, in the order of the list.

        Categorical:       v_id
        MultiCategorical:  v_id1, v_id2, ... pooled by the feature's combiner
        Numeric:           value * v (+ b with `use_bias`)
        History:           as MultiCategorical, of the lists that the layer holds

    A missing value (NaN, an empty list, the id 0 under `mask_zero`) contributes
    the zero vector, hence no pair and no gradient. With `dim=1` the layer is the
    first-order term of a factorization machine.

    Ids outside 0 ... `vocabulary_size` - 1, negative ones too, follow
    `out_of_range` on every backend, eager and compiled:

    - `"unknown"`: they read one more row, kept for the unknown. It starts at
      zeros and learns where training meets such ids.
    - `"zero"`: they count as missing.
    - `"error"`: `ValueError`, or in compiled code the runtime's own error, with
      the feature and the id. TensorFlow's XLA programs cannot raise; the layer
      therefore switches `jit_compile="auto"` off there, and gives NaN for such
      an id to whoever insists on `jit_compile=True`.

    Each feature reads a table of its own unless features share one by name.
    One fused table with offsets trains within 15 % of that, either way
    (`python -m benchmarks.tables`), but could not be shared, inspected or
    regularized by name.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric` and
            `History`, with distinct names.
        dim: Positive integer, the size of a vector.
        out_of_range: `"unknown"`, `"zero"` or `"error"`. Defaults to `"unknown"`.
        l2: Float, or a dict from feature name to float (0 for those left out):
            adds l2 * mean over the batch of the squared norm of the rows that an
            example looks up, one loss a feature, in the order of the features.
            It costs as much as the batch, not as the table, is long; a row is
            drawn to zero as often as it is used. The rows of a multi-valued
            feature are weighed by its combiner. Defaults to 0.
        embeddings_initializer: Initializer of tables and vectors. Defaults to
            `RandomNormal(stddev=0.01)`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Dict from feature name to tensor. Other entries are ignored. Ids
            must be integers: a float above 2^24 is another id. Under JAX
            without x64, 64-bit integers lose their upper half before any layer
            sees them: give it 32-bit ids.

    Input shape:
        A dict: `(batch,)` or `(batch, 1)` for one value. For several
        `(batch, length)`, padded with 0, which costs as much as the longest row is
        long; or, at the cost of the ids there are, a pair of all rows' ids
        `(values,)` and their row splits `(batch + 1,)`, a `tf.RaggedTensor` or a
        `tf.SparseTensor`. Every entry has as many examples.
        There, too, an id 0 counts for nothing: XLA, which compiles anew for each
        number of values, is content with zeros at the end of the last row.

    Output shape:
        `(batch, fields, dim)`, in the compute dtype.

    Raises:
        ValueError: If an argument breaks its constraint, features disagree on a
            shared table, an entry is missing, ids are not integers, an entry has
            the wrong rank, or two have not as many examples.

    Example:

    >>> features = [
    ...     fmlayers.Categorical("user", 943),
    ...     fmlayers.MultiCategorical("genres", 19),
    ...     fmlayers.Numeric("age"),
    ... ]
    >>> layer = fmlayers.FeatureEmbedding(features, dim=8)
    >>> batch = {
    ...     "user": np.array([3, 7]),
    ...     "genres": np.array([[1, 5], [0, 0]]),
    ...     "age": np.array([0.3, np.nan]),
    ... }
    >>> tuple(layer(batch).shape)
    (2, 3, 8)

    References:
        Rendle, S. (2010). Factorization Machines. ICDM, equation 1 (a field is
        a block of x; a multi-valued one is a block with several entries).
    """

    built: bool

    def __init__(
        self,
        features: Sequence[Feature],
        dim: int,
        *,
        out_of_range: OutOfRange = "unknown",
        l2: float | Mapping[str, float] = 0.0,
        embeddings_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        features = list(features)
        _check_features(features)
        dim = integer("dim", dim)
        if out_of_range not in get_args(OutOfRange):
            raise ValueError(
                '`out_of_range` must be "unknown", "zero" or "error". '
                f"Received: out_of_range={out_of_range!r}."
            )
        l2 = _plain_l2(features, l2)
        # With autocast, Keras would round numbers to the compute dtype before
        # they are multiplied, and cast whole tables at every step (the weights
        # turn it off, too): here the batch's rows are cast, at the end.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.features = features
        self.dim = dim
        self.out_of_range = out_of_range
        self.l2 = l2
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer or keras.initializers.RandomNormal(stddev=0.01)
        )
        self.histories: dict[str, HistoryLists] = {}
        self._frozen: tuple[str, ...] = ()
        self._fault = named.Last()
        self._coefficients = {
            feature.name: l2.get(feature.name, 0.0) if isinstance(l2, dict) else l2
            for feature in features
        }
        self._accumulation_dtype = accumulation_dtype(self.compute_dtype)
        self._pooling = {
            feature.combiner: MaskedMeanPooling(
                combiner=feature.combiner, dtype=self._accumulation_dtype
            )
            for feature in features
            if isinstance(feature, MultiCategorical)
        }
        if out_of_range == "error" and keras.backend.backend() == "tensorflow":
            self.supports_jit = False

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.tables: dict[str, Any] = {}
        self.vectors: dict[str, Any] = {}
        self.biases: dict[str, Any] = {}
        for feature in self.features:
            if isinstance(feature, Numeric):
                self.vectors[feature.name] = self._add_vector(feature.name, "vector")
                if feature.use_bias:
                    self.biases[feature.name] = self._add_vector(feature.name, "bias")
            elif feature.table_name not in self.tables:
                self.tables[feature.table_name] = self._add_table(feature)
        if not self.histories:
            self.histories = {
                feature.name: HistoryLists(feature, name=safe_name(feature.name))
                for feature in self.features
                if isinstance(feature, History)
            }
        for pooling in self._pooling.values():
            pooling.build(None)
        freeze(self, self._frozen)
        self.built = True

    def call(self, inputs: Mapping[str, Tensor]) -> Tensor:
        fields = []
        for feature in self.features:
            vectors, squared_norm = self._embed(feature, inputs)
            fields.append(vectors)
            coefficient = self._coefficients[feature.name]
            if coefficient:
                batch = ops.cast(ops.shape(squared_norm)[0], self._accumulation_dtype)
                mean = ops.sum(squared_norm) / ops.maximum(batch, 1.0)
                self.add_loss(coefficient * mean)
        return ops.cast(ops.stack(fields, axis=1), self.compute_dtype)

    def fields(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """Returns the vectors of some of the fields, without their L2.

        Args:
            inputs: As of `call`; entries of the named features are enough.
            names: Names of features, in any order.

        Returns:
            `(batch, len(names), dim)`, in the order of `names`.
        """
        by_name = {feature.name: feature for feature in self.features}
        absent = [name for name in names if name not in by_name]
        if absent or not names:
            raise ValueError(
                f"`names` must name some of {list(by_name)}. Received: {list(names)}."
            )
        if not self.built:
            self.build()
        chosen = [by_name[name] for name in names]
        check(chosen, inputs)
        vectors = [self._embed(feature, inputs)[0] for feature in chosen]
        return ops.cast(ops.stack(vectors, axis=1), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (batch_size(self.features, input_shape), len(self.features), self.dim)

    def compute_output_spec(self, inputs: Mapping[str, Any]) -> Any:
        shapes = {name: shape_of(x) for name, x in inputs.items()}
        return keras.KerasTensor(
            self.compute_output_shape(shapes), dtype=self.compute_dtype
        )

    def l2_of(self, name: str) -> float:
        """Returns the L2 of a feature's rows."""
        return self._coefficients[name]

    def set_history(
        self, name: str, keys: npt.ArrayLike, values: npt.ArrayLike
    ) -> None:
        """Gives a `History` its lists, as pairs of a key and a value, each once.

        Take them from the training rows alone.

        Args:
            name: Name of the feature.
            keys: Integers `(num_pairs,)`, in any order.
            values: Integers `(num_pairs,)`.
        """
        if not self.built:
            self.build()
        if name not in self.histories:
            raise ValueError(
                f"`name` must be that of a `History` among {list(self.histories)}. "
                f"Received: name={name!r}."
            )
        self.histories[name].set(keys, values)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "features": serialize(self.features),
            "dim": self.dim,
            "out_of_range": self.out_of_range,
            "l2": self.l2,
            "embeddings_initializer": serialize(self.embeddings_initializer),
            **state_config(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return restore(cls, config)

    def save_own_variables(self, store: Any) -> None:
        if not self.built:
            return
        named.save(store, self._weights_by_name())
        for name, lists in self.histories.items():
            if lists.is_first_in(store):  # other layers may share the lists
                named.save(store, {named.key_of("history", name): lists.parts()})

    def load_own_variables(self, store: Any) -> None:
        if not self.built:
            super().load_own_variables(store)
            return
        # Keras tries a layer that failed again, by other paths, where the file has
        # nothing, and reports the last error.
        message = None if store.keys() else self._fault.of(store)
        if message is None:
            message = self._load(store)
            self._fault.set(store, message)
        if message:
            raise ValueError(message)

    def _load(self, store: Any) -> str:
        """Assigns what a file has; returns what is wrong with the others."""
        weights = self._weights_by_name()
        lists = {}
        for name, each in self.histories.items():
            key = named.key_of("history", name)
            if named.has(store, key):
                lists[key] = each.parts()
                each.is_loaded = True
        faults = named.load(store, {**weights, **lists}, weights)
        if not faults:
            return ""
        return (
            f"Layer {self.name!r} cannot load all of its weights: {'; '.join(faults)}. "
            "`fmlayers.models.warm_start` carries known rows over to a model with "
            "another vocabulary or other features."
        )

    def _add_table(self, feature: Categorical | MultiCategorical | History) -> Any:
        initializer = self._fresh_initializer()

        def initialize(shape: tuple[int, int], dtype: str) -> Tensor:
            size, dim = shape
            if self.out_of_range != "unknown":
                return initializer(shape, dtype=dtype)
            rows = initializer((size - 1, dim), dtype=dtype)
            return ops.concatenate([rows, ops.zeros((1, dim), dtype=dtype)])

        size = feature.vocabulary_size + (self.out_of_range == "unknown")
        return self.add_weight(
            shape=(size, self.dim),
            initializer=initialize,
            autocast=False,
            name=f"{safe_name(feature.table_name)}_embeddings",
        )

    def _add_vector(self, name: str, role: str) -> Any:
        return self.add_weight(
            shape=(self.dim,),
            initializer=self._fresh_initializer(),
            autocast=False,
            name=f"{safe_name(name)}_{role}",
        )

    def _weights_by_name(self) -> dict[str, dict[str, Any]]:
        """Returns the weights by their key in a file, in the order of `build`."""
        weights = {}
        for feature in self.features:
            if isinstance(feature, Numeric):
                weights["vector", feature.name] = self.vectors[feature.name]
                if feature.use_bias:
                    weights["bias", feature.name] = self.biases[feature.name]
            else:
                table = feature.table_name
                weights.setdefault(("table", table), self.tables[table])
        return {named.key_of(*key): {"": weight} for key, weight in weights.items()}

    def _fresh_initializer(self) -> Any:
        # An unseeded initializer gives two tables of one shape the same numbers.
        initializer = self.embeddings_initializer
        return initializer.clone() if hasattr(initializer, "clone") else initializer

    def _embed(
        self, feature: Feature, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns a field's vectors and the squared norms that its L2 counts."""
        if isinstance(feature, History):
            return self._pool_history(feature, inputs)
        x = entry(inputs, feature.name)
        if isinstance(feature, Numeric):
            return self._scale(feature, flat(x))
        if isinstance(feature, Categorical):
            vectors, present = self._look_up(feature, flat(integer_ids(x)))
            if present is not None:
                vectors = ops.where(ops.expand_dims(present, -1), vectors, 0.0)
            return vectors, ops.sum(ops.square(vectors), axis=-1)
        ids, row_splits = rows_of(x)
        vectors, present = self._look_up(feature, integer_ids(ids))
        # Here, too: a NaN in a row that counts for nothing would reach the gradient.
        vectors = ops.where(ops.expand_dims(present, -1), vectors, 0.0)
        squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
        pool = self._pooling[feature.combiner]
        given = {"mask": present, "row_splits": row_splits}
        return pool(vectors, **given), pool(squares, **given)

    def _pool_history(
        self, feature: History, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        def ids(name: str) -> Tensor:
            return flat(integer_ids(entry(inputs, name)))

        own = ids(feature.values) if feature.values in inputs else None
        lists = self.histories[feature.name](ids(feature.of), own)

        penalized = self._coefficients[feature.name] > 0.0

        def with_squares(rows: Tensor) -> Tensor:
            """Adds the squared norm, which is pooled as the vector is, as a column."""
            rows = ops.cast(rows, self._accumulation_dtype)
            if not penalized:
                return rows
            squares = ops.sum(ops.square(rows), axis=-1, keepdims=True)
            return ops.concatenate([rows, squares], axis=-1)

        table = ops.convert_to_tensor(self.tables[feature.table_name])
        count, size = ops.shape(lists.lengths)[0], feature.vocabulary_size
        has_own = ops.expand_dims(lists.own > 0, -1)
        own_rows = ops.where(has_own, ops.take(table, lists.own, axis=0), 0.0)
        if feature.num_keys * size <= _DENSE:
            # A row that is not finite is to reach the lists that have it, no others.
            finite = ops.all(ops.isfinite(table[:size]), axis=-1, keepdims=True)
            rows = with_squares(ops.where(finite, table[:size], 0.0))
            broken = ops.cast(ops.logical_not(finite), rows.dtype)
            cells = lists.owners * size + lists.values
            ones = ops.ones_like(cells, dtype=rows.dtype)
            # One more than there are: Keras on PyTorch takes 0 for "not given".
            listed = ops.segment_sum(ones, cells, count * size + 1)[:-1]
            sums = ops.matmul(
                ops.reshape(listed, (count, size)),
                ops.concatenate([rows, broken], axis=-1),
            )
            sums = ops.where(sums[:, -1:] > 0.0, float("nan"), sums[:, :-1])
        else:
            rows = with_squares(ops.take(table, lists.values, axis=0))
            sums = sum_spans(rows, lists.owners, count)

        total = ops.take(sums, lists.index, axis=0) - with_squares(own_rows)
        length = ops.expand_dims(ops.take(lists.lengths, lists.index), -1)
        length = ops.cast(length, total.dtype) - ops.cast(has_own, total.dtype)
        # What is left of a sum when all of it has been taken away is rounding.
        divisor = ops.maximum(length, 1.0) ** _POWERS[feature.combiner]
        pooled = ops.where(length > 0.0, total / divisor, 0.0)
        return pooled[:, : self.dim], pooled[:, -1]

    def _look_up(
        self, feature: Categorical | MultiCategorical, ids: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        size = feature.vocabulary_size
        inside = ops.logical_and(ids >= 0, ids < size)
        present = None
        if self.out_of_range == "zero":
            present = inside
        elif self.out_of_range == "error":
            message = (
                f"Feature {feature.name!r} has an id outside 0 ... {size - 1}. Mend "
                'the ids, or choose `out_of_range="unknown"` or "zero".'
            )
            ids = raise_where(ops.logical_not(inside), ids, message)
        if isinstance(feature, MultiCategorical) or feature.mask_zero:
            given = ids != 0
            present = given if present is None else ops.logical_and(present, given)
        rows = ops.where(inside, ids, size if self.out_of_range == "unknown" else 0)
        vectors = ops.take(self.tables[feature.table_name], rows, axis=0)
        vectors = ops.cast(vectors, self._accumulation_dtype)
        if self.out_of_range == "error":
            vectors = ops.where(ops.expand_dims(inside, -1), vectors, float("nan"))
        return vectors, present

    def _scale(self, feature: Numeric, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self._accumulation_dtype
        value = ops.cast(x, dtype)
        present = ops.logical_not(ops.isnan(value))
        value = ops.expand_dims(ops.where(present, value, 0.0), -1)
        vector = ops.cast(self.vectors[feature.name], dtype)
        field = value * vector  # (batch, dim)
        norm = ops.sum(ops.square(vector))
        if feature.use_bias:
            bias = ops.cast(self.biases[feature.name], dtype)
            field = field + bias
            norm = norm + ops.sum(ops.square(bias))
        field = ops.where(ops.expand_dims(present, -1), field, 0.0)
        return field, ops.where(present, norm, 0.0)


def _check_features(features: list[Feature]) -> None:
    if not features:
        raise ValueError("`features` must not be empty. Received: features=[].")
    sizes: dict[str, int] = {}
    names: set[str] = set()
    for feature in features:
        if not isinstance(feature, Feature):
            raise ValueError(
                "`features` must hold `Categorical`, `MultiCategorical`, `Numeric` "
                f"and `History` descriptions. Received: {feature!r}."
            )
        if feature.name in names:
            raise ValueError(
                f"`features` must have distinct names. Received: {feature.name!r} "
                "twice."
            )
        names.add(feature.name)
        if isinstance(feature, Numeric):
            continue
        size = sizes.setdefault(feature.table_name, feature.vocabulary_size)
        if size != feature.vocabulary_size:
            raise ValueError(
                "Features that share a table must agree on `vocabulary_size`. "
                f"Received: {feature.vocabulary_size} for feature {feature.name!r}, "
                f"where table {feature.table_name!r} has {size}."
            )


def _plain_l2(
    features: list[Feature], l2: float | Mapping[str, float]
) -> float | dict[str, float]:
    if not isinstance(l2, Mapping):
        return coefficient("l2", l2)
    names = [feature.name for feature in features]
    unknown = sorted(set(l2) - set(names))
    if unknown:
        raise ValueError(f"`l2` must name features among {names}. Received: {unknown}.")
    return {
        name: coefficient("l2", value, of=f" for feature {name!r}")
        for name, value in l2.items()
    }
