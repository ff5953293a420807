"""A fit that was killed resumes to the draws of an undisturbed one, bit for bit."""

import numpy as np
import pytest
from checks import check_error

import fmlayers
from fmlayers.bayes import GibbsSampler, backups

USERS, ITEMS, ROWS = 12, 8, 120


def data(seed=0):
    """Returns features of all kinds, with inputs and targets."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, USERS, ROWS), rng.integers(1, ITEMS + 1, ROWS)
    inputs = {
        "user": user,
        "item": item,
        "age": user % 4,
        "genres": np.stack([item % 3 + 1, item % 5], axis=1),
        "hour": rng.normal(size=ROWS).astype("float32"),
    }
    pairs = len(set(zip(user.tolist(), item.tolist(), strict=True)))
    features = [
        fmlayers.Categorical("user", USERS),
        fmlayers.Categorical("item", ITEMS + 1),
        fmlayers.Categorical("age", 4),
        fmlayers.MultiCategorical("genres", 6),
        fmlayers.Numeric("hour", use_bias=True),
        fmlayers.History(
            "history",
            ITEMS + 1,
            of="user",
            num_keys=USERS,
            values="item",
            num_pairs=pairs,
        ),
    ]
    return features, inputs, 3.0 + rng.normal(size=ROWS) + user / USERS


def fit(folder=None, sweeps=12, *, features=None, options=None, **arguments):
    """Returns a fitted sampler, and the sweeps that its callbacks have received."""
    all_features, inputs, targets = data()
    features = all_features[:2] if features is None else features
    sampler = GibbsSampler(features, **{"dim": 2, "chains": 2, **(options or {})})
    if sampler.likelihood == "probit":
        targets = (targets > 3.5).astype(float)
    seen = []
    fitted = {
        "inputs": inputs,
        "targets": targets,
        "burn_in": 3,
        "validation_data": (inputs, targets),
        "callbacks": [],
        **arguments,
    }
    fitted["callbacks"] = [lambda sweep, _: seen.append(sweep), *fitted["callbacks"]]
    return sampler.fit(**fitted, sweeps=sweeps, backup_dir=folder), seen


def assert_equal(one, other):
    inputs = data()[1]
    for found, expected in zip(
        one.predict(inputs, return_std=True),
        other.predict(inputs, return_std=True),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(
        one.to_model().get_weights(), other.to_model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert one.history == other.history


class Stop(Exception):
    pass


def stopping(at):
    def callback(sweep, _):
        if sweep == at:
            raise Stop

    return callback


@pytest.mark.parametrize("likelihood", ["normal", "probit"])
def test_resumes_to_the_same_draws(tmp_path, monkeypatch, likelihood):
    monkeypatch.setattr(backups, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(backups, "MIN_RATIO", 0.0)
    options = {"likelihood": likelihood}
    undisturbed, _ = fit(options=options)
    with pytest.raises(Stop):
        fit(tmp_path, options=options, callbacks=[stopping(6)])
    resumed, seen = fit(tmp_path, options=options)
    assert seen == list(range(6, 13))
    assert_equal(resumed, undisturbed)
    assert [row["sweep"] for row in resumed.history] == list(range(1, 13))


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
