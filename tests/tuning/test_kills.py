"""A search that is killed at its file operations, and resumed."""

import random
import warnings

import pytest
from kill_points import kill_points

from fmlayers.data import synthetic, write_csv

DATA = "shop.csv"
# A search has more points than are checked, as each takes seconds.
NUM_POINTS = 150
CHECKED = sorted(random.Random(0).sample(range(NUM_POINTS), 7))
IMPORTS = ("fmlayers.tuning.study_search", "keras_tuner", "tensorboard")


def search(folder, dim, overwrite):
    import tensorflow as tf

    from fmlayers.runs import TrainingConfig
    from fmlayers.tuning import TuningConfig, tune

    training = TrainingConfig(
        data=str(folder / DATA), model="mf", dim=dim, max_epochs=1, batch_size=256
    )
    config = TuningConfig(training=training, search={"l2": ""})
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf.data compiles its functions, anyway
            tune(config, folder / "s", max_trials=2, overwrite=overwrite)
    finally:
        tf.config.run_functions_eagerly(False)


def trials_of(path):
    from fmlayers.tuning import Study

    trials = Study(path).trials()
    if not len(trials):
        return []
    return trials[["trial", "status", "val_rmse", "l2"]].to_dict("records")


def studies(folder):
    """Return the studies in a folder, and the dimension and trials of each."""
    from fmlayers.tuning import Study
    from fmlayers.tuning.study_folder import former_studies, is_study

    paths = [folder / "s", *former_studies(folder / "s")]
    return {
        Study(path).config.training.dim: trials_of(path)
        for path in paths
        if is_study(path)
    }


@pytest.fixture
def folder(tmp_path):
    ratings = synthetic(num_users=20, num_items=15, num_ratings=200).ratings
    write_csv(ratings, tmp_path / DATA)
    return tmp_path


def checked_points(folder, *args):
    return kill_points(search, folder, *args, imports=IMPORTS, numbers=CHECKED)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_killed_search_loses_no_trial(folder):
    points = 0
    for point in checked_points(folder, 2, False):
        before = studies(folder).get(2, [])
        point.run(search, 2, False)
        after = studies(folder)[2]
        assert after[: len(before)] == before, point
        assert len(after) == 2
        assert (folder / "s" / "best" / "model.keras").exists()
        assert names_in(folder) == {"s", DATA}, point
        points += 1
    assert points >= 5


@pytest.mark.slow
def test_a_killed_overwriting_search_loses_no_study(folder):
    search(folder, 2, False)
    former = studies(folder)
    points = 0
    for point in checked_points(folder, 3, True):
        has_best = (folder / "s" / "best" / "model.keras").exists()
        left = studies(folder)
        assert left.get(2) == former[2] or (has_best and len(left[3]) == 2), point
        point.run(search, 3, True)
        after = studies(folder)
        assert list(after) == [3]
        assert len(after[3]) == 2
        assert names_in(folder) == {"s", DATA}, point
        points += 1
    assert points >= 5
