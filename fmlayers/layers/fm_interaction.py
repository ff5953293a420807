from typing import Any, Literal, get_args

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype, sum_of_pairs
from fmlayers._types import Tensor

Reduce = Literal["sum", "none"]


@keras.saving.register_keras_serializable(package="fmlayers")
class FMInteraction(keras.layers.Layer):
    """Sums the products of all pairs of field vectors (second-order FM term).

    For field vectors x_1 ... x_F of an example, with `reduce="sum"`:

        y = sum_{i<j} <x_i, x_j>
          = 1/2 sum_d [ (sum_i x_id)^2 - sum_i x_id^2 ]

    The second form costs O(fields * dim) where the first costs
    O(fields^2 * dim). With `reduce="none"` the outer sum over d is left out
    (bi-interaction pooling, an input for further layers).

    There is no first-order term, no bias and no sigmoid in it. The difference
    of the two sums cancels, so both are accumulated in float32 (float64 under
    a float64 policy) and the result leaves in that dtype, whatever the compute
    dtype.

    Args:
        reduce: `"sum"` or `"none"`. Defaults to `"sum"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Field vectors.
        mask: Optional Boolean tensor `(batch, fields)`; a field whose entry is
            `False` takes part in no pair.
        training: Optional Boolean, which Keras gives: whether a gradient is to
            follow. The numbers are the same, the program is made for speed.

    Input shape:
        `(batch, fields, dim)`.

    Output shape:
        `(batch, 1)` with `reduce="sum"`, `(batch, dim)` with `reduce="none"`.
        A single field gives zeros. No mask is handed on.

    Raises:
        ValueError: If `reduce` is unknown, or the inputs are not of rank 3.

    Example:

    >>> layer = fmlayers.FMInteraction()
    >>> float(layer(np.array([[[1.0, 2.0], [3.0, 4.0]]]))[0, 0])  # 1*3 + 2*4
    11.0

    References:
        - Rendle, S. (2010). Factorization Machines. ICDM, lemma 3.1.
        - He, X. and Chua, T.-S. (2017). Neural Factorization Machines for
          Sparse Predictive Analytics. SIGIR, equation 3 (bi-interaction).
    """

    def __init__(self, reduce: Reduce = "sum", **kwargs: Any) -> None:
        if reduce not in get_args(Reduce):
            raise ValueError(
                f'`reduce` must be "sum" or "none". Received: reduce={reduce!r}.'
            )
        super().__init__(**kwargs)
        self.reduce = reduce
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3:
            raise ValueError(
                "`FMInteraction` needs inputs of shape (batch, fields, dim). "
                f"Received: input_shape={tuple(input_shape)}."
            )
        self.built = True

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        dtype = accumulation_dtype(self.compute_dtype)
        vectors = ops.cast(inputs, dtype)
        if mask is not None:
            vectors = ops.where(ops.expand_dims(mask, -1), vectors, 0.0)
        pairs = sum_of_pairs(vectors, bool(training))  # (batch, dim)
        if self.reduce == "none":
            return pairs
        return ops.sum(pairs, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, _, dim = input_shape
        return (batch, dim if self.reduce == "none" else 1)

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Any:
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape),
            dtype=accumulation_dtype(self.compute_dtype),
        )

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduce": self.reduce}
