"""A search on the terminal: what has ended, the best so far, the time left."""

import time
from datetime import timedelta
from typing import Any

from rich.console import Console

from fmlayers.runs.epoch_progress import new_bar
from fmlayers.tuning.tuning_config import TuningConfig


class TrialProgress:
    """A bar for all trials and a line a trial; lines alone off a terminal.

    Args:
        config: The configuration of the study.
        oracle: KerasTuner's, which knows the trials.
        reason: Returns why a trial has failed.
        workers: How many trials run at once, for the time that is left.
    """

    def __init__(
        self, config: TuningConfig, oracle: Any, reason: Any, workers: int = 1
    ):
        self.config = config
        self.oracle = oracle
        self.reason = reason
        self.workers = workers
        self.told = len(oracle.end_order)
        self.before = self.told  # by earlier processes
        self.started = time.perf_counter()
        self.console = Console(stderr=True, highlight=False)
        self.bar = new_bar(self.console)
        self.task = self.bar.add_task(
            "trials", total=oracle.max_trials, completed=self.told, figures=""
        )

    def __enter__(self) -> "TrialProgress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def update(self) -> None:
        """Tells of the trials that have ended since the last time."""
        ended = list(self.oracle.end_order)
        for trial_id in ended[self.told :]:
            self.told += 1
            trial = self.oracle.trials[trial_id]
            name = self.config.objective
            if trial.status == "COMPLETED":
                text = f"{name} {trial.score:.4f}"
                epochs = trial.metrics.get_best_value("epochs")
                if epochs is not None:
                    text += f" in {epochs:.0f} epochs"
            else:
                text = f"failed: {self.reason(trial)}"
            left = self._left()
            self.bar.update(self.task, completed=self.told, figures=left)
            line = "; ".join(filter(None, [f"trial {int(trial_id)}: {text}", left]))
            self.console.print(line, markup=False, soft_wrap=True)

    def _left(self) -> str:
        parts = []
        best = [t for t in self.oracle.get_best_trials() if t.score is not None]
        if best:
            parts.append(f"best {best[0].score:.4f} (trial {int(best[0].trial_id)})")
        total = self.oracle.max_trials
        if total and total > self.told:
            each = (time.perf_counter() - self.started) / (self.told - self.before)
            seconds = each * (total - self.told)
            seconds = round(min(seconds, self.oracle.deadline - time.monotonic()))
            seconds = max(seconds, 0)
            parts.append(
                f"{total - self.told} to go, about {timedelta(seconds=seconds)}"
            )
        return ", ".join(parts)
