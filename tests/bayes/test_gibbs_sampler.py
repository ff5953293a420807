import keras
import numpy as np
import pytest
from checks import check_error
from keras import ops
from small_fits import features_of, inputs_of

import fmlayers
from fmlayers.bayes import GibbsSampler, defaults
from fmlayers.bayes.designs import fields_of
from fmlayers.bayes.likelihoods import normal_cdf
from fmlayers.bayes.scores import Scores
from fmlayers.metrics import calibration_error, log_loss

USERS, ITEMS = 30, 20


def planted(rng, rows=1500, noise=0.5):
    """Returns ids, with attributes of users and items, and targets of an FM."""
    inputs = inputs_of(rng, USERS, ITEMS, rows)
    user, item = inputs["user"], inputs["item"]
    u, v = rng.normal(size=(USERS, 2)), rng.normal(size=(ITEMS + 1, 2))
    score = 3.0 + np.sum(u[user] * v[item], axis=1) + 0.3 * inputs["hour"]
    return inputs, score + noise * rng.normal(size=rows)


def rows(inputs, chosen):
    return {name: x[chosen] for name, x in inputs.items()}


def mean_over_samples(sampler, inputs, expected=lambda scores: scores):
    fitted = sampler._fitted
    scores = Scores(fields_of(sampler.features, inputs, fitted.histories))
    return np.mean([expected(scores(x)) for x in fitted.samples], axis=0)


@pytest.fixture(scope="module")
def sampled():
    rng = np.random.default_rng(0)
    inputs, targets = planted(rng)
    train, test = np.arange(400), np.arange(400, 1500)
    fitted = rows(inputs, train)
    sampler = GibbsSampler(features_of(fitted, USERS, ITEMS), 3, chains=2, seed=1)
    sampler.fit(fitted, targets[train], sweeps=25, burn_in=10)
    seen = set(zip(fitted["user"], fitted["item"], strict=True))
    pairs = zip(inputs["user"][test], inputs["item"][test], strict=True)
    new = test[[pair not in seen for pair in pairs]]
    return sampler, rows(inputs, new), targets[new]


def test_the_model_is_the_mean_of_the_samples(sampled):
    sampler, inputs, _ = sampled
    model = sampler.to_model()
    assert model.dim == 30 * 3
    assert type(model) is fmlayers.models.FactorizationMachine
    expected = mean_over_samples(sampler, inputs)
    found = ops.convert_to_numpy(model.score(inputs))[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    found = model.predict(inputs, verbose=0)[:, 0]
    np.testing.assert_allclose(found, sampler.predict(inputs), rtol=1e-4, atol=1e-4)


def test_unknown_ids_have_the_mean_of_the_prior(sampled):
    sampler, inputs, _ = sampled
    unknown = {**inputs, "user": np.full(len(inputs["user"]), -1)}
    expected = sampler.predict(unknown)
    found = sampler.to_model().predict(unknown, verbose=0)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.std(expected) < np.std(sampler.predict(inputs))


def test_a_smaller_dimension_loses_little(sampled):
    sampler, inputs, targets = sampled
    errors = {}
    for dim in (None, 24, 2):
        found = sampler.to_model(dim).predict(inputs, verbose=0)[:, 0]
        errors[dim] = np.sqrt(np.mean((found - targets) ** 2))
    assert errors[24] < 1.01 * errors[None]
    assert errors[2] > errors[24]


def test_two_fields_are_reduced_in_the_best_way(rng):
    inputs, targets = planted(rng)
    features = features_of(inputs, USERS, ITEMS)[:2]
    sampler = GibbsSampler(features, 2, chains=2, max_dim=8)
    sampler.fit(inputs, targets, sweeps=40)
    assert sampler.to_model().dim <= 8
    whole = GibbsSampler(features, 2, chains=2).fit(inputs, targets, sweeps=40)
    found = sampler.to_model(4).predict(inputs, verbose=0)
    expected = whole.to_model().predict(inputs, verbose=0)
    assert np.std(found - expected) < 0.1 * np.std(expected)


def test_validation_and_callbacks(rng):
    inputs, targets = planted(rng, noise=0.5)
    train, held_out = np.arange(1000), np.arange(1000, 1500)
    seen = []
    features = features_of(inputs, USERS, ITEMS)[:2]
    sampler = GibbsSampler(features, 3, chains=2)
    sampler.fit(
        rows(inputs, train),
        targets[train],
        sweeps=30,
        burn_in=5,
        validation_data=(rows(inputs, held_out), targets[held_out]),
        callbacks=[lambda sweep, figures: seen.append((sweep, figures))],
    )
    assert [sweep for sweep, _ in seen] == list(range(1, 31))
    assert "val_rmse" not in seen[4][1]
    last = seen[-1][1]
    for name, chosen in (("rmse", train), ("val_rmse", held_out)):
        predicted = sampler.predict(rows(inputs, chosen))
        rmse = np.sqrt(np.mean((predicted - targets[chosen]) ** 2))
        np.testing.assert_allclose(last[name], rmse, rtol=1e-4)
    assert last["val_rmse"] < 0.5 * np.std(targets)
    np.testing.assert_allclose(last["alpha"], 1 / 0.6**2, rtol=0.4)


def test_the_default_dimension_depends_on_the_rows(rng, monkeypatch):
    monkeypatch.setattr(defaults, "MANY", 70)
    inputs, targets = planted(rng, 80)
    for count, dim in ((69, 20), (70, 32)):
        fitted = rows(inputs, np.arange(count))
        sampler = GibbsSampler(features_of(fitted, USERS, ITEMS), chains=1)
        sampler.fit(fitted, targets[:count], sweeps=2)
        model, _ = next(sampler.draws())
        assert model.dim == dim
        assert GibbsSampler.from_config(sampler.get_config()).dim is None


def test_equal_seeds_give_equal_samples(rng):
    inputs, targets = planted(rng, 300)
    features = features_of(inputs, USERS, ITEMS)
    one, same, other = (
        GibbsSampler(features, 2, chains=1, seed=seed)
        .fit(inputs, targets, sweeps=4, burn_in=2)
        .predict(inputs)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.slow
def test_standard_deviations_are_calibrated():
    rng = np.random.default_rng(2)
    inputs, targets = planted(rng, 4000, noise=0.7)
    train, test = np.arange(600), np.arange(600, 4000)
    features = features_of(inputs, USERS, ITEMS)[:2]
    sampler = GibbsSampler(features, 3, chains=4)
    sampler.fit(rows(inputs, train), targets[train], sweeps=80, burn_in=20)
    mean, std = sampler.predict(rows(inputs, test), return_std=True)
    # Means at the lowest and the highest target of the training rows are clipped.
    inside = (mean > targets[train].min()) & (mean < targets[train].max())
    errors = np.abs(mean - targets[test])[inside]
    for z, share in ((0.674, 0.5), (1.282, 0.8), (1.960, 0.95)):
        covered = np.mean(errors < z * std[inside])
        assert abs(covered - share) < 0.05, (share, covered)
    assert errors[std[inside] > np.median(std)].mean() > errors.mean()


def test_errors(rng):
    inputs, targets = planted(rng, 50)
    features = features_of(inputs, USERS, ITEMS)
    sampler = GibbsSampler(features, 2)
    check_error("`fit` must be called first", lambda: sampler.predict(inputs))
    check_error("`fit` must be called first", sampler.to_model)
    check_error("`scaler` must be", lambda: sampler.to_model(scaler="clip"))
    check_error("`return_std` must", lambda: sampler.predict(inputs, return_std="no"))
    check_error("`dim` must be", lambda: GibbsSampler(features, 0))
    check_error("`chains` must be", lambda: GibbsSampler(features, 2, chains=0))
    check_error(
        "`prior_scale` must be", lambda: GibbsSampler(features, 2, prior_scale=0.0)
    )
    check_error(
        "`likelihood` must be", lambda: GibbsSampler(features, 2, likelihood="logit")
    )
    labeled = GibbsSampler(features, 2, likelihood="probit")
    labels = (targets > 3).astype(int)
    for message, y, options in (
        ("`targets` must be labels", targets, {}),
        ("and contain both", np.ones(50), {}),
        ("`sample_weight` must be left out", labels, {"sample_weight": np.ones(50)}),
        (
            "`validation_data` must be labels",
            labels,
            {"validation_data": (inputs, targets)},
        ),
    ):
        check_error(message, lambda y=y, o=options: labeled.fit(inputs, y, **o))
    shared = [
        fmlayers.Categorical("a", 3, table="t"),
        fmlayers.Categorical("b", 3, table="t"),
    ]
    check_error("`features` must have separate", lambda: GibbsSampler(shared, 2))
    fits = [
        ("nan in row 0, and 50", (inputs, np.full(50, np.nan)), {}),
        ("`targets` must be finite", (inputs, ["4"] * 49 + ["good"]), {}),
        ("`targets` must be finite", (inputs, targets[:0]), {}),
        ("`inputs` and `targets` must", (inputs, targets[:-1]), {}),
        ("`burn_in` must be", (inputs, targets), {"sweeps": 5, "burn_in": 5}),
        ("`callbacks` must be", (inputs, targets), {"callbacks": print}),
        (
            "`callbacks` must be",
            (inputs, targets),
            {"callbacks": [keras.callbacks.TerminateOnNaN()]},
        ),
        ("`validation_data` must be", (inputs, targets), {"validation_data": inputs}),
        (
            "`validation_data` must be",
            (inputs, targets),
            {"validation_data": (inputs, targets, targets)},
        ),
        (
            "`validation_data` must have the same",
            (inputs, targets),
            {"validation_data": (inputs, targets[:-1])},
        ),
        (
            "`sample_weight` must be nonneg",
            (inputs, targets),
            {"sample_weight": -np.ones(50)},
        ),
    ]
    for message, arguments, options in fits:
        check_error(message, lambda a=arguments, o=options: sampler.fit(*a, **o))
    wrong = [
        *features[:-1],
        fmlayers.History(
            "history", ITEMS + 1, of="user", num_keys=USERS, values="item", num_pairs=1
        ),
    ]
    check_error(
        "`num_pairs` of feature 'history' must",
        lambda: GibbsSampler(wrong, 2).fit(inputs, targets),
    )


@pytest.fixture(scope="module")
def labeled():
    """A sampler of labels, with test rows, their labels and probabilities."""
    rng = np.random.default_rng(4)
    inputs, scores = planted(rng, 6000, noise=0.0)
    scores -= scores.mean()
    probabilities = normal_cdf(scores.astype("float32"))
    labels = (rng.random(len(scores)) < probabilities).astype("float64")
    train, test = np.arange(3000), np.arange(3000, 6000)
    sampler = GibbsSampler(
        features_of(inputs, USERS, ITEMS)[:2], 3, likelihood="probit", chains=2
    )
    seen = []
    sampler.fit(
        rows(inputs, train),
        labels[train],
        sweeps=36,
        burn_in=20,
        validation_data=(rows(inputs, test), labels[test]),
        callbacks=[lambda _, figures: seen.append(figures)],
    )
    return sampler, rows(inputs, test), labels[test], probabilities[test], seen


def test_probabilities_of_labels(labeled):
    sampler, inputs, labels, truth, seen = labeled
    mean, std = sampler.predict(inputs, return_std=True)
    assert np.corrcoef(mean, truth)[0, 1] > 0.9
    loss = log_loss(labels, mean)
    assert loss < 0.5 * (log_loss(labels, truth) + log_loss(labels, labels * 0.0 + 0.5))
    assert calibration_error(labels, mean) < 0.05
    np.testing.assert_allclose(seen[-1]["val_log_loss"], loss, rtol=0.02)
    assert {each["alpha"] for each in seen} == {1.0}
    assert seen[-1]["log_loss"] < seen[0]["log_loss"]
    # The standard deviations are those of the probability.
    assert 0.75 < np.mean(np.abs(mean - truth) < 1.96 * std) < 0.99


def test_a_probability_is_the_mean_over_the_samples(labeled):
    sampler, inputs, *_ = labeled
    expected = mean_over_samples(sampler, inputs, normal_cdf)
    np.testing.assert_allclose(sampler.predict(inputs), expected, atol=0.03)


def test_the_model_of_labels_approximates_the_probabilities(labeled):
    sampler, inputs, labels, *_ = labeled
    expected = sampler.predict(inputs)
    model = sampler.to_model()
    assert model.scaler.method == "sigmoid"
    found = model.predict(inputs, verbose=0)[:, 0]
    error = np.abs(found - expected)
    assert error.mean() < 0.008
    assert error.max() < 0.1
    assert log_loss(labels, found) < log_loss(labels, expected) + 0.002
