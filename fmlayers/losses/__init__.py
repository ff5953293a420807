"""Losses for ranking from implicit feedback."""

from fmlayers.losses.bpr import BPR

__all__ = ["BPR"]
