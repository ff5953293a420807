"""Hints on columns that may be something else than they were taken for."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers._text_tables import cut
from fmlayers.data.cells import NUMBER, has_leading_zeros
from fmlayers.data.column_facts import ColumnFacts

MAX_SAMPLE = 100  # rows from which a column of timestamps is recognized
TIMESTAMPS = (3e8, 4e9)  # in seconds since 1970: from 1979 to 2096
MAX_NAMED = 5  # columns or cells in a sentence
MAX_WIDTH = 30  # of a cell in a sentence

MIN_ROWS = 20  # in smaller tables, shares mean little
NEARLY_ALL = 0.9  # share of the numbers in a column of text
NEARLY_UNIQUE = 0.5  # distinct values per row: a value occurs less than twice
MOSTLY_MISSING = 0.5
MAX_CODES = 30  # distinct integers that may be codes
LONG_TAIL = 3.0  # skewness; that of an exponential distribution is 2
YEARS = (1800, 2200)

# Numbers as people write them: "1,200.50", "3,5", "$12", "12 %".
_GROUPED = re.compile(r"\s*[+-]?\d{1,3}([,.' ]\d{3})+([.,]\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+\s*")
_SYMBOLS = re.compile(r"[$€£¥₹%°]")
_CODE_NAME = re.compile(
    r"(?i)(^|[^a-z])(id|ids|code|codes|zip|zipcode|postal|postcode|plz|sku|ean|isbn)"
    r"($|[^a-z])"
)
SENTINELS = (-1, -9, -99, -999, -9999, -99999)

Facts = Sequence[ColumnFacts]
Numbers = npt.NDArray[np.float64]


def column_hints(facts: Facts) -> list[str]:
    """Returns sentences on columns that may be something else, with the options to use.

    Args:
        facts: The columns, without those whose kinds the user has chosen.
    """
    others = [x for x in facts if x.name not in ("user", "item", "day")]
    return [line for hint in _HINTS for line in hint(others)]


def looks_like_times(column: "pd.Series[Any]") -> bool:
    """Returns whether the cells of a column are times, most likely."""
    cells = column.dropna().head(MAX_SAMPLE)
    if not len(cells):
        return False
    if pd.api.types.is_datetime64_any_dtype(cells):
        return True
    if pd.api.types.is_bool_dtype(cells):
        return False
    if pd.api.types.is_numeric_dtype(cells):
        return bool(cells.between(*TIMESTAMPS).all())
    times = pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)
    # A bare year is valid ISO 8601, too, but rarely a timestamp.
    return bool(times.notna().all() and cells.astype(str).str.contains("-").all())


def _nearly_numbers(facts: Facts) -> Iterator[str]:
    for x in facts:
        bad = _no_numbers(x)
        if not bad:
            continue
        first, count = next(iter(bad)), sum(bad.values())
        yield (
            f"not numbers: {count:,} of {len(x.known):,} cells of {x.name}, "
            f"the first {cut(first, MAX_WIDTH)!r}{x.place_of(first)}, so it is "
            f"categorical; {_remedy(bad)}"
        )


def _no_numbers(x: ColumnFacts) -> dict[str, int]:
    """Returns the counts of the cells that are no numbers, if nearly all others are.

    The dict is empty for all other columns.
    """
    if x.kind != "categorical" or x.texts is None or len(x.known) < MIN_ROWS:
        return {}
    counts = dict(zip(x.texts, x.counts.tolist(), strict=True))
    bad = {text: n for text, n in counts.items() if not NUMBER.fullmatch(text)}
    unreadable = sum(n for text, n in bad.items() if not _is_written(text))
    return bad if unreadable <= (1 - NEARLY_ALL) * len(x.known) else {}


def _plain(text: str) -> str:
    return _SYMBOLS.sub("", text).strip()


def _is_written(text: str) -> bool:
    """Returns whether a text is a number as people write it."""
    plain = _plain(text)
    return any(
        pattern.fullmatch(plain) for pattern in (NUMBER, _GROUPED, _DECIMAL_COMMA)
    )


def _remedy(bad: Collection[str]) -> str:
    options = []
    written = [text for text in bad if _is_written(text)]
    plain = [_plain(text) for text in written]
    grouped = [text for text in plain if _GROUPED.fullmatch(text)]
    if grouped:
        separator = next(c for c in grouped[0] if c in ",.' ")
        options.append(f'--thousands "{separator}"')
    elif any(_DECIMAL_COMMA.fullmatch(text) for text in plain):
        options.append("--decimal ,")
    missing = [text for text in bad if text not in written]
    if missing:
        texts = " ".join(f'"{cut(text, MAX_WIDTH)}"' for text in missing[:MAX_NAMED])
        more = " ..." if len(missing) > MAX_NAMED else ""
        options.append(f"--missing {texts}{more}")
    lines = [f"{' and '.join(options)} reads them"] if options else []
    if any(_plain(text) != text.strip() for text in written):
        lines.append("for numbers, remove the symbols from the file")
    return ", and ".join(lines)


def _leading_zeros(facts: Facts) -> Iterator[str]:
    for x in facts:
        if x.kind != "categorical" or x.texts is None:
            continue
        zeros = [text for text in x.texts if has_leading_zeros(text)]
        if zeros and all(map(NUMBER.fullmatch, x.texts)):
            yield (
                f"leading zeros: {x.name} is categorical, since {zeros[0]!r}"
                f"{x.place_of(zeros[0])} would lose its zero as a number; for numbers, "
                f"--kinds {x.name}:numeric"
            )


def _nearly_unique(facts: Facts) -> Iterator[str]:
    for x in facts:
        distinct, rows = len(x.counts), len(x.known)
        is_text = x.kind == "categorical" and not looks_like_times(x.known)
        if rows < MIN_ROWS or distinct <= NEARLY_UNIQUE * rows:
            continue
        if is_text and not _no_numbers(x):
            yield (
                f"nearly unique: {x.name} has {distinct:,} distinct values in {rows:,} "
                "cells, such as an identifier or free text; leave it out with --kinds "
                f"{x.name}:none, or hash it with --kinds {x.name}:hash=N"
            )


def _times(facts: Facts) -> Iterator[str]:
    for x in facts:
        if x.kind in ("categorical", "numeric") and looks_like_times(x.known):
            yield (
                f"times: {x.name} looks like timestamps and is {x.kind}; use it with "
                f"--timestamp {x.name}, or leave it out with --kinds {x.name}:none"
            )


def _codes(facts: Facts) -> Iterator[str]:
    yield from _together(
        [x for x in facts if _are_codes(x)],
        "codes",
        "taken as numbers; if {they} {are} {codes}, --kinds {}:categorical",
        lambda x: f"{x.name} ({len(x.counts):,} distinct integers)",
    )


def _are_codes(x: ColumnFacts) -> bool:
    integers = _integers(x)
    if integers is None or looks_like_times(x.known):
        return False
    is_named_so = _CODE_NAME.search(x.name) is not None
    return is_named_so or _are_few(x, integers) or _are_ids(integers)


def _integers(x: ColumnFacts) -> Numbers | None:
    """Returns the distinct values of a column of three or more integers from 0."""
    if x.kind != "numeric" or x.numbers is None or len(x.known) < MIN_ROWS:
        return None
    distinct = np.unique(x.numbers)
    if len(distinct) < 3 or distinct[0] < 0 or (distinct % 1 != 0).any():
        return None
    return distinct


def _are_few(x: ColumnFacts, distinct: Numbers) -> bool:
    """Returns whether integers are few for their rows, and do not look like counts."""
    if len(distinct) > min(MAX_CODES, len(x.known) / 10) or _has_tail(x):
        return False
    frequencies: Numbers = np.asarray(x.counts.sort_index(), np.float64)
    return not _are_counts(frequencies, distinct)


def _are_counts(frequencies: Numbers, distinct: Numbers) -> bool:
    """Returns whether the frequencies rise to one peak and fall, up to their noise."""
    steps = np.diff(frequencies)
    noise = 3 * np.sqrt(frequencies[:-1] + frequencies[1:])
    peak = int(frequencies.argmax())
    has_one_peak = (steps >= -noise)[:peak].all() and (steps <= noise)[peak:].all()
    is_flat = frequencies[peak] < 5 * min(frequencies[0], frequencies[-1])
    return bool(has_one_peak and not is_flat and (np.diff(distinct) == 1).all())


def _are_ids(distinct: Numbers) -> bool:
    """Returns whether many integers are numbered in turn, or like zip codes."""
    if len(distinct) <= MAX_CODES or (
        YEARS[0] <= distinct[0] and distinct[-1] <= YEARS[1]
    ):
        return False
    span = distinct[-1] - distinct[0] + 1
    in_turn = distinct[0] <= 1 and span == len(distinct) and span > 200
    digits = np.floor(np.log10(np.maximum(distinct, 1)))
    # Amounts are often round, and zip codes are not.
    like_zips = digits[0] == digits[-1] >= 4 and (distinct % 10 == 0).mean() < 0.3
    return bool(in_turn or like_zips)


def _sentinels(facts: Facts) -> Iterator[str]:
    for x in facts:
        if x.kind != "numeric" or x.numbers is None or len(x.known) < MIN_ROWS:
            continue
        negative = np.unique(x.numbers[x.numbers < 0])
        if len(negative) == 1 and negative[0] in SENTINELS and len(x.counts) > 2:
            count = int((x.numbers < 0).sum())
            yield (
                f"missing: {count:,} of {len(x.known):,} cells of {x.name} are "
                f"{negative[0]:g}, its only negative number; if it stands for a "
                f"missing value, --missing {negative[0]:g}"
            )


def _few_lists(facts: Facts) -> Iterator[str]:
    for x in facts:
        if x.kind != "categorical" or x.texts is None:
            continue
        lists = [text for text in x.texts if x.separator in text]
        if lists:
            rows = int(x.counts[lists].sum())
            yield (
                f"lists: {rows:,} of {len(x.known):,} cells of {x.name} contain "
                f"{x.separator!r}, the first {cut(lists[0], MAX_WIDTH)!r}"
                f"{x.place_of(lists[0])}, too few to be lists; to split them, --kinds "
                f"{x.name}:multi_categorical"
            )


def _constant(facts: Facts) -> Iterator[str]:
    yield from _together(
        [x for x in facts if x.kind != "vector" and len(x.counts) < 2],
        "constant",
        "with one value or none; leave {them} out with --kinds {}:none",
    )


def _long_tails(facts: Facts) -> Iterator[str]:
    yield from _together(
        [x for x in facts if x.kind == "numeric" and _has_tail(x)],
        "long tail",
        "numeric; try --kinds {}:log1p or {}:quantiles=20",
        lambda x: f"{x.name} ({_range(x)})",
    )


def _range(x: ColumnFacts) -> str:
    numbers = () if x.numbers is None else x.numbers
    return f"{min(numbers, default=0):,.6g} to {max(numbers, default=0):,.6g}"


def _has_tail(x: ColumnFacts) -> bool:
    numbers = x.numbers
    if numbers is None or len(x.counts) <= 10:
        return False
    centered = numbers - numbers.mean()
    deviation = centered.std()
    if not deviation > 0:
        return False
    return bool(abs(((centered / deviation) ** 3).mean()) > LONG_TAIL)


def _mostly_missing(facts: Facts) -> Iterator[str]:
    yield from _together(
        [x for x in facts if x.missing > MOSTLY_MISSING and len(x.counts) > 1],
        "mostly missing",
        "used as {they} {are}; leave {them} out with --kinds {}:none",
        lambda x: f"{x.name} ({x.missing:.0%})",
    )


def _together(
    facts: Facts,
    hint: str,
    text: str,
    shown: Callable[[ColumnFacts], str] = lambda x: x.name,
) -> Iterator[str]:
    """Yields one sentence on several columns, if there is one."""
    if not facts:
        return
    named = ", ".join(map(shown, facts[:MAX_NAMED]))
    if len(facts) > MAX_NAMED:
        named += f" and {len(facts) - MAX_NAMED:,} more"
    one = len(facts) == 1
    words = {
        "they": "it" if one else "they",
        "them": "it" if one else "them",
        "are": "is" if one else "are",
        "codes": "a code" if one else "codes",
    }
    yield f"{hint}: {named}, {text.format(*[facts[0].name] * 2, **words)}"


_HINTS: tuple[Callable[[Facts], Iterator[str]], ...] = (
    _nearly_numbers,
    _leading_zeros,
    _nearly_unique,
    _times,
    _codes,
    _sentinels,
    _few_lists,
    _constant,
    _long_tails,
    _mostly_missing,
)
