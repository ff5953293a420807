"""The data of a run: from its sources, or from tables in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fmlayers.data import DataError, Dataset, Split, load, split_rows
from fmlayers.data.column_values import identifiers, numbers
from fmlayers.data.dependent_columns import with_dependent_columns
from fmlayers.data.fingerprint import fingerprint_of_tables
from fmlayers.data.table_files import TableFile
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
        loaded = _loaded(config, data)
        own = [getattr(config, name) for name in TABLES[1:]]
        dataset = with_dependent_columns(
            with_targets(loaded, config),
            user_columns=config.user_columns,
            item_columns=config.item_columns,
            weights=config.weights_of,
        )
        return cls(loaded, dataset, any(own) or not isinstance(data, str | Path))

    def fingerprints(self) -> dict[str, str]:
        """Returns the fingerprint of the ratings and, if any, that of the tables."""
        return {"fingerprint": self.loaded.fingerprint(), **self.tables_fingerprint()}

    def tables_fingerprint(self) -> dict[str, str]:
        """Returns the fingerprint of the tables, or an empty dict if there are none."""
        if not self.has_tables:
            return {}
        return {"tables": fingerprint_of_tables(self.loaded)}

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


def in_memory(config: TrainingConfig, data: Tables) -> TrainingConfig:
    """Returns the configuration of a run on tables in memory, for its record."""
    if isinstance(data, Dataset):
        tables: Mapping[str, object] = {
            "ratings": data.ratings,
            "users": data.users,
            "items": data.items,
            **data.parts,
        }
    else:
        tables = _by_name(data)
    sources = {
        "data" if name == "ratings" else name: table
        if isinstance(table, str)
        else IN_MEMORY
        for name, table in tables.items()
        if table is not None
    }
    return replace(config, **sources)  # type: ignore[arg-type]


def _loaded(config: TrainingConfig, data: Data) -> Dataset:
    arguments = config.columns_of_a_table()
    if isinstance(data, Dataset):
        for name in TABLES[1:]:
            if arguments[name] not in (None, IN_MEMORY):
                raise ValueError(
                    f"`{name}` must be left out with a `Dataset`, which contains all "
                    f"tables. Received: {name}={arguments[name]!r}."
                )
        source = TableFile.read(data.ratings, config.table_format, data.name)
        for key in ("user", "item"):
            if key in data.ratings:
                identifiers(source, key, key)
        numbers(source, "rating")
        return data
    tables = _by_name(data)
    arguments |= {name: table for name, table in tables.items() if name != "ratings"}
    sources = {**arguments, "data": tables["ratings"]}
    absent = [
        name
        for name in ("data", *TABLES[1:])
        if isinstance(sources[name], str) and sources[name] == IN_MEMORY
    ]
    if absent:
        raise RunError(
            f"The run was trained on data in memory, of which {', '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} missing. Pass them again, with "
            "`Run(path, dataset=...)`."
        )
    return load(tables["ratings"], **arguments)


def _by_name(data: str | Path | pd.DataFrame | Mapping[str, Any]) -> dict[str, Any]:
    """Returns tables and sources by their names, of which one is `"ratings"`."""
    if isinstance(data, str | Path | pd.DataFrame):
        return {"ratings": str(data) if isinstance(data, Path) else data}
    names = list(data) if isinstance(data, Mapping) else [type(data).__name__]
    if not isinstance(data, Mapping) or "ratings" not in data or set(names) - {*TABLES}:
        raise ValueError(
            "`dataset` must be a `Dataset`, a `DataFrame`, or a dict with the entry "
            f"'ratings' and no others than {', '.join(map(repr, TABLES[1:]))}. "
            f"Received: {', '.join(map(str, names))}."
        )
    return {name: table for name, table in data.items() if table is not None}
