from pathlib import Path

import pandas as pd

from fmlayers._files import whole_file


def plot_history(history: pd.DataFrame, path: Path) -> bool:
    """Draws the RMSE by epoch; returns False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    curves = {
        ("search", "rmse"): ("training rows", "C0", "-"),
        ("search", "val_rmse"): ("validation rows", "C1", "-"),
        ("refit", "rmse"): ("refit on all training rows", "C0", "--"),
    }
    for (phase, column), (label, color, style) in curves.items():
        rows = history[history["phase"] == phase]
        if len(rows) and column in rows:
            axes.plot(rows["epoch"], rows[column], style, color=color, label=label)
    if "val_rmse" in history and history["val_rmse"].notna().any():
        best = history.nsmallest(1, "val_rmse")
        epoch, rmse = float(best["epoch"].iloc[0]), float(best["val_rmse"].iloc[0])
        axes.plot(epoch, rmse, "o", color="C1", zorder=3)
        axes.annotate(
            f"{rmse:.4f}",
            (epoch, rmse),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
        )
    axes.set(xlabel="epoch", ylabel="RMSE (rating points)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    with whole_file(path) as written:
        FigureCanvasAgg(figure).print_png(str(written))
    return True
