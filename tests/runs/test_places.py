"""Cells that cannot be encoded are named with their file and line."""

import pandas as pd
import pytest

from fmlayers import cli
from fmlayers.data import DataError, Dataset
from fmlayers.runs import TrainingConfig, train

SMALL = {"dim": 2, "max_epochs": 1, "validation_fraction": 0.0, "batch_size": 16}
GOOD = {"price": "1.5", "tags": "a:1|b:2", "text": "0.5|0.25"}
BAD = {"price": "$12", "tags": "a:1|b", "text": "0.5|0.25|1"}
FEATURES = ["user", "price:numeric", "tags:weighted", "text:vector"]


def write(path, bad=None, line=None):
    lines = ["user,item,rating,price,tags,text", ""]
    for i in range(30):
        cells = dict(GOOD)
        if line == len(lines) + 1:
            cells[bad] = BAD[bad]
        lines.append(f"{i % 3},{i},{i % 5}," + ",".join(cells.values()))
        if i == 20:
            lines.append(lines[-1])  # a duplicate, which is dropped
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("column", BAD)
@pytest.mark.parametrize("line", [3, 17, 33])
def test_training(column, line, tmp_path):
    """The row is one of the training or of the test rows, after a blank line."""
    data = write(tmp_path / "shop.csv", column, line)
    config = TrainingConfig(
        data=str(data), features=FEATURES, on_duplicate="last", **SMALL
    )
    match = rf"^shop\.csv, line {line}(, \w+ \w+)?: column '{column}' .*"
    with pytest.raises(DataError, match=match):
        train(config, tmp_path / "run")


def test_prediction(tmp_path, capsys):
    data = write(tmp_path / "shop.csv")
    config = TrainingConfig(data=str(data), features=FEATURES, **SMALL)
    run = train(config, tmp_path / "run")
    capsys.readouterr()
    for column in BAD:
        path = write(tmp_path / "rows.csv", column, 9)
        assert cli.main(["predict", str(run.path), "--data", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"fmlayers: rows.csv, line 9: column '{column}' must")


def test_tables_in_memory(tmp_path):
    table = pd.read_csv(write(tmp_path / "shop.csv"))
    table["tags"] = [*["a:1"] * 20, "a", *["a:1"] * (len(table) - 21)]
    config = TrainingConfig(features=["user", "tags:weighted"], **SMALL)
    with pytest.raises(DataError, match="row 20.*: column 'tags' must contain"):
        train(config, tmp_path / "run", dataset=Dataset("mine", table))
    with pytest.raises(DataError, match="ratings, row 20: column 'tags' must contain"):
        train(config, tmp_path / "run", dataset=table)
