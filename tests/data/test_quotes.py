"""Quotation marks: no line of a CSV file disappears inside a field."""

import csv as csv_module
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmlayers.data import (
    DataError,
    TableFormat,
    load_movielens,
    read_ratings,
    read_table,
)
from fmlayers.data.csv_files import line_of, read_csv
from fmlayers.data.quotes import check_quotes
from fmlayers.data.records import records

NEVER = TableFormat(quoting="never")
ALWAYS = TableFormat(quoting="always")


def read(text, table_format=TableFormat()):  # noqa: B008
    frame = read_csv(text.encode(), "t.csv", table_format)
    return frame.astype(object).where(frame.notna(), "").to_numpy().tolist()


def written(rows, **options):
    file = io.StringIO()
    csv_module.writer(file, **options).writerows(rows)
    return file.getvalue()


def fault_of(text, table_format, rows):
    """Return the error of reading a text, "" if it has the rows."""
    try:
        result = read(text, table_format)
    except DataError as error:
        return str(error)
    assert len(result) == len(rows)
    return ""


cell = st.text(st.sampled_from('ab",;\n\r \té'), max_size=6)


@st.composite
def tables(draw, cells=cell):
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1))
    return [[f"c{i}" for i in range(width)], *rows]


@given(
    tables(),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([csv_module.QUOTE_ALL, csv_module.QUOTE_MINIMAL]),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(deadline=None, max_examples=300)
def test_what_a_writer_wrote_is_read_equal(rows, separator, quoting, end):
    # Before Python 3.13, `csv` quotes no carriage return by itself.
    if any("\r" in x for row in rows for x in row):
        quoting = csv_module.QUOTE_ALL
    text = written(rows, delimiter=separator, quoting=quoting, lineterminator=end)
    lone_blanks = [
        row for row in rows if len(row) == 1 and not row[0].strip(" \t") and row[0]
    ]
    if lone_blanks and quoting == csv_module.QUOTE_MINIMAL:
        return  # a blank line
    table_format = TableFormat(quoting="always", separator=separator)
    assert read(text, table_format) == rows[1:]
    lines = [line_of(text.encode(), "t", table_format, i) for i in range(len(rows) - 1)]
    assert lines == sorted(set(lines))
    fault = fault_of(text, TableFormat(separator=separator), rows[1:])
    assert "that may be rows" in fault or not fault


@given(tables(st.text(st.sampled_from("ab1 é"), max_size=5)), st.data())
@settings(deadline=None, max_examples=300)
def test_lone_quotation_marks_lose_no_row(rows, data):
    """Rows in, rows out, or an error that names a line."""
    for _ in range(data.draw(st.integers(1, 4))):
        row = data.draw(st.sampled_from(rows[1:]))
        column = data.draw(st.integers(0, len(row) - 1))
        at = data.draw(st.integers(0, len(row[column])))
        row[column] = f'{row[column][:at]}"{row[column][at:]}'
    kept = [row for row in rows[1:] if len(row) > 1 or row[0].strip()]
    text = "".join(",".join(row) + "\n" for row in rows)
    assert read(text, NEVER) == kept if kept else True
    fault = fault_of(text, TableFormat(), kept)
    assert "t.csv, line " in fault or not (fault and kept)


RATED = [f"{i},disc {i},{i % 5}" for i in range(20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({5: '5,12" disc,1'}, None),
        ({5: '5,"disc,1', 12: '12,"disc,2'}, "line 14: text follows the closing"),
        ({5: '5,"disc,1', 12: '12,disc",2'}, "line 7: a field .* spans 8 lines"),
        ({5: '5,"disc,1', 12: '12,12",2'}, "line 7: a field .* spans 8 lines"),
        ({5: '5,"disc,1'}, "line 7: a quotation mark is never closed"),
        ({5: '"5,disc,1', 19: '19,disc,4"'}, "line 7: a field .* spans 15 lines"),
        ({5: '5,"disc" 5,1'}, "line 7: text follows the closing quotation mark"),
        ({5: '5,"disc" ,1'}, "line 7: text follows the closing"),
        ({5: '5, "disc" 5,1'}, None),
        ({5: '5,a,"1"', 6: '6,"a ""b""",1', 7: '7,"a,b",1'}, None),
        ({5: '5,"two\nlines",1'}, None),
        ({5: '5,"disc,1', 6: '6,"a, b",2'}, "line 8: text follows the closing"),
        ({5: '5,"disc,1', 12: '12,disc","2"'}, "line 7: a field .* spans 8 lines"),
    ],
)
def test_lone_quotation_marks(changes, message, tmp_path):
    rows = [changes.get(i, row) for i, row in enumerate(RATED)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["user,item,rating", *rows, ""]))
    if message is None:
        assert len(read_ratings(path).ratings) == 20
        return
    with pytest.raises(DataError, match=rf"t\.csv, {message}.*`quoting`"):
        read_ratings(path)
    if all(row.count(",") == 2 and row.count('"') < 2 for row in rows):
        assert len(read_table(path, table_format=NEVER)) == 20


def test_a_field_of_several_lines_that_may_be_rows():
    text = 'text,n\n"one,\ntwo",3\n'
    with pytest.raises(DataError, match='t.csv, line 2: .* set it to "always"'):
        read(text)
    assert read(text, ALWAYS) == [["one,\ntwo", "3"]]
    assert read(text, NEVER) == [['"one', ""], ['two"', "3"]]


@pytest.mark.parametrize("mark", ["", '"'])
def test_long_fields(mark):
    text = f"a,b\n{mark}{'x' * 200_000}{mark},1\n2,y"
    assert len(read(text + "\n")) == 2
    with pytest.raises(DataError, match=r"t\.csv, line 3: expected 2 .* read 3"):
        read(text + ",z\n")


def test_a_movielens_title_swallows_no_line(make_movielens):
    movies = 'movieId,title,genres\n10,A,x\n20,"B,x\n30,C",x\n'
    path = make_movielens("ml-latest", files={"movies.csv": movies})
    with pytest.raises(DataError, match=r"movies\.csv, line 3: a field .* 2 lines"):
        load_movielens(path)


def test_files_that_pass_are_read_equally_by_both_parsers(rng):
    """Random text is refused, or pandas and `csv` read the same fields."""
    passed = 0
    for _ in range(3000):
        text = "a,b\n" + "".join(rng.choice(list('xy,"\n\r'), rng.integers(24)))
        try:
            check_quotes(text.encode(), "t", ",", strict=False)
        except DataError:
            continue
        expected = [fields for _, fields in records(text, "t", ",")]
        if {len(fields) for fields in expected} == {2} and expected[1:]:
            assert read(text, ALWAYS) == expected[1:]
            passed += 1
    assert passed > 50
