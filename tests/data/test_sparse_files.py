"""Files of libsvm, libFM and libFFM, read and written."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fmlayers import cli
from fmlayers.data import (
    DataError,
    Dataset,
    TableFormat,
    infer_columns,
    load,
    read_ratings,
    read_table,
    write_sparse,
)
from fmlayers.runs import Run

FRAPPE = Path(os.environ.get("FMLAYERS_DATA", "")) / "frappe" / "frappe.test.libfm"
LIBSVM = """# a comment
+1 1:0.5 7:1 # another one

-1 2:-3e-1
1
"""
LIBFFM = "1 0:3:1 1:9:0.5 1:11:0.25\n0 0:4:1\n1 1:9:1 2:20:1\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="a.txt"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_libsvm(write):
    data = load(str(write(LIBSVM)), needs_pairs=False)
    assert data.ratings["rating"].tolist() == [1.0, -1.0, 1.0]
    assert data.ratings["features"].tolist() == [
        (("1", 0.5), ("7", 1.0)),
        (("2", -0.3),),
        (),
    ]
    assert infer_columns(data) == {"features": "weighted"}
    labels = load(str(write(LIBSVM)), needs_pairs=False, is_label=True)
    assert labels.ratings["rating"].tolist() == [1.0, 0.0, 1.0]


def test_queries(write):
    data = load(str(write("2 qid:7 1:1\n0 qid:8 3:1\n")), needs_pairs=False)
    assert data.ratings["qid"].astype(str).tolist() == ["7", "8"]
    with pytest.raises(DataError, match=r"a\.txt, line 2: there is no qid"):
        load(str(write("2 qid:7 1:1\n0 3:1\n")), needs_pairs=False)


def test_libffm(write):
    path = write(LIBFFM)
    data = read_ratings(path, needs_pairs=False)
    ratings = data.ratings
    assert list(ratings) == ["rating", "field_0", "field_1", "field_2"]
    known = ratings["field_0"].astype(object).where(ratings["field_0"].notna(), None)
    assert known.tolist() == ["3", "4", None]
    assert ratings["field_1"].tolist() == [
        (("9", 0.5), ("11", 0.25)),
        (),
        (("9", 1.0),),
    ]
    assert infer_columns(data) == {
        "field_0": "categorical",
        "field_1": "weighted",
        "field_2": "categorical",
    }
    names = TableFormat(columns=["clicked", "device", "words", "ad"])
    table = read_table(path, table_format=names, weighted_columns=["device"])
    assert list(table) == ["clicked", "device", "words", "ad"]
    assert table["device"].tolist() == [(("3", 1.0),), (("4", 1.0),), ()]
    with pytest.raises(DataError, match="`columns` must name the 4 columns"):
        read_table(path, table_format=TableFormat(columns=["a", "b"]))


def test_users_and_items_of_libffm(write):
    text = "5 0:3:1 1:9:1\n4 0:4:1 1:9:1\n"
    data = load(str(write(text)), user="field_0", item="field_1")
    assert data.ratings.to_dict("list") == {
        "user": ["3", "4"],
        "item": ["9", "9"],
        "rating": [5.0, 4.0],
    }
    with pytest.raises(DataError, match=r"line 2: the user in column 'field_0' is mis"):
        load(str(write("5 0:3:1 1:9:1\n4 1:9:1\n")), user="field_0", item="field_1")
    with pytest.raises(DataError, match=r"line 2: column 'field_0' must have at most"):
        load(
            str(write("5 0:3:1 1:9:1\n4 0:3:2 1:9:1\n")), user="field_0", item="field_1"
        )


@pytest.mark.parametrize(
    ("text", "format", "match"),
    [
        ("1 1:2\n0 3\n", "auto", r"line 2: expected INDEX:VALUE .* read '3'"),
        ("1 1:2\n\n0 1:x\n", "auto", r"line 3: expected INDEX:VALUE .* read '1:x'"),
        ("1 1:2\n0 -1:2\n", "auto", r"line 2: expected INDEX:VALUE"),
        ("1 1:2\n0 1:nan\n", "auto", r"line 2: expected INDEX:VALUE"),
        ("1 1:2\n0 1:1e999\n", "auto", r"line 2: expected INDEX:VALUE"),
        ("1 1:2\n0 1:2:3\n", "auto", r"line 2: expected INDEX:VALUE .* '1:2:3'"),
        ("1 1:2\ngood 1:2\n", "auto", r"line 2: the target of .* read 'good'"),
        ("1 0:1:2\n0 1:2\n", "auto", r"line 2: expected FIELD:INDEX:VALUE .* '1:2'"),
        ("1 0:1:2\n0 a:1:2\n", "auto", r"line 2: expected FIELD:INDEX:VALUE"),
        ("user,item\n1,2\n", "libsvm", r"line 1: the target of a file of libsvm"),
        ("1,2 1:1\n", "libsvm", r"line 1: the target of a file of libsvm"),
        ("# nothing\n", "libfm", r"a\.txt is empty"),
    ],
)
def test_lines_that_cannot_be_read_error(text, format, match, write):
    with pytest.raises(DataError, match=match):
        read_table(write(text), table_format=TableFormat(format=format))


def test_the_format_is_recognized_by_the_first_line(write):
    assert list(read_table(write("user,item\n1,2\n"))) == ["user", "item"]
    assert list(read_table(write("1 1:2\n"))) == ["rating", "features"]
    one_column = TableFormat(format="csv")
    assert list(read_table(write("1 1:2\n1 2:3\n"), table_format=one_column)) == [
        "1 1:2"
    ]
    only_targets = TableFormat(format="libfm")
    table = read_table(write("1\n2\n"), table_format=only_targets)
    assert table["features"].tolist() == [(), ()]


ONE_HOT = "5 3:1 9:1\n4 4:1 9:1\n"


def test_the_positions_of_one_hot_indices_are_columns(write):
    data = load(str(write(ONE_HOT)), needs_pairs=False)
    assert data.ratings["field_0"].tolist() == ["3", "4"]
    assert data.ratings["field_1"].tolist() == ["9", "9"]
    assert data.repairs == (
        "a.txt: each line has 2 indices with the value 1, read as 2 columns.",
    )
    names = TableFormat(columns=["stars", "who", "what"])
    rated = load(
        str(write(ONE_HOT)), user="who", item="what", rating="stars", table_format=names
    )
    assert rated.ratings["user"].tolist() == ["3", "4"]
    fields = ["field_0", "field_1"]
    for line, match in (
        ("1 3:1", "expected 2 indices"),
        ("1 3:1 9:2", "column 'field_1' must have at most"),
        ("1 3:1 4:1", None),  # 4 at another position
    ):
        path = write(f"{ONE_HOT}{line}\n")
        assert list(read_table(path)) == ["rating", "features"]
        if match is None:
            assert read_table(path, text_columns=fields)["field_1"][2] == "4"
            continue
        with pytest.raises(DataError, match=rf"a\.txt, line 3: {match}"):
            read_table(path, text_columns=fields)
    table = read_table(write(ONE_HOT), text_columns=["features"])
    assert table["features"].tolist()[0] == (("3", 1.0), ("9", 1.0))


@pytest.mark.skipif(not FRAPPE.is_file(), reason="FMLAYERS_DATA has no frappe")
def test_a_real_file_of_libfm():
    data = load(str(FRAPPE), needs_pairs=False, is_label=True)
    assert data.ratings.shape == (57_720 // 2, 11)
    assert set(infer_columns(data).values()) == {"categorical"}


TABLE = pd.DataFrame(
    {
        "rating": [1.0, 0.5, 3.25, -2.0],
        "color": ["red", None, "blue", "red"],
        "tags": [("a", "b"), (), ("b",), ("c", "a")],
        "price": [1.5, np.nan, -2.0, 1e-3],
        "words": [(("x", 0.1),), (("y", 2.0), ("x", 1.0)), (), (("y", 1.0),)],
        "vector": [(0.5, 0.3), (1.0, 0.0), (0.125, 2.0), (4.0, 8.0)],
    }
)


@pytest.mark.parametrize("format", ["libffm", "libfm", "libsvm"])
def test_what_is_written_is_read(format, tmp_path):
    data = Dataset("mine", TABLE)
    kinds = infer_columns(data)
    names = write_sparse(data, tmp_path / "data.txt", kinds, format)
    first = (tmp_path / "data.txt").read_text().split("\n", 1)[0]
    index = pd.read_csv(names, keep_default_na=False).set_index("index")
    assert index.index[0] == (format == "libsvm")
    assert index.index.is_unique
    read = read_table(
        tmp_path / "data.txt",
        weighted_columns=[f"field_{i}" for i in range(6)],
        table_format=TableFormat(format=format),
    )
    assert read["rating"].tolist() == TABLE["rating"].tolist()
    pairs = [
        {
            (index.loc[int(i), "column"], index.loc[int(i), "value"]): value
            for column in read.columns[1:]
            for i, value in row[column]
        }
        for _, row in read.iterrows()
    ]
    assert pairs[0] == {
        ("color", "red"): 1,
        ("tags", "a"): 1,
        ("tags", "b"): 1,
        ("price", ""): 1.5,
        ("words", "x"): 0.1,
        ("vector", "0"): 0.5,
        ("vector", "1"): 0.3,
    }
    assert pairs[1] == {
        ("words", "x"): 1,
        ("words", "y"): 2,
        ("vector", "0"): 1,
        ("vector", "1"): 0,
    }
    assert [pair.get(("price", "")) for pair in pairs] == [1.5, None, -2.0, 1e-3]
    if format == "libffm":
        assert first == "1 0:0:1 1:2:1 1:3:1 2:5:1.5 3:6:0.1 4:8:0.5 4:9:0.3"
        assert index["field"].tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 4, 4]


def test_the_command_converts_trains_and_predicts(tmp_path, capsys):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "clicked": rng.choice(["no", "yes"], 80),
            "device": rng.choice(["tv", "phone"], 80),
            "age": rng.integers(20, 60, 80),
        }
    )
    table.to_csv(tmp_path / "clicks.csv", index=False)
    task = ["--task", "binary"]
    out = tmp_path / "clicks.ffm"
    command = ["convert", "--data", str(tmp_path / "clicks.csv"), "--out", str(out)]
    assert cli.main([*command, *task, "--target", "clicked"]) == 0
    assert str(out) in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 80
    parts = [tmp_path / "train.ffm", tmp_path / "test.ffm"]
    command += [*task, "--target", "clicked"]
    command[4] = str(parts[0])
    assert cli.main([*command, "--test-out", str(parts[1])]) == 0
    assert [len(path.read_text().splitlines()) for path in parts] == [64, 16]
    lines = sorted(line for path in parts for line in path.read_text().splitlines())
    assert lines == sorted(out.read_text().splitlines())
    small = ["--dim", "2", "--max-epochs", "1", "--validation-fraction", "0"]
    command = ["train", "--data", str(out), "--out", str(tmp_path / "run")]
    assert cli.main([*command, *task, *small]) == 0
    run = Run(tmp_path / "run")
    assert run.encoder.columns == {"field_0": "categorical", "field_1": "weighted"}
    capsys.readouterr()
    # A row without the second field, and one with its value 1 alone.
    (tmp_path / "rows.ffm").write_text("0 0:0:1\n0 0:1:1\n")
    (tmp_path / "more.ffm").write_text("0 0:0:1 1:2:1\n")
    for name, count in (("rows.ffm", 2), ("more.ffm", 1), ("clicks.ffm", 80)):
        assert cli.main(["predict", str(run.path), "--data", str(tmp_path / name)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == count + 1
    (tmp_path / "bad.ffm").write_text("0 0:0:1\n0 0:0:1 0:1:1\n")
    assert cli.main(["predict", str(run.path), "--data", str(tmp_path / "bad.ffm")])
    assert "bad.ffm, line 2: column 'field_0' must" in capsys.readouterr().err
