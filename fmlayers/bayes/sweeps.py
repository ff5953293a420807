"""All sweeps of a fit, with their figures, callbacks and backups."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import numpy as np

from fmlayers.bayes.backups import Backups, Figures
from fmlayers.bayes.chain_runs import Problem, Report, Result
from fmlayers.bayes.likelihoods import LIKELIHOODS
from fmlayers.bayes.workers import started

# A function that is called with the number of a sweep, from 1, and its figures.
Callback = Callable[[int, Mapping[str, float]], None]


def sweep_all(
    problem: Problem,
    sweeps: int,
    history: list[Figures],
    *,
    callbacks: Sequence[Callback],
    backups: Backups | None,
    processes: int,
) -> Result:
    """Sweeps all chains, from the backup if there is one.

    Args:
        problem: The `Problem`.
        sweeps: Integer, the number of sweeps.
        history: Empty list, which is filled with the figures of all sweeps.
        callbacks: Functions that are called after each sweep.
        backups: The `Backups`, or `None`.
        processes: Integer, the number of processes.

    Returns:
        The result of all chains together.
    """
    with closing(started(problem, processes)) as runs:
        if backups is not None:
            history.extend(backups.resume(runs, sweeps))
        for sweep in range(len(history) + 1, sweeps + 1):
            figures = figures_of(runs.sweep(), problem, sweep)
            history.append({"sweep": sweep, **figures})
            for callback in callbacks:
                callback(sweep, figures)
            if backups is not None and (sweep == sweeps or backups.is_due()):
                backups.write(runs, history)
        first, *others = runs.results()
    for other in others:
        first.mean.merge(other.mean)
    return Result(first.mean, [x for each in (first, *others) for x in each.samples])


def figures_of(
    reports: Sequence[Report], problem: Problem, sweep: int
) -> dict[str, float]:
    """Returns the figures of a sweep, averaged over the chains."""
    likelihood = LIKELIHOODS[problem.likelihood]
    figures = {
        "alpha": float(np.mean([report.alpha for report in reports])),
        likelihood.metric: float(np.mean([report.loss for report in reports])),
    }
    totals = [report.total for report in reports if report.total is not None]
    targets = problem.held_out_targets
    if targets is not None and totals:
        mean = np.sum(totals, axis=0) / ((sweep - problem.burn_in) * len(totals))
        mean = np.clip(mean, *problem.bounds)
        figures[f"val_{likelihood.metric}"] = likelihood.loss(targets, mean)
    return figures
