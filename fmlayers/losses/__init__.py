"""Losses for clicks and rankings; others are Keras' own."""

from fmlayers.losses.bpr import BPR

__all__ = ["BPR"]
