"""A custom model with a `ModelSpec` works in runs, searches and exports."""

import subprocess
import sys
from dataclasses import replace

import keras
import keras_tuner
import numpy as np
import pytest
from checks import check_error
from keras import ops

import fmlayers
from fmlayers import cli, models
from fmlayers.data import sources, synthetic
from fmlayers.explain import Terms
from fmlayers.models import ModelSpec, specs
from fmlayers.runs import Run, RunError, TrainingConfig, train
from fmlayers.tuning import HyperRegistered, TuningConfig, searched, tune


@keras.saving.register_keras_serializable(package="tests")
class Halved(models.FactorizationMachine):
    def pairs(self, inputs):
        return super().pairs(inputs) / 2


SPEC = ModelSpec(
    name="halved",
    model_class=Halved,
    summary="a factorization machine of which 50% of the pairs count",
)


@pytest.fixture
def known():
    models.register(SPEC)


@pytest.fixture
def config(monkeypatch, known):
    films = synthetic(num_users=60, num_items=40, num_ratings=1200)
    monkeypatch.setattr(sources, "synthetic", lambda: films)
    return TrainingConfig(model="halved", dim=4, max_epochs=1, batch_size=256)


def test_the_command_lists_it(known, capsys):
    for command in ("train", "tune"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        printed = " ".join(capsys.readouterr().out.split())
        assert "--model {fm,mf,deepfm,libfm,neumf,halved}" in printed
        assert f"halved: {SPEC.summary}" in printed
        assert "for fm, mf, deepfm, libfm and halved (default: 0.01" in printed


def test_settings_of_other_models_error(known):
    check_error(
        r"setting of the models \['deepfm', 'neumf'\].*model='halved'",
        lambda: TrainingConfig(model="halved", dropout=0.5),
    )


@pytest.mark.slow
def test_it_trains(config, tmp_path, monkeypatch):
    run = train(config, tmp_path / "run")
    assert type(run.model) is Halved
    assert run.config.model == "halved"
    assert run.metrics["rmse"] < 1.2 * run.metrics["mean_predictor_rmse"]
    monkeypatch.setattr(specs, "_SPECS", {})
    with pytest.raises(RunError, match=r"first be registered with.*model='halved'"):
        Run(run.path).config  # noqa: B018


def test_it_has_a_search_space(config):
    space = searched(TuningConfig(training=config))
    names = [line.split()[0] for line in space.splitlines()[1:]]
    assert {"dim", "l2", "linear_l2", "optimizer", "combiner"} <= set(names)
    assert "dropout" not in names
    features = [fmlayers.Categorical("user", 9), fmlayers.Categorical("item", 9)]
    hp = keras_tuner.HyperParameters()
    model = HyperRegistered("halved", features, bounds=(1, 5)).build(hp)
    assert type(model) is Halved
    assert "linear_l2" in hp
    assert "dropout" not in hp


SERVES = """
import sys
import numpy as np
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
inputs = np.load(sys.argv[2])
found = serve(**{name: tf.constant(inputs[name]) for name in inputs if name != "out"})
np.testing.assert_allclose(found["rating"], inputs["out"], rtol=1e-5)
"""


@pytest.mark.slow
def test_it_is_searched_and_exported(config, tmp_path, backend):
    training = replace(config, features=("user", "item"))
    config = TuningConfig(training=training, search={"l2": "", "dim": "2,4"})
    study = tune(config, tmp_path / "study", max_trials=2)
    assert study.trials()["status"].tolist() == ["COMPLETED"] * 2
    run = study.run
    assert type(run.model) is Halved
    if backend != "tensorflow":
        pytest.skip("SavedModels are TensorFlow's")
    run.export(tmp_path / "served", "saved_model")
    inputs = {"user": np.array([3, 1, 2, 0]), "item": np.array([1, 5, 7, 2])}
    expected = run.model.predict(inputs, verbose=0)
    np.savez(tmp_path / "inputs.npz", out=expected, **inputs)
    subprocess.run(
        [sys.executable, "-c", SERVES, tmp_path / "served", tmp_path / "inputs.npz"],
        check=True,
    )


@keras.saving.register_keras_serializable(package="tests")
class Sums(fmlayers.ScoringModel):
    """A direct subclass without `build`, whose pairs are all of its score."""

    decomposition = "exact"

    def __init__(self, features, dim, scaler=None, *, l2=0.0, encoder=None, **kwargs):
        for name in ("embeddings_initializer", "bias_initializer"):
            kwargs.pop(name, None)
        super().__init__(features, scaler, encoder=encoder, **kwargs)
        self.vectors = fmlayers.FeatureEmbedding(features, dim, l2=l2)
        self.interaction = fmlayers.FMInteraction()

    def score(self, inputs, training=None):
        return self.interaction(self.vectors(inputs))

    def decompose(self, inputs, names):
        vectors = self.vectors.fields(inputs, names)
        return self.interaction(vectors), ops.sum(vectors, axis=1)

    def terms(self, inputs):
        return Terms.of_pairs(self.vectors(inputs))

    def get_config(self):
        config = {"dim": self.vectors.dim, "l2": self.vectors.l2}
        return {**super().get_config(), **config}


def test_a_direct_subclass_is_trained_and_used_as_a_run(config, tmp_path):
    spec = ModelSpec(
        name="sums", model_class=Sums, summary="pairs of fields", settings=()
    )
    models.register(spec)
    train(replace(config, model="sums"), tmp_path / "run")
    run = Run(tmp_path / "run")
    assert type(run.model) is Sums
    table = run.recommend(["7"], 3)
    assert table["score"].is_monotonic_decreasing
    expected = run.predict(table[["user", "item"]])
    np.testing.assert_allclose(table["rating"], expected, rtol=1e-4)
    parts = run.explain("7", table["item"][0]).parts
    np.testing.assert_allclose(parts.matrix.sum(), parts.score[0], rtol=1e-4)
    assert run.evaluate(k=3).top_n["users"] > 0
