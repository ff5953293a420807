"""Each file of a run is broken in many ways: the answer is the same or an error."""

import json
import shutil

import keras
import numpy as np
import pytest
from run_records import record_digests

from fmlayers._digests import digests_of
from fmlayers._json_files import SEAL, read_json, write_json
from fmlayers._keras_files import save_model
from fmlayers.cli import main
from fmlayers.data import DataError, sources, write_csv
from fmlayers.runs import Run, RunError
from fmlayers.runs.folder import FILES as ALL_FILES

FILES = ALL_FILES - {"samples.npz"}  # of Gibbs sampling; see `test_gibbs_runs.py`
NAMES = sorted(FILES | {"metrics.json"})
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01"
HTML = b"<!DOCTYPE html>\n<html><body>404, not found</body></html>\n"
FOREIGN = {
    "empty": b"",
    "png": PNG,
    "html": HTML,
    "object": b"{}",
    "array": b"[]",
    "null": b"null",
    "table": b"a,b\n1,2\n",
    "zip": b"PK\x05\x06" + bytes(18),
}


def cut(content, share):
    return content[: int(len(content) * share)]


def flipped(content, rng):
    place = rng.integers(len(content))
    bit = bytes([content[place] ^ (1 << rng.integers(8))])
    return content[:place] + bit + content[place + 1 :]


def without_last_line(content):
    return b"".join(content.splitlines(keepends=True)[:-1])


def with_a_line_twice(content):
    return content + content.splitlines(keepends=True)[-1]


def breakages(rng, cuts=7, flips=12):
    """Yield a name and a function from content to broken content, or to `None`."""
    for share in np.linspace(0.05, 0.99, cuts):
        yield f"cut at {share:.2f}", lambda x, share=share: cut(x, share)
    for number in range(flips):
        yield f"flip {number}", lambda x: flipped(x, rng)
    for name, content in FOREIGN.items():
        yield name, lambda x, content=content: content
    yield "last line", without_last_line
    yield "line twice", with_a_line_twice
    yield "folder", lambda x: "folder"
    yield "missing", lambda x: None


def break_file(path, breakage):
    content = breakage(path.read_bytes())
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)


def answers(run, films, out, every=True):
    """Yield what the methods of a run return."""
    rows = films.ratings[["user", "item"]].iloc[:40]
    yield "summary", run.summary()
    yield "history", run.history().to_csv()
    path = run.export(out / "items.npy", "item_vectors", overwrite=True)
    yield "export", path.read_bytes()
    yield "predict", run.predict(rows).tolist()
    yield "recommend", run.recommend(["1", "2"], 5).to_csv()
    yield "explain", run.explain("1", "2").text()
    if every:
        yield "similar", run.similar("1", 3).to_csv()
        yield "fields", run.explain_fields().text()
        yield "evaluate", run.evaluate(k=5).text()
        yield "plot", [path.name for path in run.plot(out)[0]]


def answer_or_error(folder, name, films, out, expected, every=True):
    """Check a broken run. Return whether it was refused."""
    refusal = None
    try:
        found = dict(answers(Run(folder), films, out, every))
    except (RunError, DataError) as error:
        refusal = str(error)
    if refusal is not None:
        assert name in refusal
        assert "\n" not in refusal or name == "model.keras"
        return True
    if expected is not None:
        assert found == expected
    return False


@pytest.fixture
def synthetic(films, monkeypatch):
    monkeypatch.setattr(sources, "synthetic", lambda: films)


@pytest.fixture
def broken(film_run, synthetic, tmp_path):
    """Return a function that restores a copy of a run and returns its folder."""

    def restore(without_digests=False):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(film_run.path, folder)
        if without_digests:
            metrics = read_json(folder / "metrics.json")
            del metrics["files"]
            (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
        return folder

    return restore


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_is_refused_by_name(name, films, broken, tmp_path):
    """What the first method to read the file says."""
    rng = np.random.default_rng(0)
    attempts = 0
    for _, breakage in breakages(rng, cuts=3, flips=3):
        folder = broken()
        break_file(folder / name, breakage)
        attempts += 1
        with pytest.raises(RunError, match=name):
            Run(folder).check()
    assert attempts == 18


def test_an_intact_run_passes(film_run, run):
    film_run.check()
    run.check()
    assert set(film_run.metrics["files"]) == FILES
    assert film_run.metrics["files"] == digests_of(film_run.path, FILES)


def test_each_file_is_checked_once(film_run, monkeypatch):
    from fmlayers.runs import run_files

    counts = []
    check = run_files.check_digest
    monkeypatch.setattr(
        run_files, "check_digest", lambda *args: counts.append(args) or check(*args)
    )
    run = Run(film_run.path)
    assert counts == []
    for _ in range(2):
        run.side_table("items")
        run.check()
    assert len(counts) == len(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_changes_no_answer(name, films, film_run, broken, tmp_path):
    is_read = name not in ("config.json", "history.png")
    rng = np.random.default_rng(1)
    out = tmp_path / "out"
    out.mkdir()
    expected = dict(answers(film_run, films, out))
    attempts = refused = 0
    for _, breakage in breakages(rng) if is_read else breakages(rng, 1, 0):
        folder = broken()
        break_file(folder / name, breakage)
        attempts += 1
        refused += answer_or_error(folder, name, films, out, expected)
        if not is_read and attempts == 2:
            break
    assert (attempts, refused) == ((31, 31) if is_read else (2, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*NAMES} - {"config.json", "history.png"}))
def test_a_broken_file_of_0_1_0_is_an_error_or_read(name, films, broken, tmp_path):
    """Without digests, what can be read is believed. Nothing else goes wrong."""
    rng = np.random.default_rng(2)
    out = tmp_path / "out"
    out.mkdir()
    expected = dict(answers(Run(broken(without_digests=True)), films, out, False))
    attempts = refused = 0
    for _, breakage in breakages(rng, cuts=3, flips=4):
        folder = broken(without_digests=True)
        break_file(folder / name, breakage)
        attempts += 1
        same = expected if name == "model.keras" else None
        refused += answer_or_error(folder, name, films, out, same, False)
    assert attempts == 19
    assert refused >= (2 if name == "summary.txt" else 8)


def edit_metrics(folder, **changes):
    metrics = {**read_json(folder / "metrics.json"), **changes}
    write_json(
        folder / "metrics.json", {k: v for k, v in metrics.items() if v is not ...}
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": ...}, "it lacks 'config'"),
        ({"config": []}, "'config' is"),
        ({"config": {}}, "in its configuration, it lacks 'data'"),
        ({"config": {"data": 1}}, "in its configuration, 'data' is 1"),
        ({"rows": ...}, "it lacks 'rows'"),
        ({"rows": {"train": "many"}}, "the number of train rows is 'many'"),
        ({"epochs": "2"}, "'epochs' is '2'"),
        ({"rmse": ...}, "'rmse' must be a finite number. Received: None"),
        ({"rmse": float("nan")}, "'rmse' must be a finite number. Received: None"),
        ({"mae": "low"}, "'mae' must be a finite number. Received: 'low'"),
        ({"files": []}, "'files' is"),
        ({"files": {}}, "'files' is"),
        ({"files": {"model.keras": 1}}, "'files' is"),
    ],
    ids=str,
)
def test_metrics_without_what_a_run_has_are_refused(changes, reason, broken):
    folder = broken()
    edit_metrics(folder, **changes)
    with pytest.raises(
        RunError, match=r"metrics\.json is not the record of a run"
    ) as e:
        Run(folder)
    assert reason in str(e.value)


def test_edited_metrics_are_refused(broken):
    path = broken() / "metrics.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "rmse": 0.1}))
    with pytest.raises(RunError, match=r"metrics\.json is damaged or was edited"):
        Run(path.parent)
    assert SEAL in content


def test_a_table_that_the_run_had_is_missed(broken, films):
    for name in ("users.csv", "items.csv"):
        folder = broken()
        (folder / name).unlink()
        with pytest.raises(RunError, match=f"{name} cannot be read: No such file"):
            Run(folder).predict(films.ratings[["user", "item"]].iloc[:3])


def test_a_table_that_the_run_had_not_is_ignored(run, films, tmp_path):
    folder = shutil.copytree(run.path, tmp_path / "run")
    (folder / "items.csv").write_text("item,title\n1,Metropolis\n")
    assert Run(folder).side_table("items") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("film,title\n1,Metropolis\n", "lacks the column 'item'. It has"),
        ("item,title\n1,M\n1,N\n", "has two rows of the item '1'"),
        ("item,year\n1,soon\n", "the column 'year' must contain numbers"),
        ("item,year\n1,2,3\n", "line 2: expected 2 fields"),
    ],
)
def test_foreign_tables_of_0_1_0_are_refused(content, reason, broken):
    folder = broken(without_digests=True)
    (folder / "items.csv").write_text(content)
    with pytest.raises(RunError, match=r"items\.csv") as error:
        Run(folder).recommend(["1"], 3)
    assert reason in str(error.value)


def test_a_model_cut_short_is_not_called_missing(broken):
    folder = broken(without_digests=True)
    path = folder / "model.keras"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model\.keras .* is cut short") as error:
        _ = Run(folder).model
    assert "not found" not in str(error.value)


@pytest.mark.parametrize("without_digests", [False, True])
def test_a_replaced_model_is_refused(without_digests, run, films, broken):
    """That of another run reads other columns."""
    folder = broken(without_digests)
    shutil.copy(run.path / "model.keras", folder / "model.keras")
    reason = "damaged or was replaced"
    if without_digests:
        reason = r"its columns are \['user', 'item'\]"
    with pytest.raises(RunError, match=f"model\\.keras .*{reason}"):
        Run(folder).predict(films.ratings[["user", "item"]].iloc[:3])


@pytest.mark.parametrize("change", ["values", "scale", "twice", "column"])
def test_an_encoder_that_does_not_fit_is_refused(change, film_run, broken):
    """Even where `metrics.json` has the digest of the file."""
    folder = broken()
    model = keras.models.load_model(film_run.path / "model.keras")
    config = model.encoder.get_config()
    if change == "values":
        config["vocabularies"]["user"].pop()
    elif change == "twice":
        config["vocabularies"]["user"][1] = config["vocabularies"]["user"][0]
    elif change == "scale":
        config["scales"]["age"] = [30.0, 0.0]
    else:
        del config["scales"]["age"], config["columns"]["age"]
    # Only a config can have such values.
    model.encoder.get_config = lambda: config
    save_model(model, folder / "model.keras")
    record_digests(folder)
    with pytest.raises(RunError, match=r"model\.keras"):
        _ = Run(folder).model


def test_the_command_refuses_in_a_sentence(broken, films, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    write_csv(films.ratings[["user", "item"]].iloc[:3], rows)
    commands = {
        "items.csv": ["predict", "RUN", "--data", str(rows)],
        "users.csv": ["recommend", "RUN", "--user", "1"],
        "model.keras": ["evaluate", "RUN"],
        "history.csv": ["plot", "RUN", "--out", str(tmp_path / "plots")],
        "metrics.json": ["similar", "RUN", "--item", "1"],
    }
    for name, command in commands.items():
        folder = broken()
        break_file(folder / name, lambda content: cut(content, 0.6))
        assert main([str(folder) if x == "RUN" else x for x in command]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"fmlayers: {folder / name} ")
