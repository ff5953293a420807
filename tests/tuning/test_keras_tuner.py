"""The private names of KerasTuner that `fmlayers.tuning` uses."""

import importlib
import inspect

import keras_tuner
import pytest
from keras_tuner import oracles

NAMES = {
    # name: what has it, its parameters or its type, and the module that uses it
    "_get_oracle_fname": ("oracle", [], "tuners"),
    "_get_trial_dir": ("oracle", ["trial_id"], "tuners"),
    "_save_trial": ("oracle", ["trial"], "tuners"),
    "_random_values": ("oracle", [], "tuners"),
    "_duplicate": ("oracle", ["values"], "tuners"),
    "_run_times": ("oracle", dict, "tuners"),
    "_retry_queue": ("oracle", list, "tuners"),
    "_record_values": ("oracle", ["trial"], "tuners"),
    "_seed_state": ("oracle", int, "tuners"),
    "_get_num_rounds": ("hyperband", ["bracket_num"], "tuners"),
    "_build_and_fit_model": ("tuner", ["self", "trial", "args", "kwargs"], "tuners"),
    "_build_hypermodel": ("tuner", ["self", "hp"], "tuners"),
    "_get_checkpoint_fname": ("tuner", ["self", "trial_id"], "tuners"),
    "_is_worker": ("tuner", ["self"], "tuners"),
    "_populate_initial_space": ("tuner", ["self"], "tuners"),
    "_try_build": ("tuner", ["self", "hp"], "tuners"),
    "_random_state": ("bayesian", object, "tuners"),
    "_random_populate_space": ("bayesian", [], "tuners"),
    "_get_name": ("hyperparameters", ["name", "name_scopes"], "hyperparameters"),
    "DEBUG": ("config", bool, "study_search"),
}
OWNERS = {
    "oracle": lambda: oracles.RandomSearchOracle("val_loss", max_trials=1),
    "bayesian": lambda: oracles.BayesianOptimizationOracle("val_loss", max_trials=1),
    "hyperband": lambda: oracles.HyperbandOracle("val_loss"),
    "hyperparameters": keras_tuner.HyperParameters,
    "tuner": lambda: keras_tuner.Tuner,
    "config": lambda: importlib.import_module("keras_tuner.src.config"),
}


@pytest.mark.parametrize("name", NAMES)
def test_private_names_exist(name):
    owner, expected, module = NAMES[name]
    if owner == "bayesian":
        pytest.importorskip("sklearn")
    value = getattr(OWNERS[owner](), name, None)
    if isinstance(expected, list):
        fits = callable(value) and list(inspect.signature(value).parameters) == expected
    else:
        fits = isinstance(value, expected) and value is not None
    assert fits, (
        f"keras-tuner {keras_tuner.__version__} has changed its private {name!r}, used "
        f"by tuning/{module}.py. Adapt that module, and then the upper bound of "
        "keras-tuner in pyproject.toml."
    )
