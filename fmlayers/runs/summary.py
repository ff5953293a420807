from collections.abc import Mapping
from typing import Any

from fmlayers._text_tables import aligned
from fmlayers.runs.config import TrainingConfig
from fmlayers.runs.methods import sampling_is_better


def summary(metrics: Mapping[str, Any], plotted: bool = True) -> str:
    """Returns the content of `summary.txt`.

    Args:
        metrics: The content of `metrics.json`.
        plotted: Whether `history.png` was drawn. Defaults to `True`.
    """
    config, rows = TrainingConfig.from_dict(metrics["config"]), metrics["rows"]
    lines = [
        f"{config.model} on {config.data}, {config.described_split}, seed "
        f"{config.seed}",
        *metrics["described"],
        *_training(config, metrics),
        "",
    ]
    if config.task == "regression":
        lines += rating_table(config.model, metrics).splitlines()
    elif config.task == "binary":
        lines += label_table(config.model, metrics).splitlines()
    else:
        lines += [
            "The scores rank items and are not ratings. `fmlayers evaluate` evaluates "
            "the recommendations."
        ]
    if not rows["validation"] and config.method == "gradient":
        lines.append("no validation rows: trained for all epochs")
    if sampling_is_better(config, metrics["config"]["columns"], rows["train"]):
        lines.append("hint: --method gibbs is usually more accurate for such ratings")
    lines += [f"data: {repair}" for repair in metrics["repairs"]]
    if not plotted:
        lines.append("history.png is missing: it needs `pip install fmlayers[plot]`.")
    return "\n".join(lines) + "\n"


def _training(config: TrainingConfig, metrics: Mapping[str, Any]) -> list[str]:
    """Returns two lines about the rows and the training."""
    rows, seconds = metrics["rows"], f"{metrics['seconds']} seconds in total"
    held_out = f"({rows['validation']:,} of them held out"
    test = f"{rows['test']:,} test"
    if config.method == "gradient":
        return [
            f"rows: {rows['train']:,} train {held_out} for early stopping), {test}",
            f"epochs: {metrics['epochs']}, batch size {metrics['batch_size']:,}, "
            f"{seconds}",
        ]
    held_out = f"{held_out}), " if rows["validation"] else ""
    return [
        f"rows: {rows['train']:,} train {held_out}".strip(" ,") + f", {test}",
        f"samples: {config.chains} chains of {config.sweeps} sweeps with dimension "
        f"{config.dim}, their mean has dimension {metrics['model_dim']}, {seconds}",
    ]


def label_table(model: str, metrics: Mapping[str, Any]) -> str:
    """Returns a text table of the metrics of labels; see `target_metrics`."""
    names = {
        "log_loss": "log loss",
        "auc": "AUC",
        "pr_auc": "PR-AUC",
        "calibration_error": "calibration error",
    }
    rows: list[tuple[str, ...]] = [("test rows", *names.values())]
    predictors = [(model, ""), ("mean predictor", "mean_predictor_")]
    if "best_auc" in metrics:
        predictors.append(("best possible", "best_"))
    for name, prefix in predictors:
        values = [metrics.get(prefix + metric) for metric in names]
        rows.append((name, *("" if v is None else f"{v:.4f}" for v in values)))
    return aligned(rows)


def rating_table(
    model: str, metrics: Mapping[str, Any], heading: str = "test rows"
) -> str:
    """Returns a text table of the metrics of ratings; see `target_metrics`."""
    names = [name for name in ("rmse", "mae", "rmsle") if name in metrics]
    rows: list[tuple[str, ...]] = [(heading, *(name.upper() for name in names))]
    for name, prefix in ((model, ""), ("mean predictor", "mean_predictor_")):
        values = [metrics[prefix + metric] for metric in names]
        rows.append((name, *(f"{value:.4f}" for value in values)))
    if "floor_rmse" in metrics and heading == "test rows":
        blank = [""] * (len(names) - 1)
        rows.append(("lowest possible", f"{metrics['floor_rmse']:.4f}", *blank))
    return aligned(rows)
