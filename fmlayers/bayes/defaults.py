"""The defaults of a sampler that depend on the data."""

from collections.abc import Sequence

from fmlayers.bayes.blocks import Block

# The prior scale: of fields that are all keys, and with further fields.
IDS_SCALE, FIELDS_SCALE = 1.0, 0.015


def default_scale(blocks: Sequence[Block]) -> float:
    """Returns the prior scale."""
    are_keys = all(len(block.designs) == 1 for block in blocks)
    return IDS_SCALE if are_keys else FIELDS_SCALE
