"""What a finished run has learned: scores taken apart, and its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fmlayers import plots
from fmlayers.data.encoder import MISSING, UNKNOWN, as_text
from fmlayers.explain import (
    Explanation,
    Measure,
    TermSizes,
    explain,
    ranked_terms,
    term_sizes,
)
from fmlayers.runs.saved_run import SavedRun

MOST_TERMS = 10
MEASURES = {"std": "standard deviation", "abs": "mean absolute value"}


@dataclass(frozen=True, eq=False)
class PairReport:
    """Why a user and an item get their rating.

    Attributes:
        values: Value of each field, as text.
        parts: The explanation, of a batch of one.
        rating: The rating, on the scale of the data; `None` where the run was trained
            on clicks, whose scores rank and are no ratings.
    """

    values: Sequence[str]
    parts: Explanation
    rating: float | None

    def text(self) -> str:
        """Returns the fields, the largest pairs and what they add up to."""
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
        fields = [("field", "value", "alone")]
        fields += [(field, value, _signed(x)) for field, value, x in rows]
        tables = [
            _aligned(fields, 2),
            _aligned([(_heading("pair", pairs), "together"), *pairs[:MOST_TERMS]]),
            _aligned(sums),
        ]
        return "\n".join(tables)

    def plot(self, path: str | Path) -> None:
        """Draws the terms as a heat map."""
        plots.field_heat_map(self.parts.matrix[0], self.parts.fields, path)


@dataclass(frozen=True, eq=False)
class FieldReport:
    """Which fields and pairs move the scores of the test rows."""

    sizes: TermSizes

    def text(self) -> str:
        """Returns the matrix and the largest of its terms."""
        sizes, fields = self.sizes, self.sizes.fields
        matrix = [
            (name, *("" if g < f else f"{x:.4f}" for g, x in enumerate(row)))
            for f, (name, row) in enumerate(zip(fields, sizes.matrix, strict=True))
        ]
        ranked = ranked_terms(sizes.matrix, fields)
        terms = [(_named(names), f"{x:.4f}") for names, x in ranked]
        tables = [
            _aligned([("", *fields), *matrix]),
            _aligned([(_heading("term", terms), ""), *terms[:MOST_TERMS]]),
        ]
        whole = []
        if sizes.rest:
            whole.append(("rest (deep part)", f"{sizes.rest:.4f}"))
        if sizes.measure == "std":
            whole.append(("raw score", f"{sizes.score:.4f}"))
        if whole:
            tables.append(_aligned(whole))
        title = f"{self._label()}, over {sizes.rows:,} test rows\n\n"
        return title + "\n".join(tables)

    def plot(self, path: str | Path) -> None:
        """Draws the matrix as a heat map."""
        plots.field_heat_map(
            self.sizes.matrix, self.sizes.fields, path, label=self._label()
        )

    def _label(self) -> str:
        return f"{MEASURES[self.sizes.measure]} of each term of the raw score"


def explain_pair(run: SavedRun, user: str, item: str) -> PairReport:
    """Takes the rating of a user and an item apart.

    A column that describes a rating itself, such as its day, counts as missing.

    Args:
        run: The run; its own users and items give the other fields.
        user: The user, as in the data.
        item: The item, as in the data.

    Raises:
        ValueError: If the model is not made of fields and their pairs.
    """
    known = {"user", "item"}
    for side in (run.side_table("users"), run.side_table("items")):
        known |= set() if side is None else set(side.columns)
    of_the_rating = dict.fromkeys(set(run.encoder.columns) - known)
    pair = pd.DataFrame({"user": [user], "item": [item], **of_the_rating})
    table = run.with_side_columns(pair)
    parts = explain(run.model, run.inputs(table))
    values = [_value(run, field, table) for field in parts.fields]
    rating = float(run.predict(table)[0]) if run.config.has_ratings else None
    return PairReport(values, parts, rating)


def explain_fields(
    run: SavedRun, data: str | None = None, *, measure: Measure = "std"
) -> FieldReport:
    """Measures on the test rows how much each field and each pair matters.

    Args:
        run: The run.
        data: As of `Run.dataset`.
        measure: `"std"` or `"abs"`; see `fmlayers.explain.term_sizes`.

    Raises:
        ValueError: If the model is not made of fields and their pairs.
        DataError: If the data are gone, or no longer the same.
    """
    inputs = run.inputs(test_rows(run, data))
    return FieldReport(term_sizes(run.model, inputs, measure=measure))


def test_rows(run: SavedRun, data: str | None = None) -> pd.DataFrame:
    """Returns the test rows of a run, joined with what is known of users and items."""
    dataset = run.dataset(data)
    return dataset.table().iloc[run.split(dataset).test]


def _value(run: SavedRun, field: str, table: pd.DataFrame) -> str:
    if field not in table or field not in run.encoder.columns:
        return ""
    encoded = np.ravel(run.encoder.encode(field, table[field])[0])
    if run.encoder.columns[field] == "numeric":
        is_missing, is_unknown = bool(np.isnan(encoded).all()), False
    else:
        is_missing = bool((encoded == MISSING).all())
        is_unknown = bool(np.isin(encoded, (MISSING, UNKNOWN)).all())
    if is_missing:
        return "(missing)"
    cell = table[field].iloc[0]
    text = ", ".join(cell) if isinstance(cell, tuple) else as_text(cell)
    text = text.replace(run.encoder.separator, ", ")
    return f"{text} (unknown)" if is_unknown else text


def _named(names: Sequence[str]) -> str:
    return " * ".join(names)


def _signed(x: float) -> str:
    return f"{x:+.4f}"


def _heading(kind: str, terms: Sequence[object]) -> str:
    if len(terms) <= MOST_TERMS:
        return kind
    return f"{kind} (the {MOST_TERMS} largest of {len(terms)})"


def _aligned(rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Returns rows as lines, the first `texts` columns flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if k < texts else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
