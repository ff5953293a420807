"""Explains raw scores: the bias, one term per field and one per pair of fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._checks import choice, integer
from fmlayers._types import Tensor
from fmlayers.scoring_model import ScoringModel, Terms

__all__ = [
    "Explanation",
    "TermSizes",
    "Terms",
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
    """The terms of the raw scores of a batch.

        score = bias + sum_{f<=g} matrix[f, g] + rest

    Attributes:
        fields: Names of the fields, in the order of `matrix`.
        bias: The bias of the model, 0 if it has none.
        matrix: Array of shape `(batch, fields, fields)`; see `field_matrix`.
        rest: Array of shape `(batch,)`, the contribution of other parts of the model,
            such as the deep part of a `DeepFM`. Zeros if there are none.
        score: Array of shape `(batch,)`, the raw scores.
    """

    fields: tuple[str, ...]
    bias: float
    matrix: Matrix
    rest: Matrix
    score: Matrix


@dataclass(frozen=True, eq=False)
class TermSizes:
    """The sizes of the terms over a dataset, in the unit of the raw scores.

    Attributes:
        fields: Names of the fields, in the order of `matrix`.
        measure: `"std"` or `"abs"`; see `term_sizes`.
        rows: Number of examples.
        matrix: Array of shape `(fields, fields)`, the sizes of the terms of single
            fields on the diagonal and of pairs above it.
        rest: Size of `Explanation.rest`.
        score: Size of the raw scores.
    """

    fields: tuple[str, ...]
    measure: Measure
    rows: int
    matrix: Matrix
    rest: float
    score: float


def explain(model: ScoringModel, inputs: Mapping[str, Tensor]) -> Explanation:
    """Decomposes the raw scores of a batch into terms.

    Args:
        model: A `ScoringModel` that defines `terms`: `FactorizationMachine`, `LibFM`,
            `DeepFM`, `MatrixFactorization`, an `Ensemble` of them, or a custom
            subclass.
        inputs: Dict with the inputs of the model.

    Returns:
        An `Explanation`, with float32 NumPy arrays.

    Raises:
        ValueError: If the model does not define `terms`, or its terms do not add up to
            its scores.

    Example:

    >>> features = [fmlayers.Categorical("user", 9), fmlayers.Categorical("item", 7)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=4)
    >>> batch = {"user": np.array([3, 8]), "item": np.array([6, 0])}
    >>> parts = fmlayers.explain.explain(model, batch)
    >>> sums = parts.bias + parts.matrix.sum(axis=(1, 2)) + parts.rest
    >>> bool(np.allclose(sums, parts.score, atol=1e-6))
    True
    """
    parts = [member.terms(inputs) for member in _members(model)]
    terms = Terms.mean(parts)
    score = ops.convert_to_numpy(ops.cast(model.score(inputs), "float32"))[:, 0]
    unexplained = np.abs(score - terms.bias - terms.matrix.sum((1, 2)) - terms.rest)
    if np.any(unexplained > 1e-4 * np.mean([_size(part) for part in parts], axis=0)):
        raise ValueError(
            "The `terms` of `model` must add up to its score. Received: a "
            f"{type(model).__name__} whose scores differ from the sum by up to "
            f"{unexplained.max():.3g}."
        )
    fields = tuple(feature.name for feature in model.features)
    return Explanation(fields, terms.bias, terms.matrix, terms.rest, score)


def field_matrix(model: ScoringModel, inputs: Mapping[str, Tensor]) -> Matrix:
    """Returns the terms of each raw score as a matrix of fields by fields.

        matrix[f, f] = w_f
        matrix[f, g] = <v_f, v_g>   for f < g
        matrix[f, g] = 0            for f > g

    The raw score is the sum of all entries, plus the bias and the rest (see
    `Explanation`). Each pair appears once, above the diagonal, with its full
    contribution, so that pairs and single fields can be compared. In a `LibFM` with
    batch normalization, whose trained scale of field f is a_f, the term of a pair is
    (a_f + a_g) / 2 <v_f, v_g>, and the shifts are part of the bias.

    Args:
        model: Same as in `explain`.
        inputs: Same as in `explain`.

    Returns:
        A float32 array of shape `(batch, fields, fields)`, with the fields in the order
        of `model.features`.

    Raises:
        ValueError: If the model does not define `terms`.

    References:
        Rendle, S. (2010). Factorization Machines. ICDM, equation 1.
    """
    return Terms.mean([member.terms(inputs) for member in _members(model)]).matrix


def term_sizes(
    model: ScoringModel,
    inputs: Mapping[str, Tensor],
    batch_size: int = 8192,
    *,
    measure: Measure = "std",
) -> TermSizes:
    """Measures the size of each field's and each pair's term over a dataset.

    There are two measures:

    - `"std"`: the standard deviation of the term. A term that is the same for all
      examples has size 0, since it could be part of the bias. Use it to rank fields.
    - `"abs"`: the mean absolute value of the term, whether or not it varies between
      examples.

    The sizes show what the model uses. They do not show how much worse the model would
    be without a field, since fields can replace each other.

    Args:
        model: Same as in `explain`.
        inputs: Dict of arrays with the examples as first axis.
        batch_size: Positive integer, the number of examples per batch. Defaults to
            8192.
        measure: `"std"` or `"abs"`. Defaults to `"std"`.

    Returns:
        A `TermSizes`.

    Raises:
        ValueError: If there are no examples, an argument violates its constraint, or
            the model cannot be explained (see `explain`).
    """
    choice("measure", measure, get_args(Measure))
    batch_size = integer("batch_size", batch_size)
    rows = int(next(iter(inputs.values())).shape[0])
    if not rows:
        raise ValueError("`inputs` must not be empty. Received: no rows.")
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
    model: ScoringModel,
    inputs: Mapping[str, Tensor],
    batch_size: int = 8192,
    *,
    measure: Measure = "std",
) -> Matrix:
    """Returns the `matrix` of `term_sizes`, of shape `(fields, fields)`."""
    return term_sizes(model, inputs, batch_size, measure=measure).matrix


def ranked_terms(
    matrix: npt.NDArray[Any], fields: Sequence[str]
) -> list[tuple[tuple[str, ...], float]]:
    """Returns the terms of a matrix in descending order of their absolute values.

    Args:
        matrix: Array of shape `(fields, fields)`, the terms of one example or the sizes
            of the terms over a dataset.
        fields: Names of the fields.

    Returns:
        A list of `(names, term)`, where `names` is a tuple of one field or of two.

    Raises:
        ValueError: If the shape of `matrix` does not match the number of fields.
    """
    size = len(fields)
    if matrix.shape != (size, size):
        raise ValueError(
            "`matrix` must have one row and one column per field. "
            f"Received: shape {matrix.shape} and {size} fields."
        )
    terms = [
        (tuple(dict.fromkeys((fields[f], fields[g]))), float(matrix[f, g]))
        for f in range(size)
        for g in range(f, size)
    ]
    return sorted(terms, key=lambda term: -abs(term[1]))


class _Total:
    """Accumulates the standard deviation or mean absolute value over batches."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.rows = 0
        self.first: Any = None
        self.sum: Any = 0.0
        self.sum_of_squares: Any = 0.0

    def add(self, x: npt.NDArray[Any]) -> None:
        x = np.abs(x) if self.measure == "abs" else x
        # Relative to the first example: the deviation of a constant is exactly 0.
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


def _members(model: ScoringModel) -> Sequence[ScoringModel]:
    is_one = isinstance(model, ScoringModel)
    members = model.members or [model] if is_one else [model]
    for member in members:
        if not is_one or type(member).terms is ScoringModel.terms:
            raise ValueError(
                "`model` must be a `ScoringModel` that defines `terms`, as "
                "`FactorizationMachine`, `LibFM`, `DeepFM` and `MatrixFactorization` "
                f"do. Received: a {type(member).__name__}."
            )
    return members


def _size(terms: Terms) -> Matrix:
    """Returns the magnitude of the sum of terms, for a tolerance, `(batch,)`."""
    size: Matrix = 1.0 + np.abs(terms.matrix).sum((1, 2)) + np.abs(terms.rest)
    return size
