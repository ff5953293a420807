import pytest

from fmlayers.data import sources, synthetic
from fmlayers.runs import TrainingConfig, train


@pytest.fixture(scope="session")
def films():
    return synthetic(num_users=30, num_items=25, num_ratings=300)


@pytest.fixture(scope="session")
def film_run(films, tmp_path_factory):
    """Return the folder of a small run of `films`."""
    config = TrainingConfig(
        features=["user", "item", "age", "sex", "genres", "year", "day"],
        dim=3,
        max_epochs=2,
        batch_size=32,
        validation_fraction=0.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "synthetic", lambda: films)
        out = tmp_path_factory.mktemp("runs") / "films"
        return train(config, out).path


@pytest.fixture
def data(films, monkeypatch):
    """Let `synthetic` be what the run was trained on."""
    monkeypatch.setattr(sources, "synthetic", lambda: films)
    return films
