from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import choice
from fmlayers._pair_sum import sum_of_pairs
from fmlayers._types import Tensor

Reduce = Literal["sum", "none"]


@keras.saving.register_keras_serializable(package="fmlayers")
class FMInteraction(keras.layers.Layer):
    """Sums the products of all pairs of field vectors (second-order FM term).

    For field vectors x_1 ... x_F of an example, with `reduce="sum"`:

        y = sum_{i<j} <x_i, x_j>
          = 1/2 sum_d [ (sum_i x_id)^2 - sum_i x_id^2 ]
          = sum_d sum_j x_jd (x_1d + ... + x_{j-1,d})

    The second form, Rendle's lemma, costs O(fields * dim), whereas the first costs
    O(fields^2 * dim). It subtracts squares, which cancel where one field is large.
    The layer computes the third form, which telescopes the second over the fields at
    the same cost. With `reduce="none"`, the sum over d is left out (bi-interaction
    pooling, an input for further layers).

    The layer has no first-order term, no bias and no sigmoid. The sums are accumulated
    and returned in float32 (float64 under a float64 policy), whatever the compute
    dtype. With the machine epsilon of the accumulation dtype (2^-23 for float32), and
    however much the fields differ in size:

        |error of y| <= (fields + dim) / 2 * epsilon * sum_{i<j} sum_d |x_id| |x_jd|

    The gradient of x_i is the sum of the other fields, and has an error of at most
    (fields + 10) / 2 * epsilon times the sum of their absolute values.

    Args:
        reduce: `"sum"` or `"none"`. Defaults to `"sum"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Field vectors, as one tensor or as a list with one tensor per field.
        mask: Optional Boolean tensor `(batch, fields)`; for a list of inputs also a
            list of `(batch,)` tensors or `None`. A field whose entry is `False` is in
            no pair.
        training: Optional Boolean, passed by Keras: whether gradients are needed. It
            selects the faster program; the results agree up to rounding.

    Input shape:
        `(batch, fields, dim)`, or a list of `(batch, dim)`.

    Output shape:
        `(batch, 1)` with `reduce="sum"`, `(batch, dim)` with `reduce="none"`.
        A single field gives zeros. The layer emits no mask.

    Raises:
        ValueError: If `reduce` is unknown, the inputs or the mask have the wrong rank,
            or the vectors of a list differ in shape.

    Example:

    >>> layer = fmlayers.FMInteraction()
    >>> float(layer(np.array([[[1.0, 2.0], [3.0, 4.0]]]))[0, 0])  # 1*3 + 2*4
    11.0
    >>> user, item = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> float(layer([user, item])[0, 0])
    11.0

    References:
        - Rendle, S. (2010). Factorization Machines. ICDM, lemma 3.1.
        - He, X. and Chua, T.-S. (2017). Neural Factorization Machines for
          Sparse Predictive Analytics. SIGIR, equation 3 (bi-interaction).
    """

    def __init__(self, reduce: Reduce = "sum", **kwargs: Any) -> None:
        reduce = choice("reduce", reduce, get_args(Reduce))
        super().__init__(**kwargs)
        self.reduce = reduce
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        _stacked_shape(input_shape)
        self.built = True

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        training: bool | None = None,
    ) -> Tensor:
        dtype = accumulation_dtype(self.compute_dtype)
        if isinstance(inputs, (list, tuple)):
            mask = _stacked_mask(inputs, mask)
            inputs = ops.stack([ops.cast(x, dtype) for x in inputs], axis=1)
        vectors = ops.cast(inputs, dtype)
        if mask is not None:
            if len(mask.shape) != 2:
                raise ValueError(
                    "`mask` must be of shape (batch, fields). "
                    f"Received: shape {tuple(mask.shape)}."
                )
            present = ops.cast(ops.expand_dims(mask, -1), "bool")
            vectors = ops.where(present, vectors, 0.0)
        pairs = sum_of_pairs(vectors, bool(training))  # (batch, dim)
        if self.reduce == "none":
            return pairs
        return ops.sum(pairs, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, _, dim = _stacked_shape(input_shape)
        return (batch, dim if self.reduce == "none" else 1)

    def compute_output_spec(
        self,
        inputs: Any,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        shape = (
            [x.shape for x in inputs]
            if isinstance(inputs, (list, tuple))
            else inputs.shape
        )
        return keras.KerasTensor(
            self.compute_output_shape(shape),
            dtype=accumulation_dtype(self.compute_dtype),
        )

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduce": self.reduce}


def _stacked_shape(shape: Any) -> tuple[int | None, ...]:
    """Returns `(batch, fields, dim)`, also for a list of shapes `(batch, dim)`."""
    several = bool(shape) and isinstance(shape[0], (list, tuple))
    ranks = [len(one) for one in shape] if several else [len(shape)]
    if set(ranks) != {2 if several else 3}:
        raise ValueError(
            "`inputs` must be of shape (batch, fields, dim), or a list of tensors "
            f"(batch, dim). Received: shape {shape}."
        )
    if not several:
        return tuple(shape)
    if len({one[1] for one in shape}) > 1:
        raise ValueError(
            f"`inputs` must be tensors of the same size. Received: shapes {shape}."
        )
    return (shape[0][0], len(shape), shape[0][1])


def _stacked_mask(inputs: Sequence[Tensor], mask: Any) -> Tensor | None:
    """Returns the mask `(batch, fields)`, also for a list with one mask per field."""
    if not isinstance(mask, (list, tuple)):
        return mask
    if all(one is None for one in mask):
        return None
    return ops.stack(
        [
            ops.ones_like(x[:, 0], dtype="bool") if one is None else one
            for x, one in zip(inputs, mask, strict=True)
        ],
        axis=1,
    )
