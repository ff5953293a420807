"""A description of the columns of a dataset and the kinds that were inferred."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from fmlayers._text_tables import aligned, cut, width
from fmlayers.data.column_facts import ColumnFacts
from fmlayers.data.column_hints import column_hints, looks_like_times
from fmlayers.data.dataset import Dataset
from fmlayers.data.kind_names import Kind

MAX_WIDTH = 100  # of a line
MAX_NAME = 30  # width of a name
MIN_EXAMPLE = 20  # width of an example
MAX_ROWS = 100  # columns in the table


def describe_columns(
    dataset: Dataset,
    columns: Mapping[str, Kind],
    *,
    chosen: Collection[str] = (),
    list_separator: str = "|",
    weights: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns lines of text that describe how the columns of a dataset are used.

    Args:
        dataset: A `Dataset`.
        columns: Dict from the columns that the model reads to their kinds.
        chosen: Names of the columns whose kinds the user has chosen. There are no hints
            on them. Defaults to `()`.
        list_separator: Text between the values of a list. Defaults to `"|"`.
        weights: Optional dict from the names of weighted columns to the columns with
            their weights.

    Returns:
        A list of lines: a table of the columns used, with their kinds, the numbers of
        their distinct values, the shares of missing cells and an example; the columns
        left out, if any; if the dataset has no users or no items, how to name them; if
        it has no timestamps, the first column that looks like one; and hints on columns
        that may be something else than they were taken for.
    """
    table = dataset.table()
    weights = weights or {}
    # The weights of other columns are no part of the cells.
    kinds = {**columns, **dict.fromkeys(columns.keys() & weights, "multi_categorical")}
    facts = [
        ColumnFacts(name, kinds[name], table[name], list_separator, place=dataset.place)
        for name in columns
    ]
    lines = _table(facts, columns, weights)
    known = {"rating", dataset.weight, *columns, *weights.values()}
    others = [str(x) for x in table.columns if x not in known]
    if others:
        lines.append(
            f"left out: {', '.join(others)} (no feature uses "
            f"{'it' if len(others) == 1 else 'them'}; --features names the columns to "
            "use)"
        )
    of_rows = dataset.weights
    if of_rows is not None:
        lines.append(
            f"weights: {dataset.weight}, from {of_rows.min():g} to {of_rows.max():g}"
        )
    absent = [name for name in ("user", "item") if name not in table]
    if absent:
        lines.append(
            "no recommendations: they need the columns of users and items; name them "
            f"with {' and '.join(f'--{name}' for name in absent)}"
        )
    pointed_out: list[str] = []
    if "timestamp" not in table:
        keys = ("user", "item", "rating", dataset.weight)
        names = [x for x in dataset.ratings if x not in keys]
        times = (x for x in names if looks_like_times(dataset.ratings[x]))
        pointed_out = [str(name) for name in times][:1]
        lines += [
            f"no timestamps: the column {name} looks like them; use it with "
            f"--timestamp {name}"
            for name in pointed_out
        ]
    silent = {*chosen, *pointed_out}
    return lines + column_hints(
        [_in_its_table(x, dataset) for x in facts if x.name not in silent]
    )


def _in_its_table(facts: ColumnFacts, dataset: Dataset) -> ColumnFacts:
    """Returns the column with one cell per row of the table that it comes from."""
    for table in (dataset.users, dataset.items):
        if table is not None and facts.name in table:
            return replace(facts, column=table[facts.name], rows=facts.column)
    return facts


def _table(
    facts: list[ColumnFacts], columns: Mapping[str, Kind], weights: Mapping[str, str]
) -> list[str]:
    rows = [("column", "kind", "values", "missing")]
    for x in facts[:MAX_ROWS]:
        kind = columns[x.name]
        if kind == "vector":
            kind = f"vector ({x.size} numbers)"
        if x.name in weights:
            kind = f"{kind} by {weights[x.name]}"
        values = "" if columns[x.name] == "vector" else f"{x.num_values:,}"
        rows.append((cut(x.name, MAX_NAME), cut(kind, MAX_NAME), values, _share(x)))
    lines = aligned(rows, left=2).splitlines()
    room = max(MAX_WIDTH - width(lines[0]) - 2, MIN_EXAMPLE)
    examples = ["example", *(cut(x.example(), room) for x in facts[:MAX_ROWS])]
    described = [
        f"{line}  {example}".rstrip()
        for line, example in zip(lines, examples, strict=True)
    ]
    if len(facts) > MAX_ROWS:
        described.append(f"... and {len(facts) - MAX_ROWS:,} more columns")
    return described


def _share(facts: ColumnFacts) -> str:
    share = facts.missing
    if not share:
        return "0 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
