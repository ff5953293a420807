import pytest

from fmlayers.data import sources, synthetic, write_csv
from fmlayers.models.from_config import model_from_config
from fmlayers.training import TrainingConfig, train


@pytest.fixture(scope="session")
def films():
    return synthetic(num_users=30, num_items=25, num_ratings=300)


@pytest.fixture(scope="session")
def make_run(films, tmp_path_factory):
    """Train a small run of `films`, or of a CSV of their ratings."""

    def make(data="synthetic", **changes):
        if data == "csv":
            data = str(tmp_path_factory.mktemp("data") / "shop.csv")
            write_csv(films.ratings, data)
        small = {"dim": 3, "max_epochs": 2, "batch_size": 32, "linear_l2": 0.0}
        config = TrainingConfig(data=data, validation_fraction=0.0, **small | changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "synthetic", lambda: films)
            out = tmp_path_factory.mktemp("runs") / "run"
            return train(config, out, model_from_config)

    return make


@pytest.fixture(scope="session")
def film_run(make_run):
    """Train a run with columns of users, of items and of the rating."""
    features = ["user", "item", "age", "sex", "genres", "year", "day"]
    return make_run(features=features)
