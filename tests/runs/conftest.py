import functools

import pytest

from fmlayers.data import sources, synthetic, write_csv
from fmlayers.runs import TrainingConfig, fitting, train
from fmlayers.runs.model import build_model


@pytest.fixture(scope="session")
def ratings():
    return synthetic(num_users=100, num_items=80, num_ratings=3000).ratings


@pytest.fixture(scope="session")
def make_config(ratings, tmp_path_factory):
    """Make a small configuration; by default of `ratings` in a CSV."""
    path = tmp_path_factory.mktemp("data") / "shop.csv"
    write_csv(ratings, path)
    small = {"data": str(path), "dim": 4, "max_epochs": 3, "batch_size": 256}
    return lambda **changes: TrainingConfig(**(small | changes))


@pytest.fixture(scope="session")
def run(make_config, early, tmp_path_factory):
    """Train a run that stops early; tests leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(make_config(**early), out)


@pytest.fixture(scope="session")
def early():
    """Return changes to a configuration by which the validation RMSE soon rises."""
    return {
        "seed": 3,
        "dim": 8,
        "l2": 0.0,
        "learning_rate": 0.15,
        "max_epochs": 30,
        "patience": 2,
    }


@pytest.fixture(scope="session")
def films():
    return synthetic(num_users=60, num_items=40, num_ratings=1200)


@pytest.fixture(scope="session")
def film_run(films, make_config, tmp_path_factory):
    """Train a run of all of MovieLens' columns, most in tables of their own."""
    config = make_config(data="synthetic", validation_fraction=0.0, max_epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "synthetic", lambda: films)
        return train(config, tmp_path_factory.mktemp("runs") / "films")


@pytest.fixture
def failing(monkeypatch):
    """Train with models of which building the `nth` raises."""

    def train_failing(config, out, nth=1, **options):
        def build(count, *arguments):
            count[0] += 1
            if count[0] == nth:
                raise RuntimeError("no memory")
            return build_model(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(fitting, "build_model", functools.partial(build, [0]))
            return train(config, out, **options)

    return train_failing
