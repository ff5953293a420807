"""The data of a run: from its sources, or from tables in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fmlayers.data import DataError, Dataset, Split, load, split_rows
from fmlayers.data.dependent_columns import with_dependent_columns
from fmlayers.data.fingerprint import fingerprint_of_tables
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.folder import RunError
from fmlayers.runs.targets import with_targets

# A dataset, its ratings, or a dict from "ratings", "users", "items", "test" and
# "validation" to tables or files.
Tables = Dataset | pd.DataFrame | Mapping[str, pd.DataFrame | str]
Data = str | Path | Tables
TABLES = ("ratings", "users", "items", "test", "validation")
IN_MEMORY = "(in memory)"  # the source of a run that was trained on such tables


@dataclass(frozen=True, eq=False)
class RunData:
    """The data of a run.

    Attributes:
        loaded: The `Dataset` as it was read.
        dataset: The same with the targets of the run's task, and with the columns of
            users and items in tables of their own.
        has_tables: Whether there are further tables, or all are in memory.
    """

    loaded: Dataset
    dataset: Dataset
    has_tables: bool

    @classmethod
    def read(cls, config: TrainingConfig, data: Data | None = None) -> "RunData":
        """Reads the data of a configuration.

        Args:
            config: The configuration.
            data: Optional source or tables. Defaults to the sources in `config`.

        Raises:
            DataError: If the data cannot be used.
            RunError: If the data were in memory, and `data` is `None`.
            ValueError: If `data` has the wrong type.
        """
        data = config.data if data is None else data
        if isinstance(data, str) and data == IN_MEMORY:
            raise RunError(
                "The run was trained on data in memory. Pass them again: "
                "`Run(path, dataset=...)`."
            )
        loaded = _loaded(config, data)
        own = (config.users, config.items, config.test, config.validation)
        dataset = with_dependent_columns(
            with_targets(loaded, config),
            user_columns=config.user_columns,
            item_columns=config.item_columns,
        )
        return cls(loaded, dataset, any(own) or not isinstance(data, str | Path))

    def fingerprints(self) -> dict[str, str]:
        """Returns the fingerprint of the ratings and, if any, that of the tables."""
        known = {"fingerprint": self.loaded.fingerprint()}
        if self.has_tables:
            known["tables"] = fingerprint_of_tables(self.loaded)
        return known

    def check(self, recorded: Mapping[str, str], run: Path) -> None:
        """Checks that the data are those of a run.

        Args:
            recorded: The entries that `fingerprints` returned.
            run: The folder of the run.

        Raises:
            DataError: If they are not.
        """
        name = self.loaded.name
        if self.loaded.fingerprint() != recorded["fingerprint"]:
            raise DataError(
                f"{name} no longer holds the ratings that {run} was trained on. Name "
                "the source of these ratings with `--data`, or pass them as `dataset`."
            )
        tables = recorded.get("tables")
        if tables is not None and fingerprint_of_tables(self.loaded) != tables:
            raise DataError(
                f"{name} holds the ratings that {run} was trained on, but another "
                "column, table of users or items, or division into files. Restore "
                "them, or train again."
            )

    def split(self, config: TrainingConfig) -> Split:
        """Returns the training and the test rows."""
        return split_rows(self.dataset, config.split, config.test_fraction, config.seed)


def in_memory(config: TrainingConfig) -> TrainingConfig:
    """Returns the configuration of a run on tables in memory, for its record."""
    return replace(
        config, data=IN_MEMORY, test=None, validation=None, users=None, items=None
    )


def _loaded(config: TrainingConfig, data: Data) -> Dataset:
    if isinstance(data, Dataset):
        return data
    arguments = config.columns_of_a_table()
    if isinstance(data, str | Path):
        return load(str(data), **arguments)
    tables = {"ratings": data} if isinstance(data, pd.DataFrame) else data
    is_dict = isinstance(tables, Mapping) and "ratings" in tables
    if not is_dict or set(tables) - set(TABLES):
        raise ValueError(
            "`dataset` must be a `Dataset`, a `DataFrame`, or a dict with the entry "
            f"'ratings' and none but {', '.join(map(repr, TABLES))}. Received: "
            f"{list(tables) if isinstance(tables, Mapping) else type(data)}."
        )
    others = {name: tables[name] for name in TABLES[1:] if name in tables}
    return load(tables["ratings"], **{**arguments, **others})
