import pytest
from keras import ops

from fmlayers import cli
from fmlayers.data import synthetic, write_csv
from fmlayers.runs import Run, TrainingConfig, train
from fmlayers.runs.explanation import explain_fields, explain_pair


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run of user and item."""
    folder = tmp_path_factory.mktemp("cli")
    ratings = synthetic(num_users=50, num_items=40, num_ratings=1000).ratings
    write_csv(ratings, folder / "shop.csv")
    config = TrainingConfig(
        data=str(folder / "shop.csv"),
        dim=4,
        max_epochs=2,
        batch_size=128,
        validation_fraction=0.0,
    )
    return train(config, folder / "run").path


def test_a_pair_is_printed_and_drawn(trained, tmp_path, capsys):
    path = tmp_path / "terms.png"
    command = ["explain", str(trained), "--user", "1", "--item", "2"]
    assert cli.main([*command, "--plot", str(path)]) == 0
    assert capsys.readouterr().out == explain_pair(Run(trained), "1", "2").text()
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_item_may_be_a_title(film_run, films, capsys):
    item, title = str(films.items["item"][5]), films.items["title"][5]
    assert cli.main(["explain", str(film_run), "--user", "1", "--item", title]) == 0
    expected = explain_pair(Run(film_run), "1", item).text()
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("measure", ["std", "abs"])
def test_without_a_pair_it_is_the_test_rows(measure, trained, tmp_path, capsys):
    path = tmp_path / "terms.png"
    command = ["explain", str(trained), "--measure", measure, "--plot", str(path)]
    assert cli.main(command) == 0
    expected = explain_fields(Run(trained), measure=measure)
    assert capsys.readouterr().out == expected.text()
    assert path.read_bytes().startswith(b"\x89PNG")
    if measure == "std":
        assert cli.main(["explain", str(trained)]) == 0
        assert capsys.readouterr().out == expected.text()


def test_data_that_have_moved_are_given(trained, tmp_path, capsys):
    (tmp_path / "moved.csv").write_bytes((trained.parent / "shop.csv").read_bytes())
    command = ["explain", str(trained), "--data", str(tmp_path / "moved.csv")]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == explain_fields(Run(trained)).text()
    assert cli.main([*command[:-1], "synthetic"]) == 1
    assert "no longer holds the ratings" in capsys.readouterr().err


def test_errors(trained, tmp_path, capsys):
    for options, message in (
        (["--user", "1"], "`--user` and `--item` must be used together."),
        (["--item", "1"], "`--user` and `--item` must be used together."),
        (["--user", "1", "--item", "none"], "There is no item 'none'"),
        (["--plot", str(tmp_path / "no" / "x.png")], "there is no folder"),
        (["--plot", str(tmp_path / "x.doc")], "Format 'doc' is not supported"),
    ):
        assert cli.main(["explain", str(trained), *options]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err
        assert captured.err.startswith("fmlayers: ")
    assert cli.main(["explain", str(tmp_path)]) == 1
    assert "is not a finished run" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    with pytest.raises(SystemExit):
        cli.main(["explain", str(trained), "--measure", "mean"])


def test_what_cannot_be_explained_is_named(trained, capsys, monkeypatch):
    monkeypatch.setattr(
        type(Run(trained).model), "score", lambda self, x: ops.ones((1, 1)) * 99
    )
    assert cli.main(["explain", str(trained), "--user", "1", "--item", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "The `terms` of `model` must add up to its score" in captured.err


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(["explain", "--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    for word in ("RUN", "--user", "--item", "--measure", "--plot FILE", "--data"):
        assert word in printed
