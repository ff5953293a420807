"""What `inspect` prints of data."""

import numpy as np
import pandas as pd
import pytest

from fmlayers import cli
from fmlayers.data import DataError
from fmlayers.runs import TrainingConfig, inspect


@pytest.fixture
def shop(tmp_path):
    """A file of 100 rows with five columns, in which one row repeats another."""
    rng = np.random.default_rng(0)
    rows = np.arange(100)
    table = pd.DataFrame(
        {
            "who": rows % 20,
            "what": rows % 21,
            "stars": rows % 5 + 1,
            "bought": rows % 4 == 0,
            "price": np.round(rng.lognormal(3, 2, 100), 2),
        }
    )
    table.loc[5, "price"] = 9999
    table.loc[99, ["who", "what"]] = table.loc[0, ["who", "what"]]
    path = tmp_path / "shop.csv"
    table.to_csv(path, index=False, sep=";")
    return {
        "data": str(path),
        "user": "who",
        "item": "what",
        "target": "stars",
        "separator": ";",
    }


def test_numbers(shop):
    text = inspect(TrainingConfig(**shop))
    assert text.splitlines()[:5] == [
        "rows   100",
        "users   20",
        "items   21",
        "target stars: 1 to 5, mean 3, median 3, standard deviation 1.414, 5 distinct "
        "values",
        "",
    ]
    assert "\nprice   numeric" in text
    assert "\nbought  categorical" in text
    assert "\nlong tail: price (" in text
    assert text.endswith(
        "\ndata: shop.csv: kept 1 of 100 rows that repeat a user and an item.\n"
    )


def test_labels(shop):
    text = inspect(TrainingConfig(**{**shop, "target": "bought"}, task="binary"))
    assert "\ntarget bought: 25 positives (25.0%)\n" in text
    assert "data: shop.csv: the label is 1 for bought" in text


def test_implicit_feedback(shop):
    config = TrainingConfig(**shop, task="implicit", positive_threshold=4)
    text = inspect(config)
    assert "\ntarget stars: 40 of 99 rows are positives (40.4%)\n" in text
    assert "data: shop.csv: dropped 1 of 100 rows" in text


def test_a_table_without_users_and_items(shop):
    shop = {**shop, "user": "user", "item": "item", "kinds": ["who:hash=9"]}
    text = inspect(TrainingConfig(**shop))
    assert text.startswith("rows  100\ntarget stars: ")
    assert "\nwho     hash=9" in text
    assert "\nno recommendations: they need the columns of users and items" in text


def test_the_command_takes_the_options_of_training(shop, capsys):
    options = [x for name, value in shop.items() for x in (f"--{name}", value)]
    kinds = ["--kinds", "price:quantiles=5", "bought:none"]
    assert cli.main(["inspect", *options, *kinds]) == 0
    printed, errors = capsys.readouterr()
    config = TrainingConfig(**shop, kinds=["price:quantiles=5", "bought:none"])
    assert printed == inspect(config)
    assert "\nprice   quantiles=5" in printed
    assert "bought" not in printed.split("left out")[0]
    assert not errors


def test_the_command_takes_no_options_of_models(shop, capsys):
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--data", shop["data"], "--dim", "8"])
    assert "--dim" in capsys.readouterr().err


def test_bad_data_are_errors(shop, capsys):
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        inspect(TrainingConfig(data="none.csv"))
    assert cli.main(["inspect", "--data", shop["data"], "--kinds", "price"]) == 1
    assert "has no column" in capsys.readouterr().err
