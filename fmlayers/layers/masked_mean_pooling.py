from typing import Any, get_args

import keras
from keras import ops

from fmlayers._backend import (
    accumulation_dtype,
    is_ragged,
    row_of_each,
    sum_by_owner,
)
from fmlayers._checks import choice, integer
from fmlayers._row_splits import check_row_splits
from fmlayers._types import Combiner, Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class MaskedMeanPooling(keras.layers.Layer):
    """Pools the vectors of a field into one vector, zeros if there are none.

    For vectors x_l with weights w_l (1 without `weights`, 0 where masked):

        sum:    sum_l w_l x_l
        mean:   sum_l w_l x_l / sum_l w_l
        sqrtn:  sum_l w_l x_l / sqrt(sum_l w_l^2)

    Where the denominator is 0 (an empty row), the result and its gradient are zeros.
    Vectors that are masked or have the weight 0 are ignored: a NaN or an infinity in
    them reaches neither the result nor a gradient.

    Weights may be negative. If the weights of a mean cancel, the denominator is 0 and
    the result is zeros. A NaN weight makes the result of its row NaN.

    The cost of padded rows grows with the longest row. With `row_splits` or a ragged
    tensor, it grows with the number of vectors.

    Args:
        axis: Integer, the axis to pool, not the batch axis 0. Negative axes count from
            the last. Defaults to 1.
        combiner: `"mean"`, `"sum"` or `"sqrtn"`. Defaults to `"mean"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Vectors; on TensorFlow also a `tf.RaggedTensor`
            `(batch, None, dim)` with `axis=1`, which needs no mask.
        mask: Optional Boolean tensor of shape `inputs.shape[:axis + 1]`, `True` where
            there is a value. A Keras mask is used automatically.
        weights: Optional tensor of the same shape as the mask (ragged if the inputs
            are). Vectors with the weight 0 are ignored.
        row_splits: Optional integers `(batch + 1,)`, ascending from 0, only with
            `axis=1`. The inputs are then the vectors of all examples, one after
            another: those of example i start at `row_splits[i]` and end before
            `row_splits[i + 1]`. The shape of mask and weights is then `(values,)`.
            Eager calls check the row splits. Compiled code cannot: there, the first one
            counts as 0 and the last one as the number of values; the others are clamped
            to that range and sorted.

    Input shape:
        `(batch, length, dim)`, or any shape of rank 2 or more that has `axis`. With
        `row_splits`, `(values, dim)`.

    Output shape:
        The input shape without `axis`, in the compute dtype; with `row_splits`,
        `(batch, dim)`. The sums are accumulated in float32. The layer emits no mask.

    Raises:
        ValueError: If `combiner` is unknown, `axis` is the batch axis or not an axis of
            the inputs, the mask or the weights have the wrong rank, the weights are
            not ragged although the inputs are, or `row_splits` are invalid or are used
            with an `axis` other than 1.

    Example:

    >>> pooling = fmlayers.MaskedMeanPooling()
    >>> x = np.array([[[1.0], [3.0]], [[5.0], [7.0]]])
    >>> pooled = pooling(x, mask=np.array([[True, True], [False, False]]))
    >>> keras.ops.convert_to_numpy(pooled)
    array([[2.],
           [0.]], dtype=float32)

    References:
        - The combiners are those of `tf.nn.safe_embedding_lookup_sparse`.
        - Koren, Y. (2008). Factorization Meets the Neighborhood: a Multifaceted
          Collaborative Filtering Model. KDD, equation 15 (sqrtn for rating histories).
    """

    def __init__(
        self, axis: int = 1, combiner: Combiner = "mean", **kwargs: Any
    ) -> None:
        rule = "an integer and not the batch axis 0"
        axis = integer("axis", axis, rule, least=None)
        if axis == 0:
            raise ValueError(f"`axis` must be {rule}. Received: axis=0.")
        combiner = choice("combiner", combiner, get_args(Combiner))
        super().__init__(**kwargs)
        self.axis = axis
        self.combiner = combiner
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        row_splits: Tensor | None = None,
    ) -> Tensor:
        if is_ragged(inputs):
            if weights is not None:
                if not is_ragged(weights):
                    raise ValueError(
                        "`weights` must be ragged if the inputs are. "
                        f"Received: shape {tuple(weights.shape)}."
                    )
                weights = weights.values
            mask, row_splits = None, inputs.row_splits
            inputs = inputs.values
        if row_splits is not None:
            check_row_splits("the inputs", row_splits, inputs.shape[0])
        rank = len(inputs.shape)
        axis = self._axis(rank, row_splits is not None)
        dtype = accumulation_dtype(self.compute_dtype)
        x = ops.cast(inputs, dtype)

        w = ops.ones_like(x[(..., *[slice(0, 1)] * (rank - axis - 1))])
        if weights is not None:
            w = w * _align("weights", ops.cast(weights, dtype), rank, axis)
            # 0 times infinity is NaN. The gradient of the weights needs finite vectors.
            is_used = ops.logical_or(w != 0.0, ops.isfinite(x))
            x = ops.where(is_used, x, 0.0)
        if mask is not None:
            present = _align("mask", ops.cast(mask, "bool"), rank, axis)
            x = ops.where(present, x, 0.0)
            w = ops.where(present, w, 0.0)

        if row_splits is None:

            def pool(values: Tensor) -> Tensor:
                return ops.sum(values, axis=axis)
        else:
            rows = row_of_each(row_splits, ops.shape(inputs)[0])
            count = ops.shape(row_splits)[0] - 1

            def pool(values: Tensor) -> Tensor:
                return sum_by_owner(values, rows, count)

        total = pool(x * w)
        if self.combiner == "mean":
            total = _divide_or_zero(total, pool(w))
        elif self.combiner == "sqrtn":
            squares = pool(ops.square(w))
            # The slope of the root at 0 is infinite.
            root = ops.sqrt(ops.where(squares == 0.0, 1.0, squares))
            total = _divide_or_zero(total, ops.where(squares == 0.0, 0.0, root))
        return ops.cast(total, self.compute_dtype)

    def compute_output_shape(
        self, input_shape: Any, row_splits_shape: Any = None
    ) -> tuple[int | None, ...]:
        if row_splits_shape is not None:
            count = row_splits_shape[0]
            return (None if count is None else count - 1, *input_shape[1:])
        axis = self._axis_within(len(input_shape))
        return (*input_shape[:axis], *input_shape[axis + 1 :])

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        row_splits: Tensor | None = None,
    ) -> Any:
        axis = self._axis(len(inputs.shape), row_splits is not None)
        for name, x in (("mask", mask), ("weights", weights)):
            if x is not None and not is_ragged(x):
                _check_rank(name, x, axis)
        splits = None
        if row_splits is not None:
            check_row_splits("the inputs", row_splits, inputs.shape[0])
            splits = row_splits.shape
        shape = self.compute_output_shape(inputs.shape, splits)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "combiner": self.combiner,
        }

    def _axis_within(self, rank: int) -> int:
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 1 <= axis < rank:
            raise ValueError(
                f"`axis` must be within 1 ... {rank - 1} for inputs of rank {rank}. "
                f"Received: axis={self.axis}."
            )
        return axis

    def _axis(self, rank: int, is_ragged: bool) -> int:
        """Returns the axis to pool; for ragged rows, the axis of all values."""
        axis = self._axis_within(rank + is_ragged)
        if is_ragged and axis != 1:
            raise ValueError(
                f"`axis` must be 1 for ragged rows. Received: axis={self.axis}."
            )
        return axis - is_ragged


def _align(argument: str, x: Tensor, rank: int, axis: int) -> Tensor:
    _check_rank(argument, x, axis)
    for _ in range(rank - axis - 1):
        x = ops.expand_dims(x, -1)
    return x


def _check_rank(argument: str, x: Tensor, axis: int) -> None:
    if len(x.shape) != axis + 1:
        raise ValueError(
            f"`{argument}` must have the shape of the inputs up to `axis`, of rank "
            f"{axis + 1}. Received: shape {tuple(x.shape)}."
        )


def _divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    # The inner `where` keeps the gradient of the division finite where the outer one
    # multiplies it by 0: 0 times infinity is NaN.
    is_empty = denominator == 0.0
    quotient = numerator / ops.where(is_empty, 1.0, denominator)
    return ops.where(is_empty, 0.0, quotient)
