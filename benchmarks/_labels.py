"""The tables of `benchmarks.labels` and `benchmarks.label_peers`, with their splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks._movielens import data_folder
from fmlayers.data import load, random_split

Rows = npt.NDArray[np.int64]
FRAPPE = (
    *("user", "item", "daytime", "weekday", "weekend", "homework"),
    *("cost", "weather", "country", "city"),
)
ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status"),
    *("occupation", "relationship", "race", "sex", "capital_gain", "capital_loss"),
    *("hours", "country"),
)
SIDE = ("user", "item", "age", "sex", "occupation", "genres", "year")
LIKED = 4  # the lowest rating of a positive


@dataclass(frozen=True)
class LabelTable:
    """Rows with a label, 0 or 1, in the column `label`.

    Attributes:
        rows: All rows, or the training rows if `test` is a table.
        columns: Names of the columns that a model reads.
        numeric: Those of them that are numbers.
        multiple: Those of them with several values, joined by `|`.
        test: Optional test rows of their own file.
    """

    rows: pd.DataFrame
    columns: Sequence[str]
    numeric: tuple[str, ...] = ()
    multiple: tuple[str, ...] = ()
    test: pd.DataFrame | None = None

    def split(self, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Returns the training rows and the test rows."""
        if self.test is not None:
            return self.rows, self.test
        split = random_split(len(self.rows), test_fraction=0.2, seed=seed)
        return self.rows.iloc[split.train], self.rows.iloc[split.test]


def validation_split(rows: int, seed: int) -> tuple[Rows, Rows]:
    """Returns the fitting and the validation rows of `fmlayers train`."""
    shuffled = np.random.default_rng((seed, 1)).permutation(rows)
    count = round(rows * 0.1)
    return shuffled[count:], shuffled[:count]


def table(name: str) -> LabelTable:
    """Returns one of `TABLES` from the folder `FMLAYERS_DATA`."""
    folder = data_folder()
    return TABLES[name](folder / name)


def _frappe(folder: Path) -> LabelTable:
    rows = []
    for part in ("validation", "test"):
        for line in (folder / f"frappe.{part}.libfm").read_text("utf-8").splitlines():
            label, *pairs = line.split()
            ids = [f"v{pair.partition(':')[0]}" for pair in pairs]
            rows.append([int(float(label) > 0), *ids])
    return LabelTable(pd.DataFrame(rows, columns=["label", *FRAPPE]), FRAPPE)


def _adult(folder: Path) -> LabelTable:
    tables = []
    for part in ("data", "test"):
        rows = pd.read_csv(
            folder / f"adult.{part}",
            names=[*ADULT, "income"],
            skipinitialspace=True,
            na_values="?",
        )
        label = rows.pop("income").str.startswith(">50K").astype(int)
        tables.append(rows.assign(label=label))
    numeric = tuple(tables[0][[*ADULT]].select_dtypes("number"))
    return LabelTable(tables[0], ADULT, numeric, test=tables[1])


def _movielens(folder: Path) -> LabelTable:
    rows = load(str(folder)).table()
    label = (rows["rating"] >= LIKED).astype(int)
    text = {"genres": rows["genres"].map("|".join), "label": label}
    rows = rows.assign(**text)[[*SIDE, "label"]]
    return LabelTable(rows, SIDE, multiple=("genres",))


TABLES = {"frappe": _frappe, "adult": _adult, "ml-100k": _movielens}
