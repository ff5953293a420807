from typing import Any, get_args

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype, is_ragged, pad_ragged
from fmlayers._types import Combiner, Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class MaskedMeanPooling(keras.layers.Layer):
    """Pools the values of a field into one vector; no value gives zeros.

    For vectors x_l with weights w_l (1 where none are given, 0 where masked):

        sum:    sum_l w_l x_l
        mean:   sum_l w_l x_l / sum_l w_l
        sqrtn:  sum_l w_l x_l / sqrt(sum_l w_l^2)

    Where the denominator is 0 (an empty row) the result is zeros and so is its
    gradient. A masked entry is not read at all: a NaN in the padding stays there.

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
            are). Weights of 0 leave a value out.

    Input shape:
        `(batch, length, dim)`, or any rank from 2 with `axis` in it.

    Output shape:
        The input shape without `axis`, in the compute dtype; the sums are
        accumulated in float32. No mask is handed on.

    Raises:
        ValueError: If `combiner` is unknown, `axis` is the batch axis or outside
            the inputs, or a mask or weights have another rank than `axis + 1`.

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
        if not isinstance(axis, int) or isinstance(axis, bool) or axis == 0:
            raise ValueError(
                "`axis` must be an integer and not the batch axis 0. "
                f"Received: axis={axis!r}."
            )
        if combiner not in get_args(Combiner):
            raise ValueError(
                '`combiner` must be "mean", "sum" or "sqrtn". '
                f"Received: combiner={combiner!r}."
            )
        super().__init__(**kwargs)
        self.axis = axis
        self.combiner = combiner
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self._axis_within(len(input_shape))
        self.built = True

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        if is_ragged(inputs):
            inputs, mask = pad_ragged(inputs)
            if is_ragged(weights):
                weights, _ = pad_ragged(weights)
        rank = len(inputs.shape)
        axis = self._axis_within(rank)
        dtype = accumulation_dtype(self.compute_dtype)
        x = ops.cast(inputs, dtype)

        w = ops.ones_like(x[(..., *[slice(0, 1)] * (rank - axis - 1))])
        if weights is not None:
            w = w * self._align("weights", ops.cast(weights, dtype), rank)
        if mask is not None:
            present = self._align("mask", ops.cast(mask, "bool"), rank)
            x = ops.where(present, x, 0.0)
            w = ops.where(present, w, 0.0)

        total = ops.sum(x * w, axis=axis)
        if self.combiner == "mean":
            total = _divide_or_zero(total, ops.sum(w, axis=axis))
        elif self.combiner == "sqrtn":
            squares = ops.sum(ops.square(w), axis=axis)
            # The root's slope at 0 is infinite: keep 0 away from it, too.
            root = ops.sqrt(ops.where(squares == 0.0, 1.0, squares))
            total = _divide_or_zero(total, ops.where(squares == 0.0, 0.0, root))
        return ops.cast(total, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        axis = self._axis_within(len(input_shape))
        return (*input_shape[:axis], *input_shape[axis + 1 :])

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Any:
        shape = self.compute_output_shape(inputs.shape)
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

    def _align(self, argument: str, x: Tensor, rank: int) -> Tensor:
        axis = self._axis_within(rank)
        if len(x.shape) != axis + 1:
            raise ValueError(
                f"`{argument}` must have the shape of the inputs up to `axis`, "
                f"hence rank {axis + 1}. Received: shape {tuple(x.shape)}."
            )
        for _ in range(rank - axis - 1):
            x = ops.expand_dims(x, -1)
        return x


def _divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    # The inner `where` keeps the division's gradient finite in the branch that
    # the outer one drops: 0 times infinity is NaN.
    empty = denominator == 0.0
    quotient = numerator / ops.where(empty, 1.0, denominator)
    return ops.where(empty, 0.0, quotient)
