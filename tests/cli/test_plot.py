import sys

import pytest

from fmlayers import cli
from fmlayers.data import synthetic, write_csv
from fmlayers.runs import TrainingConfig, train


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


def test_pictures_are_written_and_named(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    out = tmp_path / "pictures"
    assert cli.main(["plot", str(trained), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    written = captured.out.splitlines()
    names = ["learning_curves", "predicted_against_true", "field_heat_map"]
    assert written == [str(out / f"{name}.png") for name in names]
    assert sorted(map(str, out.iterdir())) == sorted(written)
    left_out = captured.err.splitlines()
    assert [line.split(" is left out: ")[0] for line in left_out] == [
        "fmlayers: item_map.png",
        "fmlayers: model_diagram.png",
    ]


def test_data_that_have_moved_are_given(trained, tmp_path, capsys):
    (tmp_path / "moved.csv").write_bytes((trained.parent / "shop.csv").read_bytes())
    command = ["plot", str(trained), "--out", str(tmp_path / "out"), "--data"]
    assert cli.main([*command, "synthetic"]) == 1
    assert "no longer holds the ratings" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, str(tmp_path / "moved.csv")]) == 0
    assert (tmp_path / "out" / "field_heat_map.png").exists()


def test_errors(trained, tmp_path, capsys, monkeypatch):
    assert cli.main(["plot", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "is not a finished run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as info:
        cli.main(["plot", str(trained)])
    assert info.value.code == 2
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["plot", str(trained), "--out", str(tmp_path / "out")]) == 1
    assert "install it with `pip install fmlayers[plot]`" in capsys.readouterr().err
