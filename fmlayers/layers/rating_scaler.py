import math
from typing import Any, get_args

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import choice, is_number, number, positive
from fmlayers._types import ScalerMethod, Tensor


@keras.saving.register_keras_serializable(package="fmlayers")
class RatingScaler(keras.layers.Layer):
    """Maps a raw score to a rating between two bounds.

        sigmoid:  min + (max - min) / (1 + exp(-score))
        clip:     min(max(offset + scale * score, min), max)
        none:     offset + scale * score

    The gradient of `"clip"` is 1 everywhere (straight-through): the error of a score
    outside the bounds still pulls it back, unless the rating equals the bound and the
    error is 0. libFM is trained in this way.

    Args:
        min_rating: Float, the lowest rating, in the unit of the data.
        max_rating: Float, the highest rating, greater than `min_rating`.
        method: `"sigmoid"`, `"clip"` or `"none"`. Defaults to `"sigmoid"`.
        offset: Float, the rating of the score 0, in the unit of the data. With
            `"sigmoid"`, it must be left out, as must `scale`. Defaults to 0.
        scale: Positive float, the ratings per unit of the score. Scores of about the
            same size, whatever the unit of the data, suit the same L2 and learning
            rate. Defaults to 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Raw scores.

    Input shape:
        Any.

    Output shape:
        The input shape, in float32 (float64 under a float64 policy), whatever
        the compute dtype.

    Raises:
        ValueError: If a bound is not finite, `min_rating` is not less than
            `max_rating`, `method` is unknown, `offset` is not finite, `scale` is not
            positive, or `"sigmoid"` has one of them.

    Example:

    >>> scaler = fmlayers.RatingScaler(1, 5)
    >>> float(scaler(np.array([0.0]))[0])
    3.0
    >>> bias = keras.initializers.Constant(scaler.inverse(3.53))

    References:
        - Salakhutdinov, R. and Mnih, A. (2007). Probabilistic Matrix
          Factorization. NIPS, section 2 (the logistic function of the score).
        - Rendle, S. (2012). Factorization Machines with libFM. ACM TIST 3(3).
    """

    def __init__(
        self,
        min_rating: float,
        max_rating: float,
        method: ScalerMethod = "sigmoid",
        *,
        offset: float = 0.0,
        scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        finite = is_number(min_rating) and is_number(max_rating)
        if not finite or not float(min_rating) < float(max_rating):
            raise ValueError(
                "`min_rating` and `max_rating` must be finite, and the first less than "
                f"the second. Received: min_rating={min_rating}, "
                f"max_rating={max_rating}."
            )
        method = choice("method", method, get_args(ScalerMethod))
        offset, scale = number("offset", offset), positive("scale", scale)
        if method == "sigmoid" and (offset, scale) != (0.0, 1.0):
            raise ValueError(
                '`offset` and `scale` must be left out with the method "sigmoid". '
                f"Received: offset={offset}, scale={scale}."
            )
        # Scores are float32 and must not be rounded to the compute dtype.
        super().__init__(autocast=False, **kwargs)
        self.min_rating = float(min_rating)
        self.max_rating = float(max_rating)
        self.method = method
        self.offset = offset
        self.scale = scale
        self.supports_masking = True

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        score = ops.cast(inputs, accumulation_dtype(self.compute_dtype))
        if self.method == "sigmoid":
            span = self.max_rating - self.min_rating
            return self.min_rating + span * ops.sigmoid(score)
        if (self.offset, self.scale) != (0.0, 1.0):
            score = self.offset + self.scale * score
        if self.method == "clip":
            clipped = ops.clip(
                ops.stop_gradient(score), self.min_rating, self.max_rating
            )
            # Adds 0 with a slope of 1. Infinity minus infinity would add NaN.
            finite = ops.where(ops.isfinite(score), score, 0.0)
            return clipped + (finite - ops.stop_gradient(finite))
        return score

    def inverse(self, rating: float) -> float:
        """Returns the raw score that `call` turns into `rating`.

        Use it to start a model's bias at the mean rating.

        Args:
            rating: Float within the bounds (any float with `"none"`). With
                `"sigmoid"`, a rating at a bound is moved inside by a millionth of
                `max_rating - min_rating`, since its score would be infinite.

        Raises:
            ValueError: If `rating` is not a finite number, or outside the bounds.
        """
        low, high = self.min_rating, self.max_rating
        allowed = is_number(rating) and (
            self.method == "none" or low <= float(rating) <= high
        )
        if not allowed:
            raise ValueError(
                f"`rating` must lie within {low} and {high}. Received: rating={rating}."
            )
        rating = float(rating)
        if self.method != "sigmoid":
            return (rating - self.offset) / self.scale
        share = (rating - self.min_rating) / (self.max_rating - self.min_rating)
        share = min(max(share, 1e-6), 1.0 - 1e-6)
        return math.log(share / (1.0 - share))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def compute_output_spec(self, inputs: Tensor) -> Any:
        dtype = accumulation_dtype(self.compute_dtype)
        return keras.KerasTensor(inputs.shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "min_rating": self.min_rating,
            "max_rating": self.max_rating,
            "method": self.method,
            "offset": self.offset,
            "scale": self.scale,
        }
