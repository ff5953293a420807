"""The report of a study: its pictures, `summary.txt` and `report.html`."""

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from keras_tuner.engine.hyperparameters import Fixed

from fmlayers._files import whole_file
from fmlayers._json_files import write_json
from fmlayers._text_tables import aligned
from fmlayers.runs import TrainingConfig
from fmlayers.runs.folder import is_run
from fmlayers.tuning import study_plots
from fmlayers.tuning.importance import MIN_TRIALS, importance
from fmlayers.tuning.study import Study
from fmlayers.tuning.study_files import SUMMARY
from fmlayers.tuning.study_folder import BEST, StudyError
from fmlayers.tuning.study_plots import Axis, axis_of

# Settings that the defaults of other settings depend on.
DECIDING = ("model", "loss", "histories", "optimizer")
MAX_SHOWN = 10  # trials in the summary
PICTURES = {
    "best_so_far": "Best so far",
    "parallel_coordinates": "All trials",
    "importance": "Importance of the hyperparameters",
}


def write_pictures(study: Study) -> str:
    """Writes the pictures of a study into its folder.

    Returns:
        The reason why there are no pictures, or `""` if there are.
    """
    trials = study.trials()
    axes = axes_of(study, completed(trials))
    for name in PICTURES:
        _picture(study, name).unlink(missing_ok=True)
    try:
        _draw(study, trials, axes, importances(study, trials, axes))
    except ImportError as error:
        return f"The pictures are missing: {error}"
    return ""


def write_report(study: Study, notes: Sequence[str] = ()) -> None:
    """Writes `summary.txt`, and `report.html` with the pictures embedded.

    Args:
        study: The study.
        notes: Sentences to add, such as why the search ended early.
    """
    trials = study.trials()
    shares = importances(study, trials, axes_of(study, completed(trials)))
    pictures = [name for name in PICTURES if _picture(study, name).exists()]
    summary = "\n".join([_summary(study, trials, shares), *notes]).rstrip() + "\n"
    page = _page(study, trials, shares, pictures, notes)
    # Reports are shared and must not contain the path. The reason for a failure may
    # contain it, too.
    summary, page = (
        text.replace(str(study.path), study.path.name) for text in (summary, page)
    )
    for name, text in {"summary.txt": summary, "report.html": page}.items():
        with whole_file(study.path / name) as written:
            written.write_text(text, "utf-8")
    write_json(study.path / SUMMARY, {"summary": summary})


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Returns the completed trials."""
    return trials[trials["status"] == "COMPLETED"].reset_index(drop=True)


def ranked(study: Study, trials: pd.DataFrame) -> pd.DataFrame:
    """Returns the trials from the best to the worst, followed by the failed ones."""
    return trials.sort_values(
        study.config.objective,
        ascending=study.config.direction == "min",
        kind="stable",
        na_position="last",
    )


def axes_of(study: Study, trials: pd.DataFrame) -> list[Axis]:
    """Returns the axes of the searched hyperparameters, with the trials on them."""
    return [
        axis_of(parameter, trials)
        for parameter in study.hyperparameters.space
        if not isinstance(parameter, Fixed)
    ]


def importances(
    study: Study, trials: pd.DataFrame, axes: Sequence[Axis]
) -> dict[str, float]:
    """Returns the importance of each hyperparameter, the most important first.

    A hyperparameter with too few trials is left out.
    """
    scores = completed(trials)[study.config.objective].to_numpy(float)
    shares = {}
    for axis in axes:
        has = ~pd.isna(axis.positions)
        if has.sum() >= MIN_TRIALS:
            share = importance(axis.positions[has], scores[has], ordered=axis.ordered)
            shares[axis.name] = share
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))


def command_of(config: TrainingConfig) -> str:
    """Returns the `fmlayers train` command of a configuration."""
    deciding = {name: getattr(config, name) for name in DECIDING}
    default = {
        **TrainingConfig(**deciding).to_dict(),
        **{name: TrainingConfig().to_dict()[name] for name in DECIDING},
    }
    words = ["fmlayers", "train", "--data", config.data]
    for field in fields(TrainingConfig):
        name, value = field.name, config.to_dict()[field.name]
        is_default = value is None or value == default[name]
        if name == "data" or (is_default and name != "model"):
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "refit":
            words.append("--no-refit")
        elif isinstance(value, bool):
            words.append(option)
        elif isinstance(value, Mapping):
            words += [option, *(f"{key}={number}" for key, number in value.items())]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [option, *map(str, value)]
        else:
            words += [option, str(value)]
    return shlex.join(words)


def _draw(
    study: Study,
    trials: pd.DataFrame,
    axes: Sequence[Axis],
    shares: Mapping[str, float],
) -> None:
    target = study.config.objective, study.config.direction
    scores = completed(trials)[study.config.objective]
    if len(trials):
        study_plots.best_so_far(trials, *target, _picture(study, "best_so_far"))
    if len(scores) and axes:
        path = _picture(study, "parallel_coordinates")
        study_plots.parallel_coordinates(axes, scores, *target, path)
    if shares:
        study_plots.importance_bars(shares, target[0], _picture(study, "importance"))


def _picture(study: Study, name: str) -> Path:
    return study.path / f"{name}.png"


def _summary(study: Study, trials: pd.DataFrame, shares: Mapping[str, float]) -> str:
    config = study.config
    training = config.training
    failed = trials[trials["status"] == "FAILED"]
    seconds = trials["seconds"].sum()
    rows = study.record["rows"]
    lines = [
        f"{', '.join(config.models)} on {training.data}, {training.described_split}, "
        f"seed {training.seed}: {len(trials)} trials of the {config.tuner} tuner, "
        f"{seconds:,.0f} seconds",
        f"rows: {rows['fitting']:,} training, {rows['validation']:,} validation, "
        f"{rows['test']:,} test",
        *study.record.get("described", ()),  # a record of 0.1.0 has none
    ]
    if len(failed):
        lines.append(f"failed trials: {len(failed)}")
        lines += [
            f"  trial {trial}: {reason}"
            for trial, reason in zip(failed["trial"], failed["reason"], strict=True)
        ]
    best = ranked(study, completed(trials)).head(MAX_SHOWN)
    varying = [axis.name for axis in axes_of(study, best)]
    shown = best[
        ["trial", config.objective, "epochs", "seconds", *_present(best, varying)]
    ]
    cells = [list(map(_cell, row)) for row in shown.itertuples(index=False)]
    lines += ["", aligned([list(shown.columns), *cells], left=0).rstrip()]
    if shares:
        listed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        lines += ["", f"importance: {listed}"]
    lines += ["", *_best_lines(study)]
    return "\n".join(lines) + "\n"


def _best_lines(study: Study, **shown: Any) -> list[str]:
    try:
        best = replace(study.best(), **shown)
        heading = "command to train the best configuration on all training rows:"
        lines = [heading, command_of(best)]
    except StudyError as error:
        return [str(error)]
    if is_run(study.path / BEST):
        metrics = study.run.metrics
        if "rmse" in metrics:
            lines.append(f"test RMSE {metrics['rmse']:.4f}, MAE {metrics['mae']:.4f}")
        lines.append(f"run: {study.path / BEST}")
    return lines


def _present(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in table]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #222; }
tr:nth-child(even) { background: #f5f5f5; }
tr.best { background: #fde7da; font-weight: 600; }
tr.failed { color: #888; }
td.reason { white-space: normal; text-align: left; min-width: 16rem; }
pre { background: #f5f5f5; padding: 0.6rem; white-space: pre-wrap; }
dt { font-weight: 600; float: left; clear: left; width: 12rem; }
dd { margin-left: 12rem; }
code { overflow-wrap: anywhere; }
"""


def _page(
    study: Study,
    trials: pd.DataFrame,
    shares: Mapping[str, float],
    pictures: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Returns the report as one HTML page with its styles and pictures embedded."""
    config = study.config
    data, split = (
        Path(source).name if Path(source).is_absolute() else source
        for source in (
            config.training.data,
            config.training.test or config.training.split,
        )
    )
    title = f"Hyperparameter search: {', '.join(config.models)} by {config.objective}"
    facts = {
        "data": data,
        "split": f"{split}, seed {config.training.seed}",
        "tuner": f"{config.tuner}, seed {config.seed}",
        "trials": f"{len(trials)}, {len(completed(trials))} of them completed",
        "seconds": f"{trials['seconds'].sum():,.0f}",
        **{
            f"fingerprint of the {k}": v
            for k, v in study.record["fingerprints"].items()
        },
        "fmlayers": study.record["fmlayers"],
    }
    listed = "".join(
        f"<dt>{html.escape(name)}</dt><dd><code>{html.escape(str(value))}</code></dd>"
        for name, value in facts.items()
    )
    images = "".join(
        f'<h2>{PICTURES[name]}</h2><img alt="{PICTURES[name]}" '
        f'src="data:image/png;base64,{_base64(_picture(study, name))}">'
        for name in pictures
    )
    paragraphs = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    best = "\n".join(_best_lines(study, data=data))
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{STYLE}</style></head>
<body>
<h1>{html.escape(title)}</h1>
<pre>{html.escape(best)}</pre>
{paragraphs}{images}
<h2>Trials</h2>
<div class="wide">{_html_table(study, trials)}</div>
<h2>Study</h2>
<dl>{listed}</dl>
</body>
</html>
"""


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _html_table(study: Study, trials: pd.DataFrame) -> str:
    varying = [axis.name for axis in axes_of(study, trials)]
    names = ["trial", study.config.objective, "epochs", "seconds"]
    names += _present(trials, varying)
    if (trials["status"] == "FAILED").any():
        names.append("reason")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for place, (_, row) in enumerate(ranked(study, trials).iterrows()):
        kind = "failed" if row["status"] == "FAILED" else "best" if not place else ""
        cells = "".join(
            f'<td class="{"reason" if name == "reason" else ""}">'
            f"{html.escape(_cell(row[name]))}</td>"
            for name in names
        )
        rows.append(f'<tr class="{kind}">{cells}</tr>')
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
