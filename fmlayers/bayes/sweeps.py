"""All sweeps of a fit, with their figures, callbacks and backups."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import numpy as np

from fmlayers.bayes.backups import Backups, Figures
from fmlayers.bayes.chain_runs import Problem, Report, Result
from fmlayers.bayes.designs import Floats
from fmlayers.bayes.likelihoods import LIKELIHOODS
from fmlayers.bayes.priors import Matrix
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
            figures = figures_of(runs.sweep(), problem)
            history.append({"sweep": sweep, **figures})
            for callback in callbacks:
                callback(sweep, figures)
            if backups is not None and (sweep == sweeps or backups.is_due()):
                backups.write(runs, history)
        first, *others = runs.results()
    for other in others:
        first.mean.merge(other.mean)
    return Result(first.mean, [x for each in (first, *others) for x in each.samples])


def figures_of(reports: Sequence[Report], problem: Problem) -> dict[str, float]:
    """Returns the figures of a sweep of all chains."""
    likelihood = LIKELIHOODS[problem.likelihood]
    draws = sum(report.draws for report in reports)

    def expected(totals: Sequence[Matrix | Floats]) -> Matrix:
        mean: Matrix = np.sum(totals, axis=0) / draws
        return np.clip(mean, *problem.bounds)

    fitted = expected([report.fitted for report in reports])
    figures = {
        "alpha": float(np.mean([report.alpha for report in reports])),
        likelihood.metric: likelihood.loss(problem.targets, fitted, problem.weights),
    }
    held_out = [report.held_out for report in reports if report.held_out is not None]
    if held_out:
        loss = likelihood.loss(problem.held_out_targets, expected(held_out))
        figures[f"val_{likelihood.metric}"] = loss
    return figures
