"""A description of data, without training."""

from fmlayers._text_tables import aligned
from fmlayers.data import Dataset, sources
from fmlayers.data.columns import describe_columns
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.targets import positives, with_targets
from fmlayers.runs.training import columns_of


def inspect(config: TrainingConfig) -> str:
    """Describes the data of a configuration as `train` reads them, without training.

    Args:
        config: The configuration. Of its model, only the columns matter that it takes.

    Returns:
        Lines of text: the numbers of rows, users and items; the distribution of the
        target; a table of the columns with hints; and what was changed in the data.

    Raises:
        DataError: If the data are invalid.
    """
    loaded = sources.load(config.data, **config.columns_of_a_table())
    dataset = with_targets(loaded, config)
    described = describe_columns(
        dataset,
        columns_of(config, dataset),
        chosen=config.named_kinds,
        **config.written_lists,
    )
    lines = [
        *aligned(_counts(dataset)).splitlines(),
        _target(config, dataset),
        "",
        *described,
        *(f"data: {repair}" for repair in dataset.repairs),
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
