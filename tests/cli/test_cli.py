import contextlib
import io
import sys

import numpy as np
import pandas as pd
import pytest

from fmlayers import cli
from fmlayers.cli.command import parser
from fmlayers.data import synthetic
from fmlayers.runs import Run, TrainingConfig

RENAMED = {"user": "who", "item": "what", "rating": "stars"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run, what training it printed, and its ratings."""
    folder = tmp_path_factory.mktemp("cli")
    ratings = synthetic(num_users=50, num_items=40, num_ratings=1000).ratings
    ratings = ratings.rename(columns=RENAMED)
    # 007 isn't 7, and columns have an order of their own.
    ratings["who"] = "00" + ratings["who"].astype(str)
    ratings = ratings[["what", "timestamp", "stars", "who"]]
    ratings.to_csv(folder / "shop.csv", sep=";", index=False)
    options = f"""
        --data {folder / "shop.csv"} --separator ; --user who --item what
        --rating stars --model mf --dim 4 --max-epochs 2 --batch-size 128
        --validation-fraction 0 --seed 7 --out {folder / "run"}
    """
    with (
        contextlib.redirect_stdout(io.StringIO()) as printed,
        contextlib.redirect_stderr(io.StringIO()) as progress,
    ):
        assert cli.main(["train", *options.split()]) == 0
    (folder / "progress.txt").write_text(progress.getvalue())
    return folder / "run", printed.getvalue(), ratings


def write(path, table, **options):
    table.to_csv(path, index=False, **options)
    return str(path)


def test_train_prints_the_summary(trained):
    run, printed, _ = trained
    summary = (run / "summary.txt").read_text()
    assert printed == f"{summary}\nwritten to {run}\n"
    assert f"mf on {run.parent / 'shop.csv'}, split random, seed 7" in printed
    assert f"{Run(run).metrics['rmse']:8.4f}" in printed


def test_train_says_what_the_columns_are_before_it_begins(trained):
    run, printed, _ = trained
    known = [Run(run).encoder.vocabulary(name) for name in ("user", "item")]
    assert [*map(len, known)] == [50, 40]
    header, users, items, left_out, epoch, *_ = (
        (run.parent / "progress.txt").read_text().splitlines()
    )
    assert header == "column  kind         values  missing  example"
    assert users.startswith("user    categorical      50      0 %  ")
    assert items.startswith("item    categorical      40      0 %  ")
    assert left_out == (
        "left out: timestamp, day (no feature uses them; --features names the columns "
        "to use)"
    )
    assert epoch.startswith("refit 1:")
    described = "\n".join((header, users, items, left_out))
    assert described in (run / "summary.txt").read_text()
    assert described in printed


def test_no_file_of_a_run_names_its_folder(trained):
    run, _, _ = trained
    for path in run.iterdir():
        assert str(run).encode() not in path.read_bytes(), path


def test_options_become_the_configuration(trained):
    run, _, _ = trained
    expected = TrainingConfig(
        data=str(run.parent / "shop.csv"),
        separator=";",
        user="who",
        item="what",
        target="stars",
        model="mf",
        dim=4,
        max_epochs=2,
        batch_size=128,
        validation_fraction=0.0,
        seed=7,
    ).to_dict()
    found = Run(run).metrics["config"]
    assert {name: found[name] for name in expected} == expected


def test_every_setting_has_an_option():
    command = """
        train --out r --data d --user a --item b --target c --timestamp t --separator ;
        --features x y:numeric --min-count 2 --split time --test-fraction .3
        --validation-fraction .4 --seed 5 --model deepfm --dim 6 --l2 .7 --linear-l2 .8
        --scaler sigmoid --learning-rate .9 --batch-size 10 --max-epochs 11
        --patience 12 --no-refit --histories --members 2 --loss bpr --negatives 7
        --l2-of age=.5 sex=2 --init-stddev .05 --optimizer lazy_adam
        --hidden-units 8 4 --dropout .3 --combiner sum --task implicit
        --positive-threshold 4 --on-duplicate sum --encoding latin-1 --columns a b
        --quoting never --missing - ? --thousands . --decimal , --list-separator /
        --format csv --kinds z:log1p --weights-of genres=shares --users u --items i
        --user-key v --item-key j --user-columns age --item-columns year --test t
        --validation w --positive-labels yes --positive-weight 2 --weight share
        --target-transform log1p --method gibbs --sweeps 30 --chains 2 --row-wise
    """
    options = vars(parser().parse_args(command.split()))
    default = TrainingConfig().to_dict()
    assert set(default) <= set(options)
    assert not [name for name, value in default.items() if options[name] == value]
    # They exclude the options of a split, or belong to another task or method.
    others = {"test", "validation", "method", "sweeps", "chains"}
    others |= {"positive_labels", "positive_weight", "target_transform"}
    values = {name: options[name] for name in default if name not in others}
    config = TrainingConfig(**values)
    assert config.l2_of == {"age": 0.5, "sex": 2.0}
    assert config.weights_of == {"genres": "shares"}
    former = parser().parse_args(["train", "--out", "r", "--rating", "stars"])
    assert former.target == "stars"


@pytest.mark.parametrize("to_file", [False, True])
def test_predict_rates_each_row_in_order(to_file, trained, tmp_path, capsys):
    run, _, ratings = trained
    rows = pd.concat([ratings[::-1], ratings.iloc[:10]])  # some of them twice
    rows = rows.assign(note=[f'row "{i}", so' for i in range(len(rows))])
    data = write(tmp_path / "rows.csv", rows, sep=";")  # the format of the run
    command = ["predict", str(run), "--data", data]
    if to_file:
        command += ["--out", str(tmp_path / "out.csv")]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (printed == "") == to_file
    text = (tmp_path / "out.csv").read_text() if to_file else printed
    table = pd.read_csv(io.StringIO(text))
    assert table["note"].tolist() == rows["note"].tolist()
    np.testing.assert_array_equal(table["stars"], rows["stars"])
    assert table.columns.tolist() == [*rows.columns, "prediction"]
    # Ratings on the scale of the data, and those of the model.
    assert table["prediction"].between(1, 5).all()
    assert table["prediction"].std() > 0.1
    renamed = rows.rename(columns={"who": "user", "what": "item"})
    np.testing.assert_allclose(
        table["prediction"], Run(run).predict(renamed), rtol=1e-5
    )
    inputs = Run(run).encoder.transform(renamed)
    assert min(inputs["user"].min(), inputs["item"].min()) >= -1
    assert (inputs["user"] > 0).mean() > 0.9


def test_predict_replaces_no_column(trained, tmp_path, capsys):
    rows = trained[2].head(3).assign(prediction=[1, 2, 3])
    data = write(tmp_path / "rows.csv", rows, sep=";")
    assert cli.main(["predict", str(trained[0]), "--data", data]) == 1
    captured = capsys.readouterr()
    assert "rows.csv has a column 'prediction', which the result would" in captured.err
    assert captured.out == ""


def test_predict_rates_what_it_has_not_seen(trained, tmp_path, capsys):
    run, _, _ = trained
    path = tmp_path / "rows.csv"
    path.write_text("who|what\nnobody|1\n7|1\n007|none\n|1\n007|1\n")
    assert cli.main(["predict", str(run), "--data", str(path), "--separator", "|"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["prediction"].between(1, 5).all()
    predicted = table["prediction"].to_numpy()
    np.testing.assert_allclose(predicted[0], predicted[1])  # 7 isn't 007
    assert predicted[4] != predicted[0]


def test_predict_reads_parquet(trained, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    run, _, ratings = trained
    outputs = []
    for name in ("rows.csv", "rows.parquet"):
        rows = ratings[["who", "what"]].iloc[:20]
        if name.endswith("csv"):
            write(tmp_path / name, rows, sep=";")
        else:
            rows.to_parquet(tmp_path / name)
        assert cli.main(["predict", str(run), "--data", str(tmp_path / name)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "rows.csv: there is no such file."),
        ("", "rows.csv is empty."),
        ("who,what\n1,2\n1,2,3\n", "rows.csv, line 3: expected 2 fields separated by"),
        ('who,what\n1,"2\n', "rows.csv, line 2: a quotation mark is never closed"),
        (b"who,what\n\xff,1\n", "rows.csv, line 2: expected UTF-8, read the byte 0xff"),
        ("who\n1\n", "The rows lack the column 'item'"),
        ("who;what\n1;2\n", "The rows have ['who;what']. Is `separator` right?"),
    ],
)
def test_predict_refuses_bad_rows(content, message, trained, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = tmp_path / "out.csv"
    command = ["predict", str(trained[0]), "--data", str(path), "--out", str(out)]
    assert cli.main([*command, "--separator", ","]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fmlayers: ")
    assert message in captured.err
    assert not out.exists()


def test_predict_errors(trained, tmp_path, capsys):
    run, _, ratings = trained
    rows = write(tmp_path / "rows.csv", ratings.iloc[:2], sep=";")
    for arguments, message in (
        ([str(tmp_path), "--data", rows], f"{tmp_path} is not a finished run."),
        ([str(run), "--data", rows, "--separator", "::"], "must be one character"),
        (
            [str(run), "--data", rows, "--out", str(tmp_path / "no" / "out.csv")],
            f"there is no folder {tmp_path / 'no'}.",
        ),
    ):
        assert cli.main(["predict", *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("user,item,rating\n1,2,5\n1,3,good\n", "", "shop.csv, line 3: the rating in"),
        ("user,item,rating\n,2,5\n", "", "shop.csv, line 2: the user in column"),
        ("uid,item,rating\n1,2,5\n", "--user u", "has no column 'u' for `user`. Its c"),
        ("uid,item,rating\n1,2,5\n", "--loss bpr", "has no column 'user' for `user`. "),
        ("user,item,rating\n1,2,5\n", "--features age", "Feature 'age' is not among"),
        ("user,item,rating\n1,2,5\n", "--split u1", "shop has no fold 'u1'"),
        ("user,item,rating\n1,2,5\n", "--max-epochs 0", "`max_epochs` must be"),
        (
            "user,item,rating\n1,2,5\n1,3,4\n2,2,1\n",
            "--resume",
            "no interrupted run to",
        ),
        (
            "user,item,rating\n1,2,5\n1,3,4\n",
            "",
            "must leave at least one training row",
        ),
    ],
)
def test_train_refuses_bad_input(content, options, message, tmp_path, capsys):
    (tmp_path / "shop.csv").write_text(content)
    command = ["train", "--data", str(tmp_path / "shop.csv"), *options.split()]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fmlayers: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


def test_train_refuses_a_finished_run(trained, tmp_path, capsys):
    run, _, _ = trained
    data = str(run.parent / "shop.csv")
    command = ["train", "--data", data, "--separator", ";", "--user", "who"]
    command += ["--item", "what", "--rating", "stars", "--out", str(run)]
    before = (run / "metrics.json").read_bytes()
    assert cli.main(command) == 1
    assert "holds a finished run" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before


def test_debug_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(ValueError, match="is not a finished run"):
        cli.main(["--debug", "predict", str(tmp_path), "--data", "rows.csv"])


def test_a_missing_package_is_named(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    command = ["predict", str(trained[0]), "--data", str(tmp_path / "rows.parquet")]
    assert cli.main(command) == 1
    assert "install it with `pip install fmlayers[parquet]`" in capsys.readouterr().err


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_interruption_says_how_to_resume(is_begun, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fmlayers.runs.train", interrupted)
    if is_begun:
        (tmp_path / "run.partial").mkdir()
        (tmp_path / "run.partial" / "config.json").write_text("{}")
    assert cli.main(["train", "--out", str(tmp_path / "run")]) == 130
    hint = "; resume with --resume" if is_begun else ""
    assert capsys.readouterr().err == f"fmlayers: interrupted{hint}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "serve",
        "train",
        "train --out r --model svd",
        "train --out r --dim four",
        "train --out r --scaler tanh",
        "predict",
        "predict r",
        "predict r --data d --no-such-option",
    ],
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(arguments.split())
    assert info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: fmlayers")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["train", "predict", "--debug"]),
        ("train", ["--out RUN", "--resume", "--overwrite", "--no-refit", "ml-100k"]),
        ("predict", ["RUN", "--data FILE", "--separator"]),
    ],
)
def test_help(command, words, capsys):
    with pytest.raises(SystemExit) as info:
        cli.main([*command.split(), "--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert not [word for word in words if word not in printed]


def test_the_input_is_not_overwritten(trained, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("user,item\n1,1\n")
    command = ["predict", str(trained[0]), "--data", str(path), "--out", str(path)]
    assert cli.main(command) == 1
    assert "`--out` must not be the input" in capsys.readouterr().err
    assert path.read_text() == "user,item\n1,1\n"


def test_tabs_can_be_named_and_unknown_rows_are_counted(trained, tmp_path, capsys):
    path = tmp_path / "rows.tsv"
    path.write_text("user\titem\nnobody\t1\nnobody\t2\n")
    command = ["predict", str(trained[0]), "--data", str(path), "--separator", r"\t"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "2 of 2 rows have an unknown user" in printed.err
