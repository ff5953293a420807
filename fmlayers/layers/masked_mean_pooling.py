from typing import Any, get_args

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype, is_ragged, row_of_each
from fmlayers._checks import choice, integer
from fmlayers._types import Combiner, Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class MaskedMeanPooling(keras.layers.Layer):
    """Pools the values of a field into one vector; no value gives zeros.

    For vectors x_l with weights w_l (1 where none are given, 0 where masked):

        sum:    sum_l w_l x_l
        mean:   sum_l w_l x_l / sum_l w_l
        sqrtn:  sum_l w_l x_l / sqrt(sum_l w_l^2)

    Where the denominator is 0 (an empty row) the result is zeros and so is its
    gradient. What is masked or has the weight 0 is left out: a NaN or an infinity in
    it reaches neither the result nor a gradient.

    Weights may be negative. Where those of a mean cancel, its denominator is 0, hence
    the result zeros. A weight of NaN makes its own row NaN.

    Padded rows cost what the longest of them costs. Given `row_splits`, or a ragged
    tensor, the cost is that of the values there are.

    Args:
        axis: The axis to pool, at least 1. Defaults to 1.
        combiner: `"mean"`, `"sum"` or `"sqrtn"`. Defaults to `"mean"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Vectors; on TensorFlow also a `tf.RaggedTensor`
            `(batch, None, dim)` with `axis=1`, which needs no mask.
        mask: Optional Boolean tensor, `True` where there is a value, of shape
            `inputs.shape[:axis + 1]`. A Keras mask is taken up by itself.
        weights: Optional tensor of the mask's shape (ragged where the inputs
            are). A weight of 0 leaves a value out.
        row_splits: Optional integers `(batch + 1,)`, ascending from 0, with
            `axis=1`. The inputs are then the values of all examples, one after the
            other, those of example i from `row_splits[i]` to `row_splits[i + 1]`;
            mask and weights are `(values,)`.

    Input shape:
        `(batch, length, dim)`, or any rank from 2 with `axis` in it; with
        `row_splits` the same without `length`, the values as first axis.

    Output shape:
        The input shape without `axis`, in the compute dtype; the sums are
        accumulated in float32. No mask is handed on.

    Raises:
        ValueError: If `combiner` is unknown, `axis` is the batch axis or outside
            the inputs, a mask or weights have another rank than they should,
            weights are not ragged where the inputs are, or
            `row_splits` come with another `axis` than 1.

    Example:

    >>> pooling = fmlayers.MaskedMeanPooling()
    >>> x = np.array([[[1.0], [3.0]], [[5.0], [7.0]]])
    >>> pooled = pooling(x, mask=np.array([[True, True], [False, False]]))
    >>> keras.ops.convert_to_numpy(pooled)
    array([[2.],
           [0.]], dtype=float32)

    References:
        The combiners of `tf.nn.safe_embedding_lookup_sparse`; sqrtn for rating
        histories is Koren (2008), Factorization Meets the Neighborhood, KDD,
        equation 15.
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
                        "`weights` must be ragged where the inputs are. "
                        f"Received: shape {tuple(weights.shape)}."
                    )
                weights = weights.values
            mask, row_splits = None, inputs.row_splits
            inputs = inputs.values
        rank = len(inputs.shape)
        axis = self._axis(rank, row_splits is not None)
        dtype = accumulation_dtype(self.compute_dtype)
        x = ops.cast(inputs, dtype)

        w = ops.ones_like(x[(..., *[slice(0, 1)] * (rank - axis - 1))])
        if weights is not None:
            w = w * _align("weights", ops.cast(weights, dtype), rank, axis)
            # 0 times infinity is NaN. Of finite values the weight's own gradient stays.
            read = ops.logical_or(w != 0.0, ops.isfinite(x))
            x = ops.where(read, x, 0.0)
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
                # One row more: Keras on PyTorch takes 0 for "not given".
                return ops.segment_sum(values, rows, count + 1)[:count]

        total = pool(x * w)
        if self.combiner == "mean":
            total = _divide_or_zero(total, pool(w))
        elif self.combiner == "sqrtn":
            squares = pool(ops.square(w))
            # The root's slope at 0 is infinite: keep 0 away from it, too.
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
        splits = None if row_splits is None else row_splits.shape
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
                f"`axis` must be one of 1 ... {rank - 1} for inputs of rank {rank}. "
                f"Received: axis={self.axis}."
            )
        return axis

    def _axis(self, rank: int, in_a_row: bool) -> int:
        """Returns the axis to pool, of inputs whose rows may lie one after another."""
        axis = self._axis_within(rank + in_a_row)
        if in_a_row and axis != 1:
            raise ValueError(
                f"`axis` must be 1 for ragged rows. Received: axis={self.axis}."
            )
        return axis - in_a_row


def _align(argument: str, x: Tensor, rank: int, axis: int) -> Tensor:
    _check_rank(argument, x, axis)
    for _ in range(rank - axis - 1):
        x = ops.expand_dims(x, -1)
    return x


def _check_rank(argument: str, x: Tensor, axis: int) -> None:
    if len(x.shape) != axis + 1:
        raise ValueError(
            f"`{argument}` must have the shape of the inputs up to `axis`, "
            f"hence rank {axis + 1}. Received: shape {tuple(x.shape)}."
        )


def _divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    # The inner `where` keeps the division's gradient finite in the branch that
    # the outer one drops: 0 times infinity is NaN.
    empty = denominator == 0.0
    quotient = numerator / ops.where(empty, 1.0, denominator)
    return ops.where(empty, 0.0, quotient)
