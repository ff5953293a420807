"""Tables that are written in other ways than the usual one, through the command."""

import numpy as np
import pandas as pd
import pytest

from fmlayers import cli
from fmlayers.runs import Run

SMALL = "--model fm --dim 2 --max-epochs 1 --validation-fraction 0 --batch-size 32"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def train(folder, data, options=""):
    command = ["train", "--data", str(data), "--out", str(folder / "run")]
    assert cli.main([*command, *SMALL.split(), *options.split()]) == 0
    return Run(folder / "run")


def test_the_format_of_a_run_is_that_of_its_rows(rng, tmp_path, capsys):
    rows = [
        f"Zoë;{i % 9};{'?' if i % 7 == 3 else f'1.{i:03d},5'};a/b;{i % 5 + 1}"
        for i in range(80)
    ]
    data = tmp_path / "shop.txt"
    data.write_text("\n".join(rows), "latin-1")
    options = (
        "--separator ; --encoding latin-1 --columns user item price tags rating "
        "--missing ? --thousands . --decimal , --list-separator /"
    )
    run = train(tmp_path, data, options)
    columns = {
        "user": "categorical",
        "item": "categorical",
        "price": "numeric",
        "tags": "multi_categorical",
    }
    assert run.metrics["config"]["columns"] == columns
    assert run.encoder.vocabulary("tags") == ["a", "b"]
    assert 1000 < run.encoder.scale("price")[0] < 1100
    assert "data: shop.txt: read as missing the cells 11 of price." in run.summary()
    capsys.readouterr()
    command = ["predict", str(run.path), "--data"]
    assert cli.main([*command, str(data)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 81
    assert printed[0] == "user,item,price,tags,rating,prediction"
    assert printed[1].startswith("Zoë,0,1000.5,a/b,1,")
    assert run.evaluate(k=2).text()  # reads the data again

    plain = run.read_rows(data).rename(columns={"tags": "labels"})
    plain["tags"] = plain.pop("labels").str.replace("/", "|")
    plain.to_csv(tmp_path / "plain.csv", index=False)
    header = (tmp_path / "plain.csv").read_text().split("\n", 1)
    (tmp_path / "plain.csv").write_text(header[1])
    other = "--separator , --encoding utf-8 --decimal . --thousands _ --columns"
    options = [*other.split(), *header[0].split(","), "--list-separator", "|"]
    assert cli.main([*command, str(tmp_path / "plain.csv"), *options]) == 0
    again = capsys.readouterr().out.splitlines()
    assert [x.split(",")[-1] for x in again] == [x.split(",")[-1] for x in printed]


def test_weights_in_a_second_column(rng, tmp_path, capsys):
    shares = rng.random(60).round(3)
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 5, 60),
            "item": rng.integers(0, 9, 60),
            "tags": "a|b",
            "shares": [f"{x}|{1 - x:.3f}" for x in shares],
            "rating": shares,
        }
    )
    table.to_csv(tmp_path / "shop.csv", index=False)
    run = train(tmp_path, tmp_path / "shop.csv", "--weights-of tags=shares")
    assert run.encoder.weights == {"tags": "shares"}
    kinds = {"user": "categorical", "item": "categorical", "tags": "weighted"}
    assert run.encoder.columns == kinds
    (described,) = [x for x in run.summary().splitlines() if x.startswith("tags ")]
    assert " ".join(described.split()) == "tags weighted by shares 2 0 % a|b"
    np.testing.assert_allclose(run.inputs(table)["shares"][:, 0], shares, rtol=1e-6)
    assert len(run.recommend(["1"], 3, include_seen=True)) == 3
    assert run.explain("1", "2").text()
    capsys.readouterr()
    command = ["predict", str(run.path), "--data", str(tmp_path / "shop.csv")]
    assert cli.main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 61
    table.drop(columns="shares").to_csv(tmp_path / "bad.csv", index=False)
    assert cli.main([*command[:-1], str(tmp_path / "bad.csv")]) == 1
    assert "lack the column 'shares'" in capsys.readouterr().err


def test_lone_quotation_marks_swallow_no_line(tmp_path, capsys):
    lines = [f"{i % 4},disc {i},{i % 5}" for i in range(20)]
    good = tmp_path / "good.csv"
    good.write_text("\n".join(["user,item,rating", *lines, ""]))
    run = train(tmp_path, good)
    capsys.readouterr()
    lines[5], lines[14] = '1,"disc,0', '2,12",4'
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(["user,item,rating", *lines, ""]))
    message = "bad.csv, line 7: a field in quotation marks spans 10 lines that may be"
    predict = ["predict", str(run.path), "--data", str(bad)]
    training = ["train", "--data", str(bad), "--out", str(tmp_path / "second")]
    for command in (predict, training):
        assert cli.main(command) == 1
        assert message in capsys.readouterr().err
    assert cli.main([*predict, "--quoting", "never"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21


def test_formulas_are_escaped(rng, tmp_path, capsys):
    items = rng.choice(["=1+1", "@b", "c"], 60)
    table = pd.DataFrame({"user": rng.integers(0, 9, 60), "item": items, "rating": 1.5})
    table["tags"] = [("=a", "b")] * 60
    table.to_parquet(tmp_path / "shop.parquet")
    run = train(tmp_path, tmp_path / "shop.parquet", "--task implicit")
    capsys.readouterr()
    predict = ["predict", str(run.path), "--data", str(tmp_path / "shop.parquet")]
    assert cli.main(predict) == 0
    printed = capsys.readouterr().out
    assert ",=a|b," in printed
    assert "'" not in printed
    assert cli.main([*predict, "--escape-formulas"]) == 0
    printed = capsys.readouterr().out
    assert ",'=a|b," in printed
    out = tmp_path / "out.csv"
    assert cli.main([*predict, "--escape-formulas", "--out", str(out)]) == 0
    assert out.read_text() == printed
    recommend = ["recommend", str(run.path), "--users", "all", "--csv", str(out)]
    recommend += ["--include-seen", "--layout"]
    for layout in ("long", "wide"):
        assert cli.main([*recommend, layout]) == 0
        plain = out.read_text()
        assert "'" not in plain
        assert cli.main([*recommend, layout, "--escape-formulas"]) == 0
        text = out.read_text()
        assert ",'=1+1" in text or ",'@b" in text
        assert text.replace("'", "") == plain
