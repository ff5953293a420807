"""Checks of arguments, and NumPy's numbers, which are stored as Python's."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error

import fmlayers
from fmlayers import Categorical, FeatureEmbedding, History, MultiCategorical, Numeric
from fmlayers._checks import (
    boolean,
    choice,
    coefficient,
    integer,
    integers,
    number,
    positive,
)
from fmlayers.data import Encoder, ShuffledBatches, random_split, synthetic
from fmlayers.losses import BPR
from fmlayers.metrics import Relevance, ranking_metrics, relevant_by_quantile
from fmlayers.models import (
    DeepFM,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)
from fmlayers.optimizers import Adagrad, LazyAdam
from fmlayers.retrieval import TopN, retrieve
from fmlayers.runs import TrainingConfig
from fmlayers.tuning import TuningConfig

USER, ITEM = Categorical("user", 5), Categorical("item", 4)


def history(size, pairs, combiner="sqrtn"):
    sizes = {"num_keys": size, "num_pairs": pairs}
    return History("rated", size, of="user", values="item", combiner=combiner, **sizes)


# Each takes an integer of 3, a float of 0.25 and a Boolean.
MAKERS = {
    "categorical": lambda i, f, b: Categorical("user", i, mask_zero=b),
    "multi_categorical": lambda i, f, b: MultiCategorical("genres", i),
    "numeric": lambda i, f, b: Numeric("age", use_bias=b),
    "history": lambda i, f, b: history(i, i),
    "embedding": lambda i, f, b: FeatureEmbedding([USER], i, l2=f),
    "embedding, l2 of features": lambda i, f, b: FeatureEmbedding(
        [USER], i, l2={"user": f}
    ),
    "pooling": lambda i, f, b: fmlayers.MaskedMeanPooling(i),
    "scaler": lambda i, f, b: fmlayers.RatingScaler(f, i),
    "fm": lambda i, f, b: FactorizationMachine([USER], i, l2=f, linear_l2=f),
    "mf": lambda i, f, b: MatrixFactorization(USER, ITEM, i, b, l2=f, linear_l2=f),
    "libfm": lambda i, f, b: LibFM([USER], i, batch_normalization=b, positive=b),
    "deepfm": lambda i, f, b: DeepFM(
        [USER], i, hidden_units=[i], dropout=f, batch_normalization=b
    ),
    "neumf": lambda i, f, b: NeuralMatrixFactorization(
        USER, ITEM, i, hidden_units=(i, i), mlp_dim=i, dropout=f, l2=f
    ),
    "top_n": lambda i, f, b: TopN(
        FactorizationMachine([USER, ITEM], 2), ["item"], i, k=i, block_size=i
    ),
    "bpr": lambda i, f, b: BPR(i),
    "adagrad": lambda i, f, b: Adagrad(
        f, initial_accumulator_value=f, clipnorm=f, row_wise=b
    ),
    "lazy_adam": lambda i, f, b: LazyAdam(f, beta_1=f, weight_decay=f, amsgrad=b),
    "encoder": lambda i, f, b: Encoder({"user": "categorical"}, min_count=i).fit(
        pd.DataFrame({"user": ["a"] * 3})
    ),
}
# The types of NumPy that come out of arrays, tables and searches.
TYPES = {
    "scalars": (np.int64(3), np.float32(0.25), np.bool_(True)),
    "narrow": (np.uint8(3), np.float64(0.25), np.True_),
    "arrays": (np.array(3), np.array(0.25), np.array(True)),
}


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_configuration_has_python_numbers(name, types):
    def text(made):
        config = keras.saving.serialize_keras_object(made)["config"]
        return json.dumps(
            {k: v for k, v in config.items() if k not in ("name", "model")}
        )

    make = MAKERS[name]
    assert text(make(*TYPES[types])) == text(make(3, 0.25, True))


@pytest.mark.parametrize(
    "units", [np.array([3, 2]), (np.int32(3), 2), [3, np.uint8(2)]]
)
def test_hidden_units_as_an_array(units):
    model = DeepFM([USER], 2, hidden_units=units)
    assert model.get_config()["hidden_units"] == [3, 2]
    assert json.dumps(model.get_config()["hidden_units"]) == "[3, 2]"


@pytest.mark.slow
def test_a_model_of_numpy_numbers_is_saved_and_loaded(tmp_path):
    model = MAKERS["neumf"](*TYPES["arrays"])
    model.compile(MAKERS["adagrad"](*TYPES["scalars"]), BPR(np.int64(2)))
    batch = {"user": np.array([1, 2]), "item": np.array([1, 3])}
    model.fit(batch, np.array([1.0, 0.0]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(batch, verbose=0)
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), expected)


def test_configurations_of_runs_and_studies():
    numbers = {"dim": 3, "seed": 1, "batch_size": 8, "dropout": 0.25, "l2": 0.5}
    numbers |= {"learning_rate": 0.125, "max_epochs": 2, "validation_fraction": 0.25}
    numpys = {name: np.asarray(value)[()] for name, value in numbers.items()}
    options = {"model": "deepfm", "hidden_units": np.array([3, 2])}
    config = TrainingConfig(**options, **numpys, l2_of={"user": np.float32(0.5)})
    expected = TrainingConfig(
        model="deepfm", hidden_units=(3, 2), **numbers, l2_of={"user": 0.5}
    )
    assert json.dumps(config.to_dict()) == json.dumps(expected.to_dict())
    study = TuningConfig(training=config, k=np.int64(5), memory_limit=np.int64(9))
    assert '"k": 5' in json.dumps(study.to_dict())


def test_numbers_of_calls():
    i = np.int64(2)
    data = synthetic(num_users=i, num_items=i, num_ratings=np.int64(3), rank=i)
    assert len(data.ratings) == 3
    assert len(random_split(10, test_fraction=np.float32(0.2)).test) == 2
    rows = {"user": np.array([1, 2, 3, 4]), "item": np.array([0, 1, 2, 3])}
    batches = ShuffledBatches(rows, np.ones(4), i, seed=i, epoch=i, groups=np.int64(1))
    assert len(batches) == 2
    model = FactorizationMachine([USER, ITEM], 2)
    queries, items = {"user": rows["user"]}, {"item": rows["item"]}
    for k in (i, np.array(2)):
        found = retrieve(model, queries, items, k, batch_size=i)
        assert found[1].shape == (4, 2)
        top = TopN(model, ["item"], np.int64(4), k).index(items, batch_size=i)
        assert top(queries, k=k)[1].shape == (4, 2)
        relevant = Relevance(np.array([0]), np.array([1]))
        ranking_metrics(found[1], relevant, num_items=np.array(4), k=k)
    relevant_by_quantile([0], [1], [5.0], quantile=np.array(0.5))
    assert fmlayers.RatingScaler(1, 5).inverse(np.float32(3.0)) == 0.0


@pytest.mark.parametrize(
    "value", [True, np.True_, 2.0, "2", None, [2], np.array([2]), 0]
)
def test_positive_integer_error(value):
    check_error("`dim` must be a positive integer", lambda: integer("dim", value))
    check_error("`dim` must be", lambda: FeatureEmbedding([USER], value))
    check_error("`k` must be", lambda: integers("k", [1, value], "positive integers"))
    check_error("`vocabulary_size` must be", lambda: Categorical("user", value))


@pytest.mark.parametrize("value", [True, "0.5", None, float("nan"), np.inf, np.ones(2)])
def test_finite_number_error(value):
    check_error("`l2` must be finite", lambda: coefficient("l2", value))
    check_error("`rating` must be a finite", lambda: number("rating", value))
    check_error("`l2` must be finite", lambda: FeatureEmbedding([USER], 2, l2=value))
    check_error("`min_rating`", lambda: fmlayers.RatingScaler(value, 5))
    check_error("`dropout`", lambda: DeepFM([USER], 2, dropout=value))
    check_error("`rate` must be positive", lambda: positive("rate", value))


@pytest.mark.parametrize("value", [1, "yes", None, np.int64(0), np.array([True])])
def test_boolean_error(value):
    check_error("`use_bias` must be True or", lambda: boolean("use_bias", value))
    check_error("`mask_zero` must be", lambda: Categorical("user", 3, mask_zero=value))


@pytest.mark.parametrize("value", ["all", "", 1, None, np.str_("b"), ["a"], np.ones(2)])
def test_choice_error(value):
    expected = '`how` must be "mean", "sum" or "max". Received: how='
    how = ("mean", "sum", "max")
    check_error(expected, lambda: choice("how", value, how))
    check_error(
        r'be "mean" or "sum".* in x\.', lambda: choice("h", 1, how[:2], of=" in x")
    )
    expected = "`combiner` must be.* for feature"
    check_error(expected, lambda: MultiCategorical("genres", 3, combiner=value))
    check_error(expected, lambda: history(3, 2, value))


def test_numpy_strings_and_numbers_become_those_of_python():
    assert type(choice("how", np.str_("sum"), ("mean", "sum"))) is str
    assert type(MultiCategorical("genres", 3, combiner=np.str_("sum")).combiner) is str
    with pytest.raises(ValueError, match="positive"):
        positive("rate", 0.0)
    assert type(positive("rate", np.float32(0.5))) is float


@pytest.mark.parametrize(
    "values", [[], 3, "12", None, np.ones((2, 2), int), [1.5], [0]]
)
def test_integers_error(values):
    check_error(
        "`hidden_units` must be", lambda: DeepFM([USER], 2, hidden_units=values)
    )


@pytest.mark.parametrize("name", ["num_keys", "num_pairs"])
@pytest.mark.parametrize("value", [0, 2**31, 1.0, True])
def test_history_sizes_error(name, value):
    sizes = {"num_keys": 3, "num_pairs": 3, name: value}
    check_error(
        f"`num_keys` and `num_pairs` must be.*{name}={value!r}.* feature 'rated'",
        lambda: History("rated", 3, of="user", values="item", **sizes),
    )
