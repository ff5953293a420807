from collections.abc import Mapping
from typing import Any

from fmlayers.runs.config import TrainingConfig


def summary(metrics: Mapping[str, Any], plotted: bool = True) -> str:
    """Returns what a person wants to know of a run, as text."""
    config, rows = TrainingConfig.from_dict(metrics["config"]), metrics["rows"]
    lines = [
        f"{config.model} on {config.data}, split {config.split}, seed {config.seed}",
        *metrics["described"],
        f"rows: {rows['train']:,} train (of these {rows['validation']:,} to choose "
        f"the epochs on), {rows['test']:,} test",
        f"epochs: {metrics['epochs']} of {metrics['batch_size']:,} rows a batch, "
        f"{metrics['seconds']} seconds in all",
    ]
    if config.has_ratings:
        lines += [
            "",
            f"{'on the test rows':24}{'RMSE':>8}{'MAE':>8}",
            f"{config.model:24}{metrics['rmse']:8.4f}{metrics['mae']:8.4f}",
            f"{'mean predictor':24}{metrics['mean_predictor_rmse']:8.4f}"
            f"{metrics['mean_predictor_mae']:8.4f}",
        ]
    else:
        lines += [
            "",
            "scores rank and are no ratings: `fmlayers evaluate` judges the lists",
        ]
    if "floor_rmse" in metrics:
        lines.append(f"{'best reachable':24}{metrics['floor_rmse']:8.4f}")
    if not rows["validation"]:
        lines.append("no validation rows: trained for all of the epochs allowed")
    lines += [f"repaired: {repair}" for repair in metrics["repairs"]]
    if not plotted:
        lines.append("history.png is missing: it needs `pip install fmlayers[plot]`.")
    return "\n".join(lines) + "\n"
