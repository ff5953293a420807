"""What a raw score is made of: the bias, a term a field and a term a pair of fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._checks import integer
from fmlayers._types import Tensor
from fmlayers.layers import FeatureEmbedding

__all__ = [
    "Explanation",
    "TermSizes",
    "explain",
    "field_matrix",
    "mean_field_matrix",
    "ranked_terms",
    "term_sizes",
]

Matrix = npt.NDArray[np.float32]
Measure = Literal["std", "abs"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The parts of the raw scores of a batch; they add up to them.

        score = bias + sum_{f<=g} matrix[f, g] + rest

    Attributes:
        fields: Names of the F fields, in the order of the matrix.
        bias: The model's constants; 0 where it has none.
        matrix: `(batch, F, F)`; see `field_matrix`.
        rest: `(batch,)`, what a part of the model beside its fields and pairs adds:
            the deep part of a DeepFM. Zeros where there is none.
        score: `(batch,)`, the model's raw scores.
    """

    fields: tuple[str, ...]
    bias: float
    matrix: Matrix
    rest: Matrix
    score: Matrix


@dataclass(frozen=True, eq=False)
class TermSizes:
    """How much each term moves the raw scores of a data set, in their units.

    Attributes:
        fields: Names of the F fields, in the order of the matrix.
        measure: `"std"` or `"abs"`; see `term_sizes`.
        rows: Number of examples.
        matrix: `(F, F)`, of single fields on the diagonal, of pairs above it.
        rest: Of `Explanation.rest`.
        score: Of the scores themselves.
    """

    fields: tuple[str, ...]
    measure: Measure
    rows: int
    matrix: Matrix
    rest: float
    score: float


def explain(model: keras.Model, inputs: Mapping[str, Tensor]) -> Explanation:
    """Takes the raw scores of a batch apart.

    Args:
        model: `FactorizationMachine`, `LibFM`, `DeepFM`, `MatrixFactorization`, a
            subclass, or an `Ensemble` of them, whose parts are its members' means.
        inputs: Dict, as of the model.

    Returns:
        An `Explanation`, in NumPy arrays of float32.

    Raises:
        ValueError: If the model has no such parts, or has further ones that are not
            its `deep(inputs)`: parts that do not add up are not shown.

    Example:

    >>> features = [fmlayers.Categorical("user", 9), fmlayers.Categorical("item", 7)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=4)
    >>> batch = {"user": np.array([3, 8]), "item": np.array([6, 0])}
    >>> parts = fmlayers.explain.explain(model, batch)
    >>> sums = parts.bias + parts.matrix.sum(axis=(1, 2)) + parts.rest
    >>> bool(np.allclose(sums, parts.score, atol=1e-6))
    True
    """
    members = getattr(model, "members", [model])
    parts = [_parts(member, inputs) for member in members]
    matrix, rest = (
        np.mean([getattr(part, name) for part in parts], axis=0)
        for name in ("matrix", "rest")
    )
    bias = float(np.mean([part.bias for part in parts]))
    score = _numpy(model.score(inputs))[:, 0]
    unexplained = np.abs(score - bias - matrix.sum((1, 2)) - rest)
    scale = np.mean([part.scale for part in parts], axis=0)
    if np.any(unexplained > 1e-4 * scale):
        raise ValueError(
            "The score of `model` must be its bias, its fields, their pairs and the "
            "part `deep(inputs)`. Received: a "
            f"{type(model).__name__} whose scores differ from their sum by up to "
            f"{unexplained.max():.3g}."
        )
    return Explanation(parts[0].fields, bias, matrix, rest, score)


def field_matrix(model: keras.Model, inputs: Mapping[str, Tensor]) -> Matrix:
    """Returns the terms of each score, field by field.

        matrix[f, f] = w_f
        matrix[f, g] = <v_f, v_g>   for f < g
        matrix[f, g] = 0            for f > g

    With the bias, the sum of all entries is the raw score (see `Explanation`). A
    pair stands once, above the diagonal and whole: its entry is what the pair adds
    to the score, on one scale with the terms of single fields. In a `LibFM` with
    batch normalization, whose trained scale of field f is a_f, a pair is
    (a_f + a_g) / 2 <v_f, v_g>, and the shifts are part of the bias.

    Args:
        model: As of `explain`.
        inputs: Dict, as of the model.

    Returns:
        `(batch, fields, fields)` in float32, the fields in the model's order.

    Raises:
        ValueError: If the model has no such parts.

    References:
        Rendle, S. (2010). Factorization Machines. ICDM, equation 1.
    """
    members = getattr(model, "members", [model])
    matrices = [_parts(member, inputs).matrix for member in members]
    return np.asarray(np.mean(matrices, axis=0), np.float32)


def term_sizes(
    model: keras.Model,
    inputs: Mapping[str, Tensor],
    batch_size: int = 8192,
    *,
    measure: Measure = "std",
) -> TermSizes:
    """Measures how much each field and each pair moves the scores of a data set.

    - `"std"`: the standard deviation of each term over the examples. A term that is
      the same for all of them tells none apart and counts nothing: it might as well
      stand in the bias. That is the one to rank fields by.
    - `"abs"`: the mean of each term's absolute value: how large it is in a score,
      whether or not it differs from one example to the next.

    They tell what the model uses, not what it would lose without a field: one field
    can stand in for another.

    Args:
        model: As of `explain`.
        inputs: Dict of arrays with the examples as first axis.
        batch_size: Positive integer, examples at a time. Defaults to 8192.
        measure: `"std"` or `"abs"`. Defaults to `"std"`.

    Raises:
        ValueError: As of `explain`; if there is no example, or an argument breaks
            its constraint.
    """
    if measure not in get_args(Measure):
        raise ValueError(
            f'`measure` must be "std" or "abs". Received: measure={measure!r}.'
        )
    batch_size = integer("batch_size", batch_size)
    rows = int(next(iter(inputs.values())).shape[0])
    if not rows:
        raise ValueError("`inputs` must hold an example. Received: no rows.")
    fields: tuple[str, ...] = ()
    totals = [_Total(measure) for _ in range(3)]
    for start in range(0, rows, batch_size):
        batch = {name: x[start : start + batch_size] for name, x in inputs.items()}
        parts = explain(model, batch)
        fields = parts.fields
        for total, x in zip(
            totals, (parts.matrix, parts.rest, parts.score), strict=True
        ):
            total.add(x)
    matrix, rest, score = (total.size() for total in totals)
    return TermSizes(fields, measure, rows, matrix, float(rest), float(score))


def mean_field_matrix(
    model: keras.Model,
    inputs: Mapping[str, Tensor],
    batch_size: int = 8192,
    *,
    measure: Measure = "std",
) -> Matrix:
    """Returns the matrix of `term_sizes`, `(fields, fields)`."""
    return term_sizes(model, inputs, batch_size, measure=measure).matrix


def ranked_terms(
    matrix: npt.NDArray[Any], fields: Sequence[str]
) -> list[tuple[tuple[str, ...], float]]:
    """Returns the terms of a matrix with the names of their fields, largest first.

    Args:
        matrix: `(fields, fields)`, of one example or of a data set.
        fields: Names of the fields.

    Returns:
        For each field and each pair the names, one or two, and the term. Terms
        are ordered by their absolute value.
    """
    size = len(fields)
    if matrix.shape != (size, size):
        raise ValueError(
            "`matrix` must have a row and a column for each of `fields`. "
            f"Received: shape {matrix.shape} and {size} fields."
        )
    terms = [
        (tuple(dict.fromkeys((fields[f], fields[g]))), float(matrix[f, g]))
        for f in range(size)
        for g in range(f, size)
    ]
    return sorted(terms, key=lambda term: -abs(term[1]))


class _Total:
    """Sums up the examples of an array, batch by batch."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.rows = 0
        self.first: Any = None
        self.sum: Any = 0.0
        self.sum_of_squares: Any = 0.0

    def add(self, x: npt.NDArray[Any]) -> None:
        x = np.abs(x) if self.measure == "abs" else x
        # About the first example: the deviation of a constant is then exactly 0.
        self.first = x[0].astype(np.float64) if self.first is None else self.first
        self.rows += len(x)
        self.sum = self.sum + (x - self.first).sum(axis=0)
        self.sum_of_squares = self.sum_of_squares + np.square(x - self.first).sum(0)

    def size(self) -> Matrix:
        mean = self.sum / self.rows
        if self.measure == "abs":
            return np.asarray(self.first + mean, np.float32)
        variance = np.maximum(self.sum_of_squares / self.rows - np.square(mean), 0.0)
        return np.asarray(np.sqrt(variance), np.float32)


@dataclass(frozen=True, eq=False)
class _Parts:
    fields: tuple[str, ...]
    bias: float
    matrix: Matrix
    rest: Matrix
    scale: Matrix  # how large the numbers are that float32 adds up, (batch,)


def _parts(model: keras.Model, inputs: Mapping[str, Tensor]) -> _Parts:
    embeddings = [getattr(model, name, None) for name in ("factors", "linear")]
    if not all(isinstance(layer, FeatureEmbedding) for layer in embeddings):
        raise ValueError(
            "`model` must be made of fields and their pairs: a `FactorizationMachine`, "
            "a `LibFM`, a `DeepFM`, a `MatrixFactorization`, or an `Ensemble` of one "
            f"of them. Received: a {type(model).__name__}."
        )
    vectors = _numpy(model.factors(inputs))  # (batch, F, dim)
    scales, shifts = _normalization(model)
    products = vectors @ np.swapaxes(vectors, 1, 2)
    matrix = np.triu(products * ((scales[:, None] + scales) / 2.0), k=1)
    diagonal = np.arange(matrix.shape[1])
    if getattr(model, "use_bias", True):
        matrix[:, diagonal, diagonal] = _numpy(model.linear(inputs))[:, :, 0]
    bias = float(_numpy(model.bias)[0]) if hasattr(model, "bias") else 0.0
    rest = np.zeros(len(matrix), np.float32)
    if hasattr(model, "deep"):
        rest = _numpy(model.deep(inputs))[:, 0]
    return _Parts(
        fields=tuple(feature.name for feature in model.factors.features),
        bias=bias + float(shifts.sum()) / 2.0,
        matrix=matrix,
        rest=rest,
        scale=1.0 + np.abs(matrix).sum((1, 2)) + np.abs(rest),
    )


def _normalization(model: keras.Model) -> tuple[Matrix, Matrix]:
    """Returns what a trained batch normalization does: a scale and a shift a field."""
    size = len(model.factors.features)
    layer = getattr(model, "normalization", None)
    if layer is None:
        return np.ones(size, np.float32), np.zeros(size, np.float32)
    gamma, beta, mean, variance = (
        _numpy(weight)
        for weight in (
            layer.gamma,
            layer.beta,
            layer.moving_mean,
            layer.moving_variance,
        )
    )
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - scale * mean


def _numpy(x: Tensor) -> Matrix:
    array: Matrix = ops.convert_to_numpy(ops.cast(x, "float32"))
    return array
