import pytest

from fmlayers.data import synthetic, write_csv
from fmlayers.runs import TrainingConfig
from fmlayers.tuning import TuningConfig, tune


@pytest.fixture(scope="session")
def ratings():
    return synthetic(num_users=40, num_items=30, num_ratings=800).ratings


@pytest.fixture(scope="session")
def make_config(ratings, tmp_path_factory):
    """Make the configuration of a small study; by default of two rates and L2s."""
    path = tmp_path_factory.mktemp("data") / "shop.csv"
    write_csv(ratings, path)
    training = {"data": str(path), "dim": 4, "max_epochs": 2, "batch_size": 256}
    tuning = {"search": {"l2": "", "learning_rate": "0.05:0.5"}}

    def make(training_changes=None, **changes):
        own = TrainingConfig(**(training | (training_changes or {})))
        return TuningConfig(training=own, **(tuning | changes))

    return make


@pytest.fixture(scope="session")
def study(make_config, tmp_path_factory):
    """Search with six trials; tests leave the study as it is."""
    return tune(make_config(), tmp_path_factory.mktemp("study") / "s", max_trials=6)
