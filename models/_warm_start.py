from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._saved_state import sublayers
from fmlayers.layers import FeatureEmbedding
from fmlayers.models._fieldwise import Fieldwise
from fmlayers.scoring_model import ScoringModel

if TYPE_CHECKING:
    import pandas as pd

    from fmlayers.data import Encoder

Array = npt.NDArray[Any]


def warm_start(
    model: keras.Model,
    trained: keras.Model,
    *,
    encoder: "Encoder | None" = None,
    trained_encoder: "Encoder | None" = None,
) -> "pd.DataFrame":
    """Initializes a model with the weights of a trained model.

    Use it to retrain on new data: an encoder fitted on new rows has more values in
    another order, and features may have been added or removed. It changes the weights
    of `model`, which is built for the new encoder; `trained` stays the same. It copies:

    - from each table, the rows of the values that both encoders have, the row of the
      id 0 and the row of unknown ids. The rows of new values keep their initial values.
    - from each table of quantiles, for each bin the row of the bin that contains its
      middle.
    - from each `Numeric`, the vector, scaled to the standard deviation of the new
      encoder. The field is then the same function of the raw value, up to a constant
      vector due to the difference of the means. With `use_bias=True` the bias absorbs
      this constant, and the function is exactly the same.
    - from each `Vector` of the same size, the matrix, scaled likewise.
    - from a hidden layer or a normalization over the fields, the weights of the fields
      that both models have.
    - all other weights of the same shape, such as the bias b and hidden layers.

    It does not copy into a table that is frozen and starts from an array, since the
    pretrained vectors of `model` may be newer than those of `trained`.

    Weights are matched by their attribute paths and by the names of features and
    tables, so a `DeepFM` can start from a `FactorizationMachine`. The histories of a
    `History` are not copied; set them with `set_history`. Without encoders, equal ids
    are assumed to mean equal values. With encoders, the rows of a
    `keras.layers.Embedding` are not copied, since it does not name a column. Optimizers
    and scalers are not copied either: use the same bounds, so that a score maps to the
    same rating.

    Args:
        model: The model to initialize, built.
        trained: The trained model, built.
        encoder: Optional fitted `fmlayers.data.Encoder` of `model`. Defaults to
            `model.encoder`.
        trained_encoder: Optional fitted `fmlayers.data.Encoder` of `trained`. Defaults
            to `trained.encoder`.

    Returns:
        A `pandas.DataFrame` with one row per weight: its path `weight`, and the numbers
        of its rows that are `kept`, `new` and `dropped`. A weight that is neither a
        table nor has a block per field counts as one row.

    Raises:
        ValueError: If a model is not built or is quantized, both are the same model,
            only one of them has an encoder, or no weight can be copied.

    Example:

    >>> columns = {"user": "categorical", "item": "categorical"}
    >>> def make(table):
    ...     encoder = fmlayers.data.Encoder(columns).fit(table)
    ...     return fmlayers.models.MatrixFactorization(
    ...         *encoder.features, dim=8, encoder=encoder
    ...     )
    >>> old = make(pd.DataFrame({"user": ["ann", "bob"], "item": ["x", "y"]}))
    >>> new = make(pd.DataFrame({"user": ["cleo", "bob", "ann"], "item": ["y"] * 3}))
    >>> print(fmlayers.models.warm_start(new, old).to_string(index=False))
                 weight  kept  new  dropped
                   bias     1    0        0
     factors/table item     3    0        1
     factors/table user     4    1        0
      linear/table item     3    0        1
      linear/table user     4    1        0
    """
    import pandas as pd

    if model is trained:
        raise ValueError(
            "`model` and `trained` must be two models. "
            f"Received: the same model twice, {model!r}."
        )
    new, old = ({"": m, **sublayers(m)} for m in (model, trained))
    for argument, layers in (("model", new), ("trained", old)):
        if not layers[""].built:
            raise ValueError(
                f"`{argument}` must be built: call it on a batch first. "
                f"Received: {argument}={layers['']!r}."
            )
        if any(layer.quantization_mode for layer in layers.values()):
            raise ValueError(
                f"`{argument}` must not be quantized: quantize a model after its "
                f"training. Received: {argument}={layers['']!r}."
            )
    vocabularies = _Vocabularies(
        encoder or _encoder_of(model), trained_encoder or _encoder_of(trained)
    )
    copied = [
        _CopiedWeight(f"{path}/{name}" if path else name, *counts)
        for path in sorted({*new, *old})
        for name, counts in _copy(new.get(path), old.get(path), vocabularies)
    ]
    if not any(row.kept for row in copied):
        raise ValueError(
            "`model` and `trained` must have weights of the same names and shapes. "
            f"Received: model={model!r}, trained={trained!r}."
        )
    return pd.DataFrame([vars(row) for row in copied])


@dataclass
class _CopiedWeight:
    weight: str
    kept: int
    new: int
    dropped: int


Counts = tuple[int, int, int]


class _Vocabularies:
    """The vocabularies and scales of two encoders for the same columns."""

    def __init__(self, new: "Encoder | None", old: "Encoder | None") -> None:
        if (new is None) != (old is None):
            raise ValueError(
                "`encoder` and `trained_encoder` must both be set, or neither: without "
                "an encoder, the value of an id is unknown. "
                f"Received: encoder={new!r}, trained_encoder={old!r}."
            )
        self.new, self.old = new, old

    def ids(self, new: Any, old: Any, table: str) -> tuple[Array, Array]:
        """Returns the ids, in each layer, of the values that both vocabularies have."""
        sizes = [_size(layer, table) for layer in (new, old)]
        if self.new is None or self.old is None:
            same = np.arange(min(sizes))
            return same, same
        columns = [
            _column(layer, table, encoder)
            for layer, encoder in ((new, self.new), (old, self.old))
        ]
        if columns[0] is None or columns[1] is None:
            same = np.arange(min(sizes) if columns == [None, None] else 0)
            return same, same
        encoders = (self.new.column(columns[0]), self.old.column(columns[1]))
        ids, old_ids = encoders[0].same_ids(encoders[1])
        known = (ids < sizes[0]) & (old_ids < sizes[1])
        # The id 0 is the missing value in both.
        return np.append(0, ids[known]), np.append(0, old_ids[known])

    def change(self, column: str) -> tuple[float, float] | None:
        """Returns a and c such that old = a * new + c for every raw number.

        There are none if the kinds of the columns differ.
        """
        scales, kinds = [], set()
        for encoder in (self.new, self.old):
            scale = None
            if encoder is not None and column in encoder.columns:
                kinds.add(encoder.columns[column])
                scale = encoder.column(column).scale
            scales.append(scale or (0.0, 1.0))
        if len(kinds) > 1:
            return None
        (mean, deviation), (old_mean, old_deviation) = scales
        return deviation / old_deviation, (mean - old_mean) / old_deviation


def _copy(
    new: keras.layers.Layer | None,
    old: keras.layers.Layer | None,
    vocabularies: _Vocabularies,
) -> Iterator[tuple[str, Counts]]:
    """Copies the weights of a layer; yields their names and counts."""
    if isinstance(new, FeatureEmbedding) and isinstance(old, FeatureEmbedding):
        yield from _copy_tables(new, old, vocabularies)
        yield from _copy_vectors(new, old, vocabularies)
        return
    if isinstance(new, Fieldwise) and isinstance(old, Fieldwise):
        fieldwise = new.fieldwise
    else:
        fieldwise = ()
    # The rows of an `Embedding` belong to the ids of an unknown column.
    is_table_of_ids = isinstance(new, keras.layers.Embedding) and vocabularies.new
    weights, old_weights = _weights(new), _weights(old)
    for name in dict.fromkeys([*weights, *old_weights]):
        target, source = weights.get(name), old_weights.get(name)
        if target is None or source is None:
            yield name, (0, int(target is not None), int(source is not None))
        elif list(weights).index(name) in fieldwise:
            yield name, _copy_fields(target, source, new, old)
        elif target.shape == source.shape and not is_table_of_ids:
            target.assign(source)
            yield name, (1, 0, 0)
        else:
            yield name, (0, 1, 1)


def _copy_tables(
    new: FeatureEmbedding, old: FeatureEmbedding, vocabularies: _Vocabularies
) -> Iterator[tuple[str, Counts]]:
    for name in sorted({*new.tables, *old.tables}):
        target, source = new.tables.get(name), old.tables.get(name)
        rows, old_rows = (0 if t is None else t.shape[0] for t in (target, source))
        kept = 0
        if (
            target is not None
            and source is not None
            and new.dim == old.dim
            and not new.keeps_pretrained(target)
        ):
            ids, old_ids = vocabularies.ids(new, old, name)
            if new.out_of_range == old.out_of_range == "unknown":
                ids = np.append(ids, rows - 1)
                old_ids = np.append(old_ids, old_rows - 1)
            values = _numpy(target)
            values[ids] = _numpy(source)[old_ids]
            target.assign(values)
            kept = len(ids)
        yield f"table {name}", (kept, rows - kept, old_rows - kept)


def _copy_vectors(
    new: FeatureEmbedding, old: FeatureEmbedding, vocabularies: _Vocabularies
) -> Iterator[tuple[str, Counts]]:
    for name in sorted({*new.vectors, *old.vectors}):
        here, there = name in new.vectors, name in old.vectors
        change = vocabularies.change(name)
        kept = (
            here
            and there
            and change is not None
            and new.vectors[name].shape == old.vectors[name].shape
            and not new.keeps_pretrained(new.vectors[name])
        )
        if kept and change is not None:
            factor, constant = change
            vector = _numpy(old.vectors[name])
            new.vectors[name].assign(factor * vector)
            if name in new.biases:
                # The encoder does not center the inputs of a `Vector`, a matrix here.
                bias = constant * vector if vector.ndim == 1 else np.zeros(new.dim)
                if name in old.biases:
                    bias += _numpy(old.biases[name])
                new.biases[name].assign(bias)
        counts = (int(kept), int(here and not kept), int(there and not kept))
        yield f"vector {name}", counts
        if name in new.biases or name in old.biases:
            here, there = name in new.biases, name in old.biases
            kept = kept and here
            yield (
                f"bias {name}",
                (int(kept), int(here and not kept), int(there and not kept)),
            )


def _copy_fields(target: Any, source: Any, new: Any, old: Any) -> Counts:
    """Copies the weights of the fields that both layers have, one block per field."""
    blocks = np.split(_numpy(target), len(new.fields))
    old_blocks = dict(
        zip(old.fields, np.split(_numpy(source), len(old.fields)), strict=True)
    )
    kept = 0
    for i, name in enumerate(new.fields):
        block = old_blocks.get(name)
        if block is not None and block.shape == blocks[i].shape:
            blocks[i] = block
            kept += 1
    target.assign(np.concatenate(blocks))
    return kept, len(new.fields) - kept, len(old.fields) - kept


def _weights(layer: keras.layers.Layer | None) -> dict[str, Any]:
    """Returns the weights of a layer, without those of inner layers and histories."""
    if layer is None:
        return {}
    if isinstance(layer, FeatureEmbedding):
        named = layer.named_weights()
        return {f"{role} {name}": weight for (role, name), weight in named.items()}
    inside = {id(w) for part in sublayers(layer).values() for w in part.weights}
    return {
        weight.name: weight
        for weight in layer.weights
        if id(weight) not in inside and "float" in weight.dtype
    }


def _encoder_of(model: keras.Model) -> "Encoder | None":
    """Returns the encoder of a model or of a model in it."""
    parts = (model, *sublayers(model).values())
    encoders = (part.encoder for part in parts if isinstance(part, ScoringModel))
    return next(filter(None, encoders), None)


def _size(layer: FeatureEmbedding, table: str) -> int:
    return int(_readers(layer, table)[0].vocabulary_size)


def _column(layer: FeatureEmbedding, table: str, encoder: "Encoder") -> str | None:
    """Returns the encoder's column whose values are in a table, if there is one."""
    for feature in _readers(layer, table):
        column: str = feature.ids_entry
        if column in encoder.columns and encoder.column(column).scale is None:
            return column
    return None


def _readers(layer: FeatureEmbedding, table: str) -> Sequence[Any]:
    return [feature for feature in layer.features if feature.table_name == table]


def _numpy(x: Any) -> Array:
    return np.array(ops.convert_to_numpy(x))
