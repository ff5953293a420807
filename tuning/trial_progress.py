"""The progress of a search on the terminal."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from keras_tuner.engine.trial import Trial
from rich.console import Console

from fmlayers.runs.epoch_progress import new_bar
from fmlayers.tuning.tuning_config import TuningConfig


class TrialProgress:
    """Shows a progress bar, and a line for each trial that has ended.

    If the output is not a terminal, it shows only the lines.

    Args:
        config: Configuration of the study.
        oracle: KerasTuner's oracle, which holds the trials.
        reason: Function that returns why a trial failed.
    """

    def __init__(
        self, config: TuningConfig, oracle: Any, reason: Callable[[Trial], str]
    ) -> None:
        self.config = config
        self.oracle = oracle
        self.reason = reason
        self.shown = len(oracle.end_order)
        self.before = self.shown  # trials of earlier processes
        self.started = time.perf_counter()
        self.console = Console(stderr=True, highlight=False)
        self.bar = new_bar(self.console)
        self.task = self.bar.add_task(
            "trials", total=oracle.max_trials, completed=self.shown, figures=""
        )

    def __enter__(self) -> "TrialProgress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def update(self) -> None:
        """Shows the trials that have ended since the last call."""
        ended = list(self.oracle.end_order)
        for trial_id in ended[self.shown :]:
            self.shown += 1
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
            self.bar.update(self.task, completed=self.shown, figures=left)
            line = "; ".join(filter(None, [f"trial {int(trial_id)}: {text}", left]))
            self.console.print(line, markup=False, soft_wrap=True)

    def _left(self) -> str:
        parts = []
        best = [t for t in self.oracle.get_best_trials() if t.score is not None]
        if best:
            parts.append(f"best {best[0].score:.4f} (trial {int(best[0].trial_id)})")
        total = self.oracle.max_trials
        if total and total > self.shown:
            each = (time.perf_counter() - self.started) / (self.shown - self.before)
            seconds = each * (total - self.shown)
            seconds = round(min(seconds, self.oracle.deadline - time.monotonic()))
            seconds = max(seconds, 0)
            parts.append(
                f"{total - self.shown} left, about {timedelta(seconds=seconds)}"
            )
        return ", ".join(parts)
