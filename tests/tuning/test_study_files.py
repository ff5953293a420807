"""Damaged files of studies: the same answer, or an error that names the file."""

import json
import shutil

import numpy as np
import pytest

from fmlayers._json_files import read_json, write_json
from fmlayers.runs import RunError
from fmlayers.tuning import Study, StudyError, tune
from fmlayers.tuning.study import Prepared
from fmlayers.tuning.study_files import write_reason
from fmlayers.tuning.study_folder import create, drop_former, former_studies, set_aside
from fmlayers.tuning.trial_model import TrialModel
from fmlayers.tuning.tuners import make_tuner

RECORDS = (
    "config.json",
    "summary.json",
    "trials/oracle.json",
    "trials/trial_0/trial.json",
    "trials/trial_3/trial.json",
    "trials/trial_5/trial.json",
)
OTHERS = (
    "summary.txt",
    "report.html",
    "trials.csv",
    "trials/trial_2/failure.json",
    "trials/tuner0.json",
)


def damages(content, rng):
    """Yield ways to damage a file: names and contents; `None` removes it."""
    yield "empty", b""
    for share in (0.1, 0.5, 0.9):
        yield f"truncated to {share}", content[: int(share * len(content))]
    yield "truncated by one", content[:-2]
    for _ in range(4):
        place = int(rng.integers(len(content)))
        flipped = bytes([content[place] ^ (1 << int(rng.integers(8)))])
        yield f"flipped at {place}", content[:place] + flipped + content[place + 1 :]
    for text in ("{}", "[]", "null", "7", '{"study": 1}', '{"trial_id": "0"}'):
        yield text, text.encode()
    yield "foreign", b"\x89PNG\r\n\x1a\n\0\0\xff"
    yield "missing", None
    yield "a folder", "folder"


def answers(study_path, config):
    """Return all that is read from a study, as a resumed search does."""
    study = Study(study_path)
    prepared = Prepared(config)
    model = TrialModel(config, prepared.space, prepared.examples, None)
    oracle = make_tuner(config, study_path, model, study.hyperparameters, 7).oracle
    following = oracle.populate_space("6")["values"]
    return (
        [study.record[name] for name in ("study", "space", "columns", "rows")],
        study.trials().to_json(),
        study.best().to_dict(),
        study.summary(),
        oracle.end_order,
        following,
    )


@pytest.fixture
def copied(study, tmp_path):
    """Return a copy of a study, whose trial 2 has failed."""
    path = tmp_path / "s"
    ignored = shutil.ignore_patterns("best", "*.png")
    shutil.copytree(study.path, path, ignore=ignored)
    file = path / "trials" / "trial_2" / "trial.json"
    write_json(file, read_json(file) | {"status": "FAILED", "score": None})
    write_reason(file.parent, "ValueError: no luck")
    (path / "trials" / "tuner0.json").write_text("{}")  # of version 0.1.0
    return path


def survives(path, name, content, expected, config):
    """Return whether the answer is the same; else the error names the file."""
    file = path / name
    intact = file.read_bytes()
    file.unlink()
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    try:
        assert answers(path, config) == expected, f"{name} changes the answer"
        message = None
    except StudyError as error:
        message = str(error)
    finally:
        if file.is_dir():
            file.rmdir()
        file.write_bytes(intact)
    assert message is None or str(file) in message
    return message is None


def test_damaged_records(copied, study, capfd):
    """One way to damage each file, and all ways for a slow test."""
    expected = answers(copied, study.config)
    for name in RECORDS:
        half = (copied / name).read_bytes()[:100]
        same = survives(copied, name, half, expected, study.config)
        assert same == (name == "trials/oracle.json")
    error = capfd.readouterr().err
    assert "oracle.json is not a JSON file" in error
    assert "It is written again from the trials." in error


@pytest.mark.slow
def test_all_damages(copied, study):
    rng = np.random.default_rng(0)
    expected = answers(copied, study.config)
    tried = same = 0
    for name in (*RECORDS, *OTHERS):
        for _, content in damages((copied / name).read_bytes(), rng):
            if content is None and name.endswith("failure.json"):
                continue  # the reason is unknown then
            same += survives(copied, name, content, expected, study.config)
            tried += 1
    assert tried == 11 * 18 - 1
    # All of the oracle and of the files that no command reads, and harmless flips.
    assert same >= 5 * 18
    assert tried - same >= 5 * 14


@pytest.mark.parametrize("name", ["trials", "trials/trial_2", "trials/trial_5"])
def test_missing_folders(name, copied, study, make_config):
    before = sorted(copied.rglob("*"))
    shutil.move(copied / name, copied.parent / "elsewhere")
    with pytest.raises(StudyError, match=f"{name}.* is missing"):
        Study(copied).trials()
    with pytest.raises(StudyError, match=f"{name}.* is missing"):
        tune(make_config(), copied, max_trials=7)
    shutil.move(copied.parent / "elsewhere", copied / name)
    assert sorted(copied.rglob("*")) == before


def test_a_study_of_0_1_0_is_read(copied, study):
    """Its records are not sealed, and it has no summary.json."""
    expected = answers(copied, study.config)
    for name in RECORDS:
        content = read_json(copied / name)
        (copied / name).write_text(json.dumps(content))
    (copied / "summary.json").unlink()
    (copied / "trials" / "trial_2" / "failure.json").unlink()
    (copied / "trials" / "trial_2" / "failure.txt").write_text("ValueError: no luck")
    assert answers(copied, study.config) == expected


@pytest.mark.slow
def test_damaged_files_of_the_best_run(study, make_config, tmp_path):
    shutil.copytree(study.path, tmp_path / "s")
    for name in ("config.json", "metrics.json"):
        file = tmp_path / "s" / "best" / name
        intact = file.read_bytes()
        file.write_bytes(intact[:100])
        with pytest.raises((StudyError, RunError), match=name):
            tune(make_config(), tmp_path / "s", max_trials=6)
        file.write_bytes(intact)
    tune(make_config(), tmp_path / "s", max_trials=6)


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["random", "hyperband"])
def test_an_oracle_is_written_again(tuner, make_config, tmp_path):
    """A search whose oracle was lost chooses the same trials."""
    config = make_config({"max_epochs": 9}, search={"l2": ""}, tuner=tuner)
    prepared = Prepared(config)
    model = TrialModel(config, prepared.space, prepared.examples, None)

    def resume(path, count):
        oracle = make_tuner(config, path, model, prepared.space.narrowed(), 99).oracle
        for _ in range(count):
            trial = oracle.create_trial("one")
            score = abs(np.log(trial.hyperparameters.values["l2"] / 0.2))
            oracle.update_trial(trial.trial_id, {"val_rmse": score})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)
        return [x.hyperparameters.values for x in oracle.trials.values()]

    whole = resume(tmp_path / "whole", 16)
    resume(tmp_path / "s", 12)
    oracle = tmp_path / "s" / "trials" / "oracle.json"
    oracle.write_bytes(oracle.read_bytes()[:1000])
    assert resume(tmp_path / "s", 2) == whole[:14]
    oracle.unlink()
    assert resume(tmp_path / "s", 2) == whole


@pytest.mark.slow
def test_a_damaged_checkpoint_ends_a_search(make_config, tmp_path):
    config = make_config({"max_epochs": 3}, tuner="hyperband")
    tune(config, tmp_path / "s", max_trials=3)
    weights = sorted((tmp_path / "s" / "trials").glob("*/checkpoint.weights.h5"))
    assert len(weights) == 3
    for file in weights:
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    with pytest.raises(StudyError, match=r"checkpoint\.weights\.h5 is damaged or was"):
        tune(config, tmp_path / "s", max_trials=99)
    assert (Study(tmp_path / "s").trials()["status"] == "COMPLETED").all()


def test_a_folder_of_the_user_is_never_removed(study, tmp_path):
    """Whatever its name is; only a study that `set_aside` has moved."""
    out = tmp_path / "s"
    names = ["s.replaced", "s.fmlayers-former-", "s.fmlayers-former-0123abcd", "s.old"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    for _ in range(2):
        create(out, study.record)
        set_aside(out)
        assert len(former_studies(out)) == 1
        create(out, study.record)
        drop_former(out)
        shutil.rmtree(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / name / "thesis.tex").read_text() == "years of work"


def test_a_former_study_that_stays_only_warns(study, tmp_path, monkeypatch):
    out = tmp_path / "s"
    create(out, study.record)
    set_aside(out)
    create(out, study.record)

    def fail(path, target):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "replace", fail)
    with pytest.warns(UserWarning, match="could not be removed: .*Permission denied"):
        drop_former(out)
    assert len(former_studies(out)) == 1
