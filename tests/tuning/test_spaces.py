import inspect
import re

import keras
import keras_tuner
import numpy as np
import pytest

import fmlayers
from fmlayers import tuning
from fmlayers.models import (
    DeepFM,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.runs import TrainingConfig
from fmlayers.tuning import spaces
from fmlayers.tuning.hyperparameters import search_values

MODELS = (
    DeepFM,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)


def defaults_of(thing):
    parameters = inspect.signature(thing).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def defaults(space, *arguments, **options):
    return space(keras_tuner.HyperParameters(), *arguments, **options)


@pytest.mark.parametrize("model", MODELS)
def test_defaults_are_the_models_own(model):
    own = defaults_of(FactorizationMachine) | defaults_of(model)
    actual = defaults(tuning.embedding_space) | defaults(tuning.linear_space)
    for name in ("l2", "linear_l2"):  # the space begins at the command's, for ratings
        low, high = search_values(name)
        assert low <= own[name] <= actual[name] <= high
    if model in (DeepFM, NeuralMatrixFactorization):
        given = [own["hidden_units"]] if model is NeuralMatrixFactorization else []
        tower = defaults(tuning.tower_space, *given)
        assert tower == {name: own[name] for name in ("hidden_units", "dropout")}


def test_defaults_are_the_layers_own():
    reduce = defaults_of(fmlayers.FMInteraction)["reduce"]
    assert defaults(tuning.interaction_space) == {"reduce": reduce}
    method = defaults_of(fmlayers.RatingScaler)["method"]
    assert defaults(tuning.scaler_space) == {"method": method}
    for layer in (fmlayers.MaskedMeanPooling, fmlayers.MultiCategorical):
        combiner = defaults_of(layer)["combiner"]
        assert defaults(tuning.pooling_space) == {"combiner": combiner}
    features = [fmlayers.Categorical("user", 5)]
    layer = fmlayers.FeatureEmbedding(features, 4)
    actual = defaults(tuning.embedding_space)["embeddings_initializer"]
    assert actual.stddev == layer.embeddings_initializer.stddev


def test_defaults_are_the_command_s():
    config = TrainingConfig()
    actual = defaults(tuning.embedding_space)
    assert (actual["dim"], actual["l2"]) == (config.dim, config.l2)
    assert actual["embeddings_initializer"].stddev == config.init_stddev
    assert defaults(tuning.linear_space)["linear_l2"] == config.linear_l2
    optimizer = defaults(tuning.optimizer_space)["optimizer"]
    assert type(optimizer) is Adagrad
    np.testing.assert_allclose(optimizer.learning_rate, config.learning_rate)
    optimizer = defaults(tuning.optimizer_space, optimizer="lazy_adam")["optimizer"]
    assert type(optimizer) is LazyAdam
    config = TrainingConfig(optimizer="lazy_adam")
    np.testing.assert_allclose(optimizer.learning_rate, config.learning_rate)


def test_defaults_are_those_of_fit():
    own = defaults_of(keras.Model.fit)
    assert own["batch_size"] is None  # 32, by its documentation
    assert defaults(tuning.training_space) == {
        "batch_size": 32,
        "epochs": own["epochs"],
    }
    assert "epochs" not in defaults(tuning.training_space, epochs=None)


def registered():
    hp = keras_tuner.HyperParameters()
    for name in tuning.__all__:
        if name.endswith("_space"):
            getattr(tuning, name)(hp)
    tuning.embedding_space(hp, ["FIELD"])
    return hp


def test_each_hyperparameter_is_documented():
    documented = spaces.__doc__
    for parameter in registered().space:
        default = parameter.default
        if isinstance(default, str):
            values = parameter.values[0]
        else:
            values = f"{parameter.min_value:g} ... {parameter.max_value:g}"
            default = f"{default:g}"
        pattern = rf"`{parameter.name}`.* \| {re.escape(values)}.* \| {default} \|"
        assert re.search(pattern, documented), pattern


@pytest.mark.parametrize("parameter", registered().space, ids=lambda p: p.name)
def test_defaults_can_be_sampled(parameter):
    """A Gaussian process reads the default as a position on the axis."""
    probability = parameter.value_to_prob(parameter.default)
    assert 0.0 <= probability < 1.0
    again = parameter.prob_to_value(probability)
    if isinstance(again, str):
        assert again == parameter.default
    else:
        np.testing.assert_allclose(again, parameter.default, rtol=1e-6)


def test_a_space_is_serializable():
    hp = registered()
    again = keras_tuner.HyperParameters.from_config(hp.get_config())
    assert again.get_config() == hp.get_config()
    again = keras_tuner.HyperParameters.from_proto(hp.to_proto())
    assert {p.name for p in again.space} == {p.name for p in hp.space}


def test_each_field_may_have_an_l2_of_its_own():
    hp = keras_tuner.HyperParameters()
    hp.Fixed("l2/film", 0.5)
    actual = tuning.embedding_space(hp, ["user", "film"])
    assert actual["l2"] == {"user": 0.06, "film": 0.5}
    assert "l2" not in [p.name for p in hp.space]


def test_a_rate_has_the_range_of_its_optimizer():
    hp = keras_tuner.HyperParameters()
    tuning.optimizer_space(hp)
    ranges = {
        p.name: (p.min_value, p.max_value, p.conditions[0].values)
        for p in hp.space
        if p.conditions
    }
    assert ranges == {
        "learning_rate/adagrad": (0.005, 0.5, ["adagrad"]),
        "learning_rate/lazy_adam": (0.0001, 0.01, ["lazy_adam"]),
    }
    assert len({p.name for p in hp.space}) == len(hp.space)
    hp = keras_tuner.HyperParameters()
    hp.Fixed("optimizer", "lazy_adam")
    rate = tuning.optimizer_space(hp)["optimizer"].learning_rate
    np.testing.assert_allclose(rate, 0.001)


@pytest.mark.parametrize("optimizer", ["adagrad", "lazy_adam"])
def test_a_user_may_fix_what_has_conditions(optimizer):
    hp = keras_tuner.HyperParameters()
    hp.Fixed("optimizer", optimizer)
    hp.Float("learning_rate", 0.02, 0.04, default=0.03)
    rate = tuning.optimizer_space(hp)["optimizer"].learning_rate
    np.testing.assert_allclose(rate, 0.03)
    assert [p.name for p in hp.space] == ["optimizer", "learning_rate"]


def test_name_scopes_keep_two_layers_apart():
    hp = keras_tuner.HyperParameters()
    hp.Fixed("user/dim", 8)
    tuning.embedding_space(hp)
    with hp.name_scope("user"):
        assert tuning.embedding_space(hp)["dim"] == 8
        tuning.optimizer_space(hp)
    assert hp.get("dim") == 64
    assert "user/learning_rate/adagrad" in hp


def test_a_default_outside_of_the_range_widens_it():
    hp = keras_tuner.HyperParameters()
    tuning.embedding_space(hp, dim=512, l2=3.0)
    ranges = {p.name: (p.min_value, p.max_value) for p in hp.space}
    assert (ranges["dim"], ranges["l2"]) == ((4, 512), (0.001, 3.0))


def test_a_default_of_zero_is_held():
    hp = keras_tuner.HyperParameters()
    assert tuning.embedding_space(hp, l2=0.0)["l2"] == 0.0
    assert {p.name: type(p).__name__ for p in hp.space}["l2"] == "Fixed"
