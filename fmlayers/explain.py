"""What a raw score is made of: the bias, a term a field and a term a pair of fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers._checks import integer
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


def explain(model: ScoringModel, inputs: Mapping[str, Tensor]) -> Explanation:
    """Takes the raw scores of a batch apart.

    Args:
        model: A `ScoringModel` that defines `terms`: `FactorizationMachine`, `LibFM`,
            `DeepFM`, `MatrixFactorization`, an `Ensemble` of them, or your subclass.
        inputs: Dict, as of the model.

    Returns:
        An `Explanation`, in NumPy arrays of float32.

    Raises:
        ValueError: If the model defines no `terms`, or they do not add up to its
            scores.

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
            f"{type(model).__name__} whose scores differ from their sum by up to "
            f"{unexplained.max():.3g}."
        )
    fields = tuple(feature.name for feature in model.features)
    return Explanation(fields, terms.bias, terms.matrix, terms.rest, score)


def field_matrix(model: ScoringModel, inputs: Mapping[str, Tensor]) -> Matrix:
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
    return Terms.mean([member.terms(inputs) for member in _members(model)]).matrix


def term_sizes(
    model: ScoringModel,
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
    model: ScoringModel,
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
    """Returns how large the numbers are that float32 adds up to a score, `(batch,)`."""
    size: Matrix = 1.0 + np.abs(terms.matrix).sum((1, 2)) + np.abs(terms.rest)
    return size
