import pytest
from keras_tuner import HyperModel, HyperParameters

from fmlayers.tuning import TuningConfig, tuners
from fmlayers.tuning.combinations import combinations, is_countable


class Model(HyperModel):
    builds = False

    def build(self, hp):
        return None


def space():
    """Return 2 * (1 + 2 * 3) combinations, one of them with a value of another name."""
    hp = HyperParameters()
    hp.Fixed("seed", 3)
    hp.Choice("dim", [2, 8])
    hp.Choice("model", ["fm", "deepfm"])
    with hp.conditional_scope("model", ["deepfm"]):
        hp.Boolean("bias")
        hp.Int("layers", 1, 3)
    return hp


def test_active_values_alone_are_combined():
    actual = list(combinations(space().space))
    assert len(actual) == len({tuple(values.items()) for values in actual}) == 14
    assert actual[0] == {"seed": 3, "dim": 2, "model": "fm"}
    assert actual[-1].keys() == {"seed", "dim", "model", "bias", "layers"}
    assert {values.get("layers") for values in actual} == {None, 1, 2, 3}


def test_a_range_without_a_step_is_not_countable():
    hp = space()
    hp.Float("rate", 0.0, 1.0, step=0.5)
    assert is_countable(hp.space)
    assert len(list(combinations(hp.space))) == 42
    hp.Float("l2", 0.1, 1.0)
    assert not is_countable(hp.space)


@pytest.mark.parametrize(
    "tuner", ["random", pytest.param("bayesian", marks=pytest.mark.slow)]
)
def test_all_combinations_are_tried_once(tuner, tmp_path):
    if tuner == "bayesian":
        pytest.importorskip("sklearn")

    def begin(max_trials):
        config = TuningConfig(tuner=tuner)
        made = tuners.make_tuner(config, tmp_path, Model(), space(), max_trials)
        return made.oracle

    def search(oracle):
        while (trial := oracle.create_trial("one")).status == "RUNNING":
            score = trial.hyperparameters.values["dim"] + int(trial.trial_id) % 3
            oracle.update_trial(trial.trial_id, {"val_rmse": score})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)

    oracle = begin(5)
    search(oracle)
    assert (len(oracle.trials), oracle.exhausted) == (5, 0)
    oracle = begin(30)
    search(oracle)
    assert (len(oracle.trials), oracle.exhausted) == (14, 14)
    tried = [trial.hyperparameters.values for trial in oracle.trials.values()]
    assert len({tuple(sorted(values.items())) for values in tried}) == 14
