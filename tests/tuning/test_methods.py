"""A search over the method: gradient descent or Gibbs sampling."""

import numpy as np
import pytest
from checks import check_error

from fmlayers import cli
from fmlayers.runs import TrainingConfig
from fmlayers.tuning import Study, StudyError, TuningConfig, tune
from fmlayers.tuning.tuning_config import of_method

BOTH = ("gradient", "gibbs")
QUICK = {"method": "gibbs", "sweeps": 12, "chains": 2}


@pytest.fixture(scope="module")
def study(make_config, tmp_path_factory):
    """Search over both methods; tests leave the study as it is."""
    base = {"data": make_config().training.data, "validation_fraction": 0.2}
    config = TuningConfig(
        training=TrainingConfig(**base, **QUICK),
        methods=BOTH,
        search={"method": "", "dim": "4,8", "dim/gibbs": "4,6"},
    )
    out = tmp_path_factory.mktemp("study") / "s"
    return tune(config, out, max_trials=6)


def test_trials_have_the_settings_of_their_method(study):
    trials = study.trials()
    assert (trials["status"] == "COMPLETED").all(), trials["reason"].tolist()
    assert set(trials["method"]) == set(BOTH)
    for trial, method in zip(trials["trial"], trials["method"], strict=True):
        config = study.configured(trial)
        assert config.method == method
        assert config.validation_fraction == 0.0
        expected = (4, 6) if method == "gibbs" else (4, 8)
        assert config.dim in expected
    sampled = trials[trials["method"] == "gibbs"]
    assert (sampled["epochs"] == 12).all()
    assert np.isfinite(sampled["val_rmse"]).all()


def test_the_best_run_has_the_method_of_the_best_trial(study):
    best = study.trials().sort_values("val_rmse").iloc[0]
    assert Study(study.path).run.config == study.configured(best["trial"])
    assert study.run.config.method == best["method"]


def test_one_method_is_searched(make_config, tmp_path):
    config = make_config(QUICK | {"max_epochs": 100, "batch_size": None}, search=None)
    assert config.methods == ("gibbs",)
    study = tune(config, tmp_path / "s", max_trials=2)
    trials = study.trials()
    assert (trials["status"] == "COMPLETED").all()
    assert {"combiner", "dim"} >= set(trials.columns) - {
        *("trial", "status", "val_rmse", "epochs", "seconds", "reason")
    }
    assert study.run.config.sweeps == 12


def test_recommendations_are_an_objective(make_config, tmp_path):
    base = QUICK | {"max_epochs": 100, "batch_size": None}
    config = make_config(base, search={"dim": "4"}, objective="val_ndcg")
    trials = tune(config, tmp_path / "s", max_trials=1).trials()
    assert 0.0 < trials["val_ndcg"].iloc[0] < 1.0


def test_a_record_is_read_back(make_config):
    config = make_config({"scaler": "sigmoid"}, methods=BOTH, search=None)
    assert TuningConfig.from_dict(config.to_dict()) == config
    record = config.to_dict()
    del record["methods"]
    assert TuningConfig.from_dict(record).methods == ("gradient",)


def test_the_settings_of_the_other_method_are_left_out():
    base = TrainingConfig(l2=0.5, histories=True, scaler="sigmoid", dim=7, weight="w")
    sampled = of_method(base, "gibbs")
    assert sampled == TrainingConfig(method="gibbs", histories=True, weight="w")
    assert of_method(sampled, "gradient") == TrainingConfig(histories=True, weight="w")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["mcmc"]}, "`methods` must be among .*'gibbs'.*each once"),
        ({"methods": ["gibbs", "gibbs"]}, "`methods` must be among"),
        ({"models": ["fm", "mf"]}, "`models` must be .'fm'. with the method 'gibbs'"),
        ({"tuner": "hyperband"}, "`tuner` must be 'random' or 'bayesian'"),
        (
            {"training": TrainingConfig(task="implicit")},
            "`task` must be 'regression' or 'binary' with the method 'gibbs'",
        ),
    ],
    ids=str,
)
def test_what_sampling_does_not_support_is_refused(changes, message):
    check_error(message, lambda: TuningConfig(**({"methods": BOTH} | changes)))


def test_the_command_lists_the_methods(make_config, capsys):
    data = make_config().training.data
    options = ["--data", data, "--method", *BOTH, "--list", "--out", "nowhere"]
    assert cli.main(["tune", *options, "--dim", "16"]) == 0
    listed = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert listed["method"].startswith("gradient, gibbs")
    assert "dim/gibbs" in listed
    # A setting of one method makes it the default of the search.
    config = TuningConfig.from_settings({"sweeps": 50}, methods=BOTH)
    assert (config.training.method, config.training.sweeps) == ("gibbs", 50)


def test_sampling_above_the_memory_limit_is_a_failed_trial(make_config, tmp_path):
    base = QUICK | {"max_epochs": 100, "batch_size": None}
    config = make_config(base, search={"dim": "4"}, memory_limit=1000)
    with pytest.raises(StudyError, match="more than the `memory_limit`"):
        tune(config, tmp_path / "s", max_trials=1)
