"""Explanations of a run's predictions by fields and pairs of fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fmlayers import plots
from fmlayers._text_tables import aligned
from fmlayers.data.cells import as_text
from fmlayers.data.kind_names import reads_numbers
from fmlayers.data.kinds import MISSING, UNKNOWN
from fmlayers.explain import (
    Explanation,
    Measure,
    TermSizes,
    explain,
    ranked_terms,
    term_sizes,
)
from fmlayers.runs.prediction import check_scores
from fmlayers.runs.run_data import Data
from fmlayers.runs.saved_run import SavedRun

MAX_TERMS = 10
MEASURES = {"std": "standard deviation", "abs": "mean absolute value"}


@dataclass(frozen=True, eq=False)
class PairReport:
    """The explanation of the rating of one user and one item.

    Attributes:
        values: The value of each field, as text.
        parts: The `fmlayers.explain.Explanation`, with a batch size of 1.
        rating: The rating, on the scale of the data. `None` for a run on implicit
            feedback, whose scores are not ratings.
    """

    values: Sequence[str]
    parts: Explanation
    rating: float | None

    def text(self) -> str:
        """Returns tables of the fields, of the largest pairs, and of their sums."""
        matrix = self.parts.matrix[0]
        terms = ranked_terms(matrix, self.parts.fields)
        pairs = [(_named(names), _signed(x)) for names, x in terms if len(names) == 2]
        first_order = np.diagonal(matrix)
        rows = zip(self.parts.fields, self.values, first_order, strict=True)
        sums = [
            ("bias", _signed(self.parts.bias)),
            ("fields", _signed(first_order.sum())),
            ("pairs", _signed(np.triu(matrix, k=1).sum())),
            ("rest (deep part)", _signed(self.parts.rest[0])),
            ("raw score", f"{self.parts.score[0]:.4f}"),
        ]
        if self.rating is not None:
            sums.append(("rating", f"{self.rating:.4f}"))
        if not self.parts.rest.any():
            del sums[3]
        fields = [("field", "value", "first order")]
        fields += [(field, value, _signed(x)) for field, value, x in rows]
        tables = [
            aligned(fields, 2),
            aligned([(_heading("pair", pairs), "interaction"), *pairs[:MAX_TERMS]]),
            aligned(sums),
        ]
        return "\n".join(tables)

    def plot(self, path: str | Path) -> None:
        """Draws the terms as a heat map."""
        plots.field_heat_map(self.parts.matrix[0], self.parts.fields, path)


@dataclass(frozen=True, eq=False)
class FieldReport:
    """The sizes of the fields' and pairs' terms in the scores of the test rows.

    Attributes:
        sizes: The `fmlayers.explain.TermSizes`.
    """

    sizes: TermSizes

    def text(self) -> str:
        """Returns tables of all terms and of the largest ones."""
        sizes, fields = self.sizes, self.sizes.fields
        matrix = [
            (name, *("" if g < f else f"{x:.4f}" for g, x in enumerate(row)))
            for f, (name, row) in enumerate(zip(fields, sizes.matrix, strict=True))
        ]
        ranked = ranked_terms(sizes.matrix, fields)
        terms = [(_named(names), f"{x:.4f}") for names, x in ranked]
        tables = [
            aligned([("", *fields), *matrix]),
            aligned([(_heading("term", terms), ""), *terms[:MAX_TERMS]]),
        ]
        totals = []
        if sizes.rest:
            totals.append(("rest (deep part)", f"{sizes.rest:.4f}"))
        if sizes.measure == "std":
            totals.append(("raw score", f"{sizes.score:.4f}"))
        if totals:
            tables.append(aligned(totals))
        title = f"{self._label()}, over {sizes.rows:,} test rows\n\n"
        return title + "\n".join(tables)

    def plot(self, path: str | Path) -> None:
        """Draws the terms as a heat map."""
        plots.field_heat_map(
            self.sizes.matrix, self.sizes.fields, path, label=self._label()
        )

    def _label(self) -> str:
        return f"{MEASURES[self.sizes.measure]} of each term of the raw score"


def explain_pair(run: SavedRun, user: str, item: str) -> PairReport:
    """Explains the rating of a user and an item by fields and pairs of fields.

    The other fields come from the run's tables of users and items. A column that
    describes a single rating, such as its day, counts as missing.

    Args:
        run: The run.
        user: The user, as in the data.
        item: The item, as in the data.

    Raises:
        ValueError: If the model defines no `terms`.
        DivergenceError: If a term is NaN or infinite.
    """
    side_columns = {"user", "item"}
    for side in (run.side_table("users"), run.side_table("items")):
        side_columns |= set() if side is None else set(side.columns)
    columns = {*run.encoder.columns, *run.encoder.weights.values()}
    context = dict.fromkeys(columns - side_columns)
    pair = pd.DataFrame({"user": [user], "item": [item], **context})
    table = run.with_side_columns(pair)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = explain(run.model, run.inputs(table))
    check_scores(parts.matrix, parts.rest, parts.score)
    values = [_value(run, field, table) for field in parts.fields]
    rating = float(run.predict(table)[0]) if run.config.task == "regression" else None
    return PairReport(values, parts, rating)


def explain_fields(
    run: SavedRun, data: Data | None = None, *, measure: Measure = "std"
) -> FieldReport:
    """Measures how much each field and each pair of fields matters on the test rows.

    Args:
        run: The run.
        data: See `Run.dataset`.
        measure: `"std"` or `"abs"`; see `fmlayers.explain.term_sizes`.

    Raises:
        ValueError: If the model defines no `terms`.
        DataError: If the data are missing or have changed.
    """
    inputs = run.inputs(run.test_table(data))
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = term_sizes(run.model, inputs, measure=measure)
    check_scores(sizes.matrix, sizes.rest, sizes.score)
    return FieldReport(sizes)


def _value(run: SavedRun, field: str, table: pd.DataFrame) -> str:
    if field not in table or field not in run.encoder.columns:
        return ""
    encoded = np.ravel(run.encoder.encode(field, table[field])[0])
    if encoded.dtype.kind == "f":
        is_missing, is_unknown = bool(np.isnan(encoded).all()), False
    else:
        is_missing = bool((encoded == MISSING).all())
        is_unknown = bool(np.isin(encoded, (MISSING, UNKNOWN)).all())
    if is_missing:
        return "(missing)"
    cell = table[field].iloc[0]
    if run.encoder.columns[field] == "vector":
        return f"({len(encoded)} numbers)"
    values = cell if isinstance(cell, tuple) else [cell]
    text = ", ".join(map(as_text, values))
    text = text.replace(run.encoder.separator, ", ")
    bins = run.encoder.column(field).values()
    if bins and reads_numbers(run.encoder.columns[field]):
        return f"{text} in {bins[encoded[0] - 1]}"
    return f"{text} (unknown)" if is_unknown else text


def _named(names: Sequence[str]) -> str:
    return " * ".join(names)


def _signed(x: float) -> str:
    return f"{x:+.4f}"


def _heading(kind: str, terms: Sequence[object]) -> str:
    if len(terms) <= MAX_TERMS:
        return kind
    return f"{kind} (the {MAX_TERMS} largest of {len(terms)})"
