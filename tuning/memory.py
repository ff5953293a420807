"""An estimate of the memory of a model that is not built yet."""

import os
from collections.abc import Sequence

from fmlayers.bayes.chain_runs import MAX_SAMPLES
from fmlayers.features import Feature
from fmlayers.models.specs import find
from fmlayers.runs import TrainingConfig

BYTES = 4  # a float32
SAMPLED_DIM = 512  # of the mean over the samples of a chain
SLOTS = {"adagrad": 1, "lazy_adam": 2}  # optimizer variables per weight


def estimated_bytes(config: TrainingConfig, features: Sequence[Feature]) -> int:
    """Returns the size of a run's weights and optimizer variables in bytes.

    With `row_wise`, the optimizer variables with one number per row are left out, since
    they are small.

    With Gibbs sampling, they are the weights of the chains, the samples that are kept
    and the mean over the samples of each chain.

    Args:
        config: Configuration of the run.
        features: The features of its model.
    """
    # Each table has an additional row for unknown ids.
    rows = sum(f.num_rows + (f.table_name is not None) for f in features)
    if config.method == "gibbs":
        kept = MAX_SAMPLES * (config.dim + 1)
        chains = config.chains * (config.dim + 1 + SAMPLED_DIM)
        return rows * (kept + chains) * BYTES
    spec = find(config.model)
    units = config.hidden_units or spec.hidden_units
    weights = spec.num_weights(rows, len(features), config.dim, units)
    slots = SLOTS[config.optimizer] - config.row_wise
    return config.members * weights * BYTES * (1 + slots)


def default_limit(workers: int = 1) -> int | None:
    """Returns the memory limit of each worker. They share half of the machine's memory.

    Args:
        workers: Number of workers on this machine. Defaults to 1.

    Returns:
        The number of bytes, or `None` if the system does not report its memory.
    """
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    return pages * size // (2 * max(workers, 1))
