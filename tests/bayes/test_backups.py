"""A fit that was killed resumes to the draws of an undisturbed one, bit for bit."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checks import check_error
from small_fits import ROWS, USERS, assert_equal, data, fit

from fmlayers import _state_files
from fmlayers._state_files import read_state, write_state
from fmlayers.bayes import GibbsSampler, backups

NARROW = np.float16, ml_dtypes.bfloat16


class Stop(Exception):
    pass


def stopping(at):
    def callback(sweep, _):
        if sweep == at:
            raise Stop

    return callback


@pytest.fixture
def every_sweep(monkeypatch):
    """A backup after each sweep."""
    monkeypatch.setattr(backups, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(backups, "MIN_RATIO", 0.0)


@pytest.mark.parametrize("likelihood", ["normal", "probit"])
def test_resumes_to_the_same_draws(tmp_path, every_sweep, likelihood):
    options = {"likelihood": likelihood}
    undisturbed, _ = fit(options=options)
    with pytest.raises(Stop):
        fit(tmp_path, options=options, callbacks=[stopping(6)])
    resumed, seen = fit(tmp_path, options=options)
    assert seen == list(range(6, 13))
    assert_equal(resumed, undisturbed)
    assert [row["sweep"] for row in resumed.history] == list(range(1, 13))


@pytest.mark.slow
def test_a_finished_fit_is_extended(tmp_path):
    assert_equal(fit(tmp_path, 6)[0], fit(None, 6)[0])
    again, seen = fit(tmp_path, 6)
    assert seen == []
    extended, seen = fit(tmp_path, 12)
    assert seen == list(range(7, 13))
    assert_equal(extended, fit(None, 12)[0])
    assert_equal(again, fit(None, 6)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chain-0-sweep-12.npz",
        "chain-1-sweep-12.npz",
        "fit.json",
    ]
    check_error("`sweeps` must be at least 12", lambda: fit(tmp_path, 11))


@pytest.mark.slow
def test_fields_of_all_kinds_resume(tmp_path, every_sweep):
    features = data()[0]
    with pytest.raises(Stop):
        fit(tmp_path, features=features, callbacks=[stopping(8)])
    resumed, _ = fit(tmp_path, features=features)
    assert_equal(resumed, fit(features=features)[0])


def test_other_fits_are_refused(tmp_path):
    fit(tmp_path, 5)
    features, inputs, targets = data()
    other_user = (inputs["user"] + (np.arange(ROWS) == 5)) % USERS
    changes = [
        ("dim", {"options": {"dim": 3}}),
        ("chains", {"options": {"chains": 3}}),
        ("seed", {"options": {"seed": 1}}),
        ("prior_scale", {"options": {"prior_scale": 0.5}}),
        ("max_dim", {"options": {"max_dim": 64}}),
        ("burn_in", {"burn_in": 2}),
        ("targets", {"targets": targets + 1e-9}),
        ("sample_weight", {"sample_weight": np.full(ROWS, 2.0)}),
        ("validation_data", {"validation_data": None}),
        ("validation_data", {"validation_data": (inputs, targets + 1.0)}),
        ("inputs of 'user'", {"inputs": {**inputs, "user": other_user}}),
        ("features", {"features": features[:3]}),
    ]
    for name, arguments in changes:
        check_error(f"differs in .*{name}", lambda x=arguments: fit(tmp_path, 5, **x))
    assert fit(tmp_path, 5)[1] == []


def test_damaged_backups(tmp_path):
    fit(tmp_path, 5)
    for name in ("chain-1-sweep-5.npz", "fit.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        broken = [
            whole[: len(whole) // 2],
            whole[:-300] + bytes([whole[-300] ^ 4]) + whole[-299:],
            b"",
            b"{}",
        ]
        for content in broken:
            path.write_bytes(content)
            check_error(name, lambda: fit(tmp_path, 5))
        if name != "fit.json":
            path.unlink()
            check_error(name, lambda: fit(tmp_path, 5))
        path.write_bytes(whole)
    assert fit(tmp_path, 5)[1] == []
    for path in ("fit.json", "fit.json/backup"):
        check_error("`backup_dir` must be a folder", lambda p=path: fit(tmp_path / p))


@pytest.mark.parametrize("likelihood", ["normal", "probit"])
def test_save_and_load(tmp_path, likelihood):
    features = [*data()[0][:3]]
    options = {"likelihood": likelihood, "seed": 4, "max_dim": 99, "prior_scale": 0.5}
    sampler, _ = fit(None, 6, features=features, options=options)
    path = tmp_path / "sampler.npz"
    sampler.save(path)
    loaded = GibbsSampler.load(path)
    assert loaded.get_config() == sampler.get_config()
    loaded.save(tmp_path / "again")
    for copy in (loaded, GibbsSampler.load(tmp_path / "again")):
        assert_equal(copy, sampler)
        for options in ({}, {"collapse": True}):
            for found, expected in zip(
                copy.to_model(4, **options).get_weights(),
                sampler.to_model(4, **options).get_weights(),
                strict=True,
            ):
                np.testing.assert_array_equal(found, expected)


def test_histories_are_saved(tmp_path):
    features = data()[0]
    sampler, _ = fit(None, 5, features=[features[0], features[1], features[-1]])
    sampler.save(tmp_path / "sampler")
    assert_equal(GibbsSampler.load(tmp_path / "sampler"), sampler)


def test_errors_of_files(tmp_path, monkeypatch):
    path = tmp_path / "sampler.npz"
    check_error("`fit` must be called", lambda: GibbsSampler(data()[0], 2).save(path))
    check_error("sampler.npz cannot be read", lambda: GibbsSampler.load(path))
    fit(None, 5)[0].save(path)
    whole = path.read_bytes()
    for i in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:i])
        check_error("sampler.npz is damaged", lambda: GibbsSampler.load(path))
    np.savez(path, x=np.zeros(3))
    check_error("sampler.npz is damaged", lambda: GibbsSampler.load(path))
    write_state(path, "something else", {})
    check_error("sampler.npz must be a file of", lambda: GibbsSampler.load(path))
    write_state(path, "a Gibbs sampler", {})
    check_error("sampler.npz is damaged", lambda: GibbsSampler.load(path))
    monkeypatch.setattr(_state_files, "VERSION", 2)
    write_state(path, "a Gibbs sampler", {})
    monkeypatch.undo()
    check_error("newer version of fmlayers", lambda: GibbsSampler.load(path))


def test_flipped_bits_change_nothing_unnoticed(tmp_path):
    """A file with a changed byte is refused, or the byte has no meaning."""
    arrays = {"x": np.arange(50.0), "y": [np.zeros((2, 3), "f4"), 3, None, "text"]}
    path = tmp_path / "state"
    write_state(path, "kind", arrays)
    whole = bytearray(path.read_bytes())
    refused = []
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            content = read_state(path, "kind")
        except ValueError as error:
            refused.append(str(error))
            continue
        np.testing.assert_array_equal(content["x"], arrays["x"])
        np.testing.assert_array_equal(content["y"][0], arrays["y"][0])
        assert content["y"][1:] == arrays["y"][1:]
    assert refused
    assert all(str(path) in error for error in refused)


def test_narrow_arrays_keep_their_dtype(tmp_path):
    values = np.arange(-3.0, 3.0).reshape(2, 3)
    arrays = [values.astype(dtype) for dtype in NARROW]
    write_state(tmp_path / "state", "kind", {"x": arrays})
    found = read_state(tmp_path / "state", "kind")["x"]
    assert [x.dtype for x in found] == [np.dtype(dtype) for dtype in NARROW]
    for x in found:
        np.testing.assert_array_equal(x.astype("float64"), values)


@pytest.mark.parametrize("likelihood", ["normal", "probit"])
def test_old_files(likelihood):
    """Files of each version of the format load, with the same predictions."""
    inputs = data()[1]
    folders = sorted((Path(__file__).parent / "old").glob("format-*"))
    assert folders
    for folder in folders:
        sampler = GibbsSampler.load(folder / f"{likelihood}.npz")
        expected = np.load(folder / f"{likelihood}-predictions.npz")
        mean, stddev = sampler.predict(inputs, return_std=True)
        found = {
            "mean": mean,
            "stddev": stddev,
            "model": sampler.to_model().predict(inputs, verbose=0),
            "collapsed": sampler.to_model(8, collapse=True).predict(inputs, verbose=0),
        }
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)


def test_a_full_disk(tmp_path):
    """The file stays as it was, and the error names it."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "sampler.npz"
    write_state(path, "kind", {"x": np.arange(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="sampler.npz"):
            write_state(path, "kind", {"x": np.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(read_state(path, "kind")["x"], np.arange(3))
    assert list(tmp_path.iterdir()) == [path]
