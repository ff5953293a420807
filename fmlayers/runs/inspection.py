"""A description of data, without training."""

from fmlayers._text_tables import aligned
from fmlayers.data import Dataset
from fmlayers.data.columns import describe_columns
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.run_data import RunData, Tables
from fmlayers.runs.targets import positives, transform_hint
from fmlayers.runs.training import columns_of


def inspect(config: TrainingConfig, dataset: Tables | None = None) -> str:
    """Describes the data of a configuration as `train` reads them, without training.

    Args:
        config: The configuration. Of its model, only the columns matter that it takes.
        dataset: Optional data in memory, instead of `config.data`; see
            `fmlayers.runs.train`.

    Returns:
        Lines of text: the numbers of rows, users and items; the distribution of the
        target; a table of the columns with hints; and what was changed in the data.

    Raises:
        DataError: If the data are invalid.
    """
    read = RunData.read(config, dataset).dataset
    described = describe_columns(
        read,
        columns_of(config, read),
        chosen=config.named_kinds,
        **config.written_lists,
    )
    lines = [
        *aligned(_counts(read)).splitlines(),
        _target(config, read),
        "",
        *described,
        *transform_hint(config, read.ratings["rating"]),
        *(f"data: {repair}" for repair in read.repairs),
    ]
    return "\n".join(lines) + "\n"


def _counts(dataset: Dataset) -> list[tuple[str, str]]:
    ratings = dataset.ratings
    keys = [key for key in ("user", "item") if key in ratings]
    counts = [(f"{key}s", f"{ratings[key].nunique():,}") for key in keys]
    return [("rows", f"{len(ratings):,}"), *counts]


def _target(config: TrainingConfig, dataset: Dataset) -> str:
    """Returns a line on the distribution of the target."""
    target = dataset.ratings["rating"]
    rows = len(target)
    name = f"target {config.target}"
    if config.task == "binary":
        return f"{name}: {int(target.sum()):,} positives ({target.mean():.1%})"
    if config.task == "implicit":
        chosen = len(positives(config, dataset, target.index.to_numpy()))
        return (
            f"{name}: {chosen:,} of {rows:,} rows are positives ({chosen / rows:.1%})"
        )
    return (
        f"{name}: {target.min():,.6g} to {target.max():,.6g}, "
        f"mean {target.mean():,.4g}, median {target.median():,.4g}, "
        f"standard deviation {target.std(ddof=0):,.4g}, "
        f"{target.nunique():,} distinct values"
    )
