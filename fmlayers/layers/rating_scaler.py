import math
from typing import Any, get_args

import keras
from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._checks import choice, is_number, number, positive
from fmlayers._types import ScalerMethod, Tensor, Transform


@keras.saving.register_keras_serializable(package="fmlayers")
class RatingScaler(keras.layers.Layer):
    """Maps a raw score to a rating between two bounds.

        sigmoid:  min + (max - min) / (1 + exp(-score))
        clip:     min(max(offset + scale * score, min), max)
        none:     offset + scale * score

    With `transform="log1p"`, this is ln(1 + rating), between ln(1 + min) and
    ln(1 + max), and the rating is exp(...) - 1: for counts, prices and other targets
    with a long tail.

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
        transform: `"none"` or `"log1p"`, which needs a `min_rating` of at least 0.
            `offset` and `scale` are then in the unit of the logarithm. Defaults to
            `"none"`.
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
            positive, `"sigmoid"` has one of them, `transform` is unknown, or it is
            `"log1p"` and `min_rating` is negative.

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
        transform: Transform = "none",
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
        transform = choice("transform", transform, get_args(Transform))
        if transform == "log1p" and float(min_rating) < 0.0:
            raise ValueError(
                '`min_rating` must be at least 0 with the transform "log1p". '
                f"Received: min_rating={min_rating}."
            )
        # Scores are float32 and must not be rounded to the compute dtype.
        super().__init__(autocast=False, **kwargs)
        self.min_rating = float(min_rating)
        self.max_rating = float(max_rating)
        self.method = method
        self.offset = offset
        self.scale = scale
        self.transform = transform
        self.supports_masking = True

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        score = ops.cast(inputs, accumulation_dtype(self.compute_dtype))
        transformed = self._transformed_rating(score)
        if self.transform == "log1p":
            return ops.exp(transformed) - 1.0  # ONNX and LiteRT have no expm1
        return transformed

    def _transformed_rating(self, score: Tensor) -> Tensor:
        lowest, highest = self.bounds
        if self.method == "sigmoid":
            return lowest + (highest - lowest) * ops.sigmoid(score)
        if (self.offset, self.scale) != (0.0, 1.0):
            score = self.offset + self.scale * score
        if self.method == "clip":
            clipped = ops.clip(ops.stop_gradient(score), lowest, highest)
            # Adds 0 with a slope of 1. Infinity minus infinity would add NaN.
            finite = ops.where(ops.isfinite(score), score, 0.0)
            return clipped + (finite - ops.stop_gradient(finite))
        return score

    def transformed(self, rating: float) -> float:
        """Returns ln(1 + `rating`) with the transform `"log1p"`, else `rating`."""
        return math.log1p(rating) if self.transform == "log1p" else float(rating)

    @property
    def bounds(self) -> tuple[float, float]:
        """Tuple of the lowest and the highest rating, transformed."""
        return self.transformed(self.min_rating), self.transformed(self.max_rating)

    def inverse(self, rating: float) -> float:
        """Returns the raw score that `call` turns into `rating`.

        Use it to start a model's bias at the mean rating.

        Args:
            rating: Float within the bounds (any float with `"none"`, greater than -1
                with the transform `"log1p"`). With
                `"sigmoid"`, a rating at a bound is moved inside by a millionth of
                `max_rating - min_rating`, since its score would be infinite.

        Raises:
            ValueError: If `rating` is not a finite number, or outside the bounds.
        """
        low, high = self.min_rating, self.max_rating
        allowed = is_number(rating) and (
            low <= float(rating) <= high
            or (self.method == "none" and self.transform == "none")
            or (self.method == "none" and float(rating) > -1.0)
        )
        if not allowed:
            raise ValueError(
                f"`rating` must lie within {low} and {high}. Received: rating={rating}."
            )
        rating = self.transformed(rating)
        if self.method != "sigmoid":
            return (rating - self.offset) / self.scale
        low, high = self.bounds
        share = (rating - low) / (high - low)
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
            "transform": self.transform,
        }
