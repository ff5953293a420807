import pandas as pd
import pytest

from fmlayers.data import Encoder
from fmlayers.runs import TrainingConfig
from fmlayers.runs.fitting import make_optimizer
from fmlayers.runs.model import build_model
from fmlayers.tuning.memory import default_limit, estimated_bytes

TABLE = pd.DataFrame(
    {
        "user": [1, 2, 3, 4],
        "item": [5, 6, 5, 7],
        "genres": ["A", "A|B", "", "C"],
        "age": [1.0, 2.0, 3.0, 4.0],
        "rating": [1.0, 2.0, 3.0, 4.0],
    }
)
COLUMNS = {"user": "categorical", "item": "categorical"}
MORE = {"genres": "multi_categorical", "age": "numeric"}


@pytest.mark.parametrize("optimizer", ["adagrad", "lazy_adam"])
@pytest.mark.parametrize("name", ["fm", "libfm", "deepfm", "mf", "neumf"])
def test_the_estimate_equals_the_size_of_a_model(name, optimizer):
    columns = COLUMNS if name in ("mf", "neumf") else COLUMNS | MORE
    encoder = Encoder(columns).fit(TABLE)
    config = TrainingConfig(model=name, optimizer=optimizer, dim=6)
    model = build_model(config, encoder, TABLE)
    model.compile(make_optimizer(optimizer, 0.1, 4))
    model.optimizer.build(model.trainable_variables)
    taken = sum(
        int(v.numpy().nbytes) for v in (*model.weights, *model.optimizer.variables)
    )
    actual = estimated_bytes(config, model.features)
    # The optimizer's own rate and count of steps are not in it.
    assert 0 <= taken - actual <= 16


@pytest.mark.parametrize("optimizer", ["adagrad", "lazy_adam"])
def test_an_optimizer_of_one_number_per_row_takes_less(optimizer):
    features = Encoder(COLUMNS).fit(TABLE).features
    narrow, wide = (
        estimated_bytes(TrainingConfig(optimizer=optimizer, row_wise=each), features)
        for each in (True, False)
    )
    assert make_optimizer(optimizer, 0.1, 4, row_wise=True).row_wise
    assert narrow / wide == (1 / 2 if optimizer == "adagrad" else 2 / 3)


def test_members_multiply_the_estimate():
    features = Encoder(COLUMNS).fit(TABLE).features
    one = estimated_bytes(TrainingConfig(), features)
    assert estimated_bytes(TrainingConfig(members=3), features) == 3 * one


def test_workers_share_the_machine():
    whole = default_limit()
    assert whole is None or (whole > 2**28 and default_limit(4) == whole // 4)
