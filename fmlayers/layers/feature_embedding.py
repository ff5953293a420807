from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

import keras
import numpy.typing as npt
from keras import ops

from fmlayers._checks import choice, coefficient, integer
from fmlayers._histories.sums import with_history_sums
from fmlayers._inputs import ChecksInputs, batch_size, check, shape_of
from fmlayers._saved_state import freeze, restore, state_config
from fmlayers._training.mode import is_training
from fmlayers._types import OutOfRange, Tensor
from fmlayers.features import Feature, History
from fmlayers.layers._by_name import initializers_of, key_of, trainable_of
from fmlayers.layers._fields import FIELDS, field_of
from fmlayers.layers._fields.history import HistoryField
from fmlayers.layers._fields.together import embed
from fmlayers.layers._fields.weights import Weight, add_weights
from fmlayers.layers._history_lists import HistoryLists
from fmlayers.layers._pretrained import Pretrained
from fmlayers.layers._saved_by_name import SavedByName


@keras.saving.register_keras_serializable(package="fmlayers")
class FeatureEmbedding(ChecksInputs, SavedByName):
    """Embeds a dict of features: one vector per field, in the order of the list.

        Categorical:       v_id
        MultiCategorical:  v_id1, v_id2, ... pooled by the feature's combiner
        Numeric:           value * v (+ b with `use_bias`)
        Vector:            x @ V (+ b with `use_bias`), with V of shape (size, dim)
        History:           as MultiCategorical, with ids stored in the layer

    The vector of a missing value (NaN, no ids, the id 0 under `mask_zero`) is zero: it
    adds nothing to any pair and has no gradient. With `dim=1` the layer computes the
    first-order term of a factorization machine.

    Ids outside 0 ... `vocabulary_size` - 1, including negative ids, follow
    `out_of_range` on every backend, eager and compiled:

    - `"unknown"`: They use one additional row, which starts at zeros and is trained on
      such ids.
    - `"zero"`: They count as missing.
    - `"error"`: They raise `ValueError`, or in compiled code an error of the runtime,
      with the feature and the id. TensorFlow's XLA programs cannot raise: there, the
      layer turns off `jit_compile="auto"`, and with `jit_compile=True` the vector of
      such an id is NaN. The same applies to distributed training.

    Each feature has a separate table unless features share one by name. The tables are
    rows of one variable, so that a batch needs one lookup, and an optimizer one search
    for duplicate ids; the vectors of numbers are rows of another. A table of a
    `History` is a variable by itself. `tables`, `vectors` and `biases` are dicts from a
    name to the weight: a `keras.Variable`, or a view of its rows with the same `name`,
    `path`, `shape`, `dtype`, `value`, `numpy()`, `assign()` and `trainable`. Files have
    each weight by its name.

    Args:
        features: List of `Categorical`, `MultiCategorical`, `Numeric`, `Vector` and
            `History`, with distinct names.
        dim: Positive integer, the embedding dimension.
        out_of_range: `"unknown"`, `"zero"` or `"error"`. Defaults to `"unknown"`.
        l2: Float, or a dict from feature name to float (0 for missing names). Adds one
            loss per feature with a positive coefficient, in the order of the features:
            l2 * the mean over the batch of the squared norm of the rows that an example
            looks up. The cost grows with the batch, not with the table, and a row is
            regularized each time it is used. The combiner of a multi-valued feature
            applies to the squared norms of its rows, too. Calls with
            `training=False`, such as those of `evaluate` and `predict`, add no loss.
            Defaults to 0.
        embeddings_initializer: Initializer of tables and vectors, or a dict from the
            name of a feature or a table to an initializer or to pretrained vectors: an
            array of shape `(rows, dim)`, with one row per id of a table. For a
            `Numeric` or a `Vector`, the rows are those of the vector or matrix, and
            one for the bias, if there is one. The row of unknown ids still
            starts at zeros. Defaults to `RandomNormal(stddev=0.01)`, also for missing
            names. Configs do not contain arrays: a layer that is constructed from a
            config has NaN in their place until its weights are loaded.
        trainable: Boolean, or a dict from the name of a feature or a table to a
            Boolean (`True` for missing names). A table that is `False`, including its
            row of unknown ids, is never updated. Defaults to `True`. To freeze a weight
            later, set `layer.tables[name].trainable = False` and compile the model
            again. Its rows then have no gradient, but an optimizer of Keras may still
            move them by weight decay or by the momentum of earlier steps; those of
            `fmlayers.optimizers` do not.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Dict from feature name to tensor. Other entries are ignored. Ids must
            be integers: float32 is not exact above 2^24. JAX without x64 truncates
            64-bit integers before they reach any layer: use 32-bit ids there.
        training: Optional Boolean, whether to add the L2 to the losses. Defaults to
            the value of the calling model, and outside of a model to `True`.

    Input shape:
        A dict of tensors with the same batch size. For a single value, `(batch,)` or
        `(batch, 1)`. For several values, one of:

        - `(batch, length)`, padded with 0. The cost grows with the longest row.
        - A pair of the ids of all rows `(values,)` and their row splits
          `(batch + 1,)`, a `tf.RaggedTensor` or a `tf.SparseTensor`. The cost grows
          with the number of ids. The id 0 is ignored here, too. XLA compiles again for
          every number of ids: pad the last row with zeros to keep it constant. Row
          splits ascend from 0 to the number of ids. Eager calls check them; compiled
          code clamps them as `MaskedMeanPooling` does. The entries of a sparse tensor
          must be sorted by row.

        Successive calls may use different forms, such as first `(batch,)` and then
        `(batch, 1)`, also in `fit`, `evaluate` and `predict`.

    Output shape:
        `(batch, fields, dim)`, in the compute dtype.

    Raises:
        ValueError: If an argument is invalid, features disagree on a shared table, a
            required entry is missing, ids are not integers, an entry has the wrong
            rank, row splits are invalid, or entries differ in batch size.

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
        Rendle, S. (2010). Factorization Machines. ICDM, equation 1. A field is a block
        of the input vector x; a multi-valued field is a block with several nonzero
        entries.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        dim: int,
        *,
        out_of_range: OutOfRange = "unknown",
        l2: float | Mapping[str, float] = 0.0,
        embeddings_initializer: Any = None,
        trainable: bool | Mapping[str, bool] = True,
        **kwargs: Any,
    ) -> None:
        features = list(features)
        _check_features(features)
        dim = integer("dim", dim)
        out_of_range = choice("out_of_range", out_of_range, get_args(OutOfRange))
        l2 = _plain_l2(features, l2)
        initializer, initializers = initializers_of(
            features, dim, embeddings_initializer
        )
        trainable, trainable_keys = trainable_of(features, trainable)
        # With autocast, Keras would round numbers to the compute dtype before they are
        # multiplied, and cast whole tables at every step. The weights disable it, too.
        # Only the vectors of the batch are cast, at the end.
        kwargs.setdefault("autocast", False)
        super().__init__(trainable=trainable is not False, **kwargs)
        self.features = features
        self.dim = dim
        self.out_of_range = out_of_range
        self.l2 = l2
        self.embeddings_initializer = initializer
        self._initializers = initializers
        self._trainable_by_name = trainable if isinstance(trainable, dict) else None
        self._trainable_by_key = trainable_keys
        self.histories: dict[str, HistoryLists] = {}
        self._frozen: list[str] | None = None
        coefficients = l2 if isinstance(l2, dict) else {f.name: l2 for f in features}
        self._fields = tuple(
            field_of(feature, self, coefficients.get(feature.name, 0.0))
            for feature in features
        )
        if out_of_range == "error" and keras.backend.backend() == "tensorflow":
            self.supports_jit = False

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.tables: dict[str, Any] = {}
        self.vectors: dict[str, Any] = {}
        self.biases: dict[str, Any] = {}
        declared: dict[tuple[str, str], Weight] = {}
        for field in self._fields:
            declared |= field.declare(declared)
        roles = {"table": self.tables, "vector": self.vectors, "bias": self.biases}
        weights = add_weights(self, list(declared.values()))
        for (role, name), weight in zip(declared, weights, strict=True):
            roles[role][name] = weight
        for field in self._fields:
            field.build()
        for field in self._fields:
            for _, weight in field.weights():
                if not self.is_trainable(field.feature):
                    weight.trainable = False
        self.built = True
        freeze(self, self._frozen)

    @property
    def trainable(self) -> bool:
        """Boolean. Setting it freezes or unfreezes all weights."""
        return bool(super().trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        for weight in self.named_weights().values() if self.built else ():
            weight.trainable = value

    @property
    def history_fields(self) -> list[HistoryField]:
        """The fields of the histories."""
        return [field for field in self._fields if isinstance(field, HistoryField)]

    @property
    def pooling_key(self) -> str:
        """The name of the layer among those whose histories are summed together."""
        return str(id(self))

    def call(
        self, inputs: Mapping[str, Tensor], training: bool | None = None
    ) -> Tensor:
        inputs = with_history_sums(self.history_fields, inputs)
        with_norms = is_training(training) is not False
        vectors, norms = embed(self._fields, inputs, with_norms=with_norms)
        losses = []
        for field, norm in zip(self._fields, norms, strict=True):
            if field.l2 and norm is not None:
                losses.append(field.l2 * norm)
                self.add_loss(losses[-1])
        # On JAX, Keras finds the losses of a layer by `id`. It forgets those of the
        # last call only in the next, after another layer may have added a loss that
        # has the `id` of a dead one. So these must live until then.
        self._losses_of_last_call = losses
        return ops.cast(vectors, self.compute_dtype)

    def fields(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """Returns the vectors of some of the fields, without adding their L2.

        Args:
            inputs: Dict with the entries of the named features.
            names: List of feature names, in any order.

        Returns:
            `(batch, len(names), dim)`, in the order of `names`.
        """
        by_name = {field.feature.name: field for field in self._fields}
        absent = [name for name in names if name not in by_name]
        if absent or not names:
            raise ValueError(
                f"`names` must name some of {list(by_name)}. Received: {list(names)}."
            )
        if not self.built:
            self.build()
        chosen = [by_name[name] for name in names]
        check([field.feature for field in chosen], inputs)
        inputs = with_history_sums(
            [field for field in chosen if isinstance(field, HistoryField)], inputs
        )
        vectors, _ = embed(chosen, inputs, with_norms=False)
        return ops.cast(vectors, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (batch_size(self.features, input_shape), len(self.features), self.dim)

    def compute_output_spec(
        self, inputs: Mapping[str, Any], training: bool | None = None
    ) -> Any:
        shapes = {name: shape_of(x) for name, x in inputs.items()}
        return keras.KerasTensor(
            self.compute_output_shape(shapes), dtype=self.compute_dtype
        )

    def l2_of(self, name: str) -> float:
        """Returns the L2 coefficient of a feature."""
        return next(field.l2 for field in self._fields if field.feature.name == name)

    def initializer_of(self, feature: Feature) -> Any:
        """Returns the initializer of a feature's weights."""
        return self._initializers[key_of(feature)]

    def is_trainable(self, feature: Feature) -> bool:
        """Returns whether the constructor's `trainable` trains a feature's weights."""
        return self._trainable_by_key.get(key_of(feature), True)

    @property
    def history_tables(self) -> set[str]:
        """The names of the tables that a `History` reads."""
        histories = (f for f in self.features if isinstance(f, History))
        return {history.table_name for history in histories}

    def keeps_pretrained(self, weight: Any) -> bool:
        """Returns whether a weight is frozen and starts from an array."""
        return not weight.trainable and any(
            isinstance(self.initializer_of(field.feature), Pretrained)
            for field in self._fields
            for _, each in field.weights()
            if each is weight
        )

    def set_history(
        self,
        name: str,
        keys: npt.ArrayLike,
        values: npt.ArrayLike,
        *,
        leaves_room: bool = False,
    ) -> None:
        """Sets the histories of a `History`, as distinct pairs of a key and a value.

        Take the pairs from the training rows only.

        Args:
            name: Name of the feature.
            keys: Integers `(num_pairs,)`, in any order.
            values: Integers `(num_pairs,)`, the value of each key.
            leaves_room: Whether there may be fewer pairs than `num_pairs`. Defaults to
                `False`.
        """
        if not self.built:
            self.build()
        if name not in self.histories:
            raise ValueError(
                f"`name` must be the name of a `History`: {list(self.histories)}. "
                f"Received: name={name!r}."
            )
        self.histories[name].set(keys, values, leaves_room=leaves_room)

    def rescale(self, scale: float) -> None:
        """Multiplies all vectors by a number.

        Args:
            scale: Float.
        """
        for weight in self.named_weights().values():
            weight.assign(ops.convert_to_tensor(weight) * scale)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        config = {
            **super().get_config(),
            "features": serialize(self.features),
            "dim": self.dim,
            "out_of_range": self.out_of_range,
            "l2": self.l2,
            "embeddings_initializer": serialize(self.embeddings_initializer),
            **state_config(self),
        }
        if self.trainable and self._trainable_by_name is not None:
            config["trainable"] = self._trainable_by_name
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return restore(cls, config)

    def named_weights(self) -> dict[tuple[str, str], Any]:
        """Returns the weights by role and name, without those of histories.

        The roles are `"table"`, `"vector"` and `"bias"`. The name is that of the table
        or the feature.
        """
        return dict(pair for field in self._fields for pair in field.weights())


def _check_features(features: list[Feature]) -> None:
    if not features:
        raise ValueError("`features` must not be empty. Received: features=[].")
    sizes: dict[str, int] = {}
    names: set[str] = set()
    for feature in features:
        if not isinstance(feature, tuple(FIELDS)):
            raise ValueError(
                f"`features` must be a list of {_kinds()}. Received: {feature!r}."
            )
        if feature.name in names:
            raise ValueError(
                f"`features` must have distinct names. Received: {feature.name!r} "
                "twice."
            )
        names.add(feature.name)
        table, size = feature.table_name, feature.num_rows
        if table is not None and sizes.setdefault(table, size) != size:
            raise ValueError(
                "Features that share a table must have the same `vocabulary_size`. "
                f"Received: {size} for feature {feature.name!r}, but table {table!r} "
                f"has {sizes[table]} rows."
            )


def _kinds() -> str:
    *kinds, last = (f"`{kind.__name__}`" for kind in FIELDS)
    return f"{', '.join(kinds)} or {last}"


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
