"""What an interrupted run leaves is resumed, or refused by the name of a file."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from saved_weights import is_same, weights

from fmlayers._digests import digest_of
from fmlayers._files import MARK
from fmlayers._json_files import read_json
from fmlayers._keras_files import save_weights
from fmlayers.data import write_csv
from fmlayers.runs import RunError, checkpoint, train, trainer


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(model="mf", validation_fraction=0.0, max_epochs=3)


def interrupt(config, out, epochs):
    """Interrupt a run after its checkpoint of this epoch. Return its folder."""
    written = []

    def interrupting(progress, *arguments):
        write(progress, *arguments)
        written.append(1)
        if len(written) == epochs:
            raise KeyboardInterrupt

    write = checkpoint.Progress.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Progress, "write", interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(config, out)
    return out.with_name(f"{out.name}.partial")


@contextmanager
def earlier_version():
    """Train as before both phases shared a graph, with checkpoints of Keras."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "NPZ", checkpoint.H5)
        patch.setattr(checkpoint, "save_variables", save_weights)
        patch.setattr(trainer.Frame, "of", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def interrupted(config, tmp_path_factory):
    """Return the folder of a run that was interrupted, and the weights it ends with."""
    folder = tmp_path_factory.mktemp("runs")
    expected = weights(train(config, folder / "whole").path)
    return interrupt(config, folder / "run", 2), expected


@pytest.fixture
def partial(interrupted, tmp_path):
    return shutil.copytree(interrupted[0], tmp_path / "run.partial")


def test_what_is_left(interrupted):
    names = {path.name for path in interrupted[0].iterdir()}
    assert {"config.json", "progress.json", "refit-0002.state.npz"} <= names
    progress = read_json(interrupted[0] / "progress.json")
    assert [row["epoch"] for row in progress["history"]] == [1, 2]
    assert set(progress["digests"]) == {"refit-0002.state.npz"}


@pytest.mark.parametrize("version", ["now", "0.1.0"])
def test_it_is_resumed_to_the_same_weights(
    version, config, interrupted, partial, tmp_path
):
    """Version 0.1.0 wrote the file of Keras, and JSON without digests."""
    if version == "0.1.0":
        shutil.rmtree(partial)
        with earlier_version():
            interrupt(config, tmp_path / "run", 2)
        assert (partial / "refit-0002.weights.h5").exists()
        for name in ("progress.json", "config.json"):
            content = read_json(partial / name)
            content.pop("digests", None)
            content.pop("shares_graph", None)
            (partial / name).write_text(json.dumps(content))
        (partial / ".progress-x1y2.json").write_text("")
    left = partial / f".progress{MARK}00000000-1-00000000.json"
    left.write_text("")
    os.utime(left, (0, 0))
    run = train(config, tmp_path / "run", resume=True)
    assert is_same(weights(run.path), interrupted[1])
    assert run.metrics["epochs"] == 3
    assert {path.name for path in run.path.iterdir()} == {
        *run.metrics["files"],
        "metrics.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("histories", [False, True])
def test_a_search_of_an_earlier_version_is_resumed(
    histories, ratings, make_config, tmp_path
):
    """It wrote the file of Keras, and each phase had tables of its own sizes."""
    rare = ratings.assign(user=ratings["user"].mask(ratings.index % 3 == 0, 1000))
    rare["user"] += ratings.index * (rare["user"] == 1000)
    path = tmp_path / "rare.csv"
    write_csv(rare, path)
    config = make_config(
        data=str(path), model="fm", histories=histories, max_epochs=5, patience=9
    )
    with earlier_version():
        expected = train(config, tmp_path / "expected")
        partial = interrupt(config, tmp_path / "run", 3)
    progress = partial / "progress.json"
    content = read_json(progress)
    assert content["weights"] == {"search": "search-0003.weights.h5"}
    del content["shares_graph"]
    progress.write_text(json.dumps(content))
    resumed = train(config, tmp_path / "run", resume=True)
    assert is_same(weights(resumed.path), weights(expected.path))
    # This version trains both phases in the tables of the second.
    interrupt(config, tmp_path / "new", 3)
    resumed = train(config, tmp_path / "new", resume=True)
    assert is_same(
        weights(resumed.path), weights(train(config, tmp_path / "whole").path)
    )


BROKEN = {
    "empty": lambda x: b"",
    "half": lambda x: x[: len(x) // 2],
    "short": lambda x: x[:-3],
    "object": lambda x: b"{}",
    "array": lambda x: b"[]",
    "flip": lambda x: (
        x[: len(x) // 3] + bytes([x[len(x) // 3] ^ 4]) + x[len(x) // 3 + 1 :]
    ),
}


@pytest.mark.parametrize(
    "name", ["config.json", "progress.json", "refit-0002.state.npz"]
)
def test_a_broken_file_is_refused_by_name(name, config, partial, tmp_path):
    path = partial / name
    intact = path.read_bytes()
    attempts = 0
    for what, breakage in BROKEN.items():
        if (name, what) == ("progress.json", "object"):
            continue  # the progress of no epoch
        path.write_bytes(breakage(intact))
        match = name if (name, what) != ("config.json", "object") else "is not a run"
        with pytest.raises(RunError, match=match) as error:
            train(config, tmp_path / "run", resume=True)
        assert "\n" not in str(error.value).strip()
        attempts += 1
    assert attempts == 6 - (name == "progress.json")
    path.write_bytes(intact)
    assert train(config, tmp_path / "run", resume=True).metrics["epochs"] == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"history": 3}, "is not the progress of a run"),
        ({"history": [{"phase": "refit"}]}, "'epoch'"),
        ({"history": []}, "its phases and weights differ"),
        ({"weights": {"refit": "../../secret.state.npz"}}, "not the name of a file"),
        ({"weights": {"refit": "gone.state.npz"}}, "gone.state.npz"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_foreign_progress_is_refused(changes, reason, config, partial, tmp_path):
    content = read_json(partial / "progress.json")
    (partial / "progress.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(RunError, match=reason):
        train(config, tmp_path / "run", resume=True)


def test_an_old_run_that_cannot_be_removed_fails_nothing(run, make_config, tmp_path):
    """The new run is in place, and the next command ignores what is left."""
    out = shutil.copytree(run.path, tmp_path / "run")
    protect = ["chattr", "+i", str(out / "summary.txt")]
    if shutil.which("chattr") is None or subprocess.run(protect).returncode:
        pytest.skip("needs a file system with immutable files, and root")
    config = make_config(max_epochs=1, validation_fraction=0.0)
    try:
        with pytest.warns(
            UserWarning, match="no longer needed and could not be removed"
        ):
            new = train(config, out, overwrite=True)
        assert new.metrics["epochs"] == 1
        new.check()
        (left,) = (path for path in tmp_path.iterdir() if path != out)
        assert left.name.startswith(f".run{MARK}")
        train(config, out, overwrite=True)
    finally:
        for path in tmp_path.rglob("summary.txt"):
            subprocess.run(["chattr", "-i", str(path)], check=True)


@pytest.mark.parametrize("name", ["mine.replaced", "mine.partial", ".mine"])
def test_folders_of_the_user_stay(name, make_config, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work")
    config = make_config(max_epochs=1, validation_fraction=0.0)
    if name == "mine.partial":
        with pytest.raises(RunError, match=r"mine\.partial exists and is not a run"):
            train(config, tmp_path / "mine", overwrite=True)
    else:
        for _ in range(2):
            train(config, tmp_path / "mine", overwrite=True)
    assert (tmp_path / name / "thesis.tex").read_text() == "years of work"
    assert np.array_equal([x.name for x in (tmp_path / name).iterdir()], ["thesis.tex"])


def test_a_checkpoint_of_another_model_is_refused(partial, config, tmp_path):
    other = interrupt(replace(config, dim=5), tmp_path / "other", 2)
    name = "refit-0002.state.npz"
    shutil.copy(other / name, partial / name)
    content = read_json(partial / "progress.json")
    content["digests"] = {name: digest_of(partial / name)}
    (partial / "progress.json").write_text(json.dumps(content))
    message = (
        rf"{name} is not a checkpoint that loads: it has .* \(\d+, 5\) where .*4\)"
    )
    with pytest.raises(RunError, match=message):
        train(config, tmp_path / "run", resume=True)
