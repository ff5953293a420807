import pytest

from fmlayers import cli
from fmlayers.data import synthetic, write_csv
from fmlayers.runs import Run, TrainingConfig, train
from fmlayers.runs.recommender import Recommender


@pytest.mark.parametrize("by_id", [False, True])
def test_similar(by_id, film_run, films, capsys):
    item, title = str(films.items["item"][5]), films.items["title"][5]
    named = item if by_id else title[:-7].upper()
    assert cli.main(["similar", str(film_run), "--item", named, "--top", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    heading, names, *rows = captured.out.splitlines()
    assert heading == f"Most similar to {title}"
    assert names.split() == ["rank", "item", "title", "genres", "year", "cosine"]
    recommender = Recommender(Run(film_run))
    position = recommender.catalog.find(item)
    cosines, positions = recommender.similar(position, 3)
    keys = recommender.catalog.keys[positions[0]]
    assert [row.split()[1] for row in rows] == keys.tolist()
    assert [row.split()[-1] for row in rows] == [f"{x:.2f}" for x in cosines[0]]
    assert item not in keys


def test_similar_says_which_item(film_run, capsys):
    for named, message in (
        ("nothing of this name", "There is no item 'nothing of this name'"),
        ("the", "'the' matches"),
    ):
        assert cli.main(["similar", str(film_run), "--item", named]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("model", ["deepfm", "neumf"])
def test_models_of_more_than_pairs(model, tmp_path, capsys):
    write_csv(
        synthetic(num_users=20, num_items=9, num_ratings=100).ratings,
        tmp_path / "a.csv",
    )
    config = TrainingConfig(
        data=str(tmp_path / "a.csv"),
        model=model,
        features=["user", "item"],
        dim=2,
        max_epochs=1,
        validation_fraction=0.0,
    )
    run = train(config, tmp_path / "run").path
    capsys.readouterr()
    code = cli.main(["similar", str(run), "--item", "1"])
    captured = capsys.readouterr()
    if model == "neumf":
        assert code == 1
        assert "must have item embeddings" in captured.err
    else:
        assert code == 0
        assert "factorization machine alone" in captured.err
        assert captured.out.splitlines()[0] == "Most similar to 1"
        assert len(captured.out.splitlines()) == 2 + 8
