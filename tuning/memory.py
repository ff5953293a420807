"""What a model takes of memory, before it is built."""

import os
from collections.abc import Sequence

from fmlayers.features import Feature
from fmlayers.models.specs import find
from fmlayers.runs import TrainingConfig

BYTES = 4  # a float32
SLOTS = {"adagrad": 1, "lazy_adam": 2}  # numbers that an optimizer keeps a weight


def estimated_bytes(config: TrainingConfig, features: Sequence[Feature]) -> int:
    """Returns what the weights and the optimizer's numbers of a run take.

    Args:
        config: The configuration of the run.
        features: The features of its model.
    """
    # With a row per table for unknown ids.
    rows = sum(f.num_rows + (f.table_name is not None) for f in features)
    spec = find(config.model)
    units = config.hidden_units or spec.hidden_units
    weights = spec.num_weights(rows, len(features), config.dim, units)
    return config.members * weights * BYTES * (1 + SLOTS[config.optimizer])


def default_limit(workers: int = 1) -> int | None:
    """Returns half of the machine's memory, a worker's part of it; None if unknown."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    return pages * size // (2 * max(workers, 1))
