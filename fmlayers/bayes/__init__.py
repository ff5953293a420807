"""Samples from the posterior distribution of a factorization machine."""

from fmlayers.bayes.gibbs_sampler import GibbsSampler

__all__ = ["GibbsSampler"]
