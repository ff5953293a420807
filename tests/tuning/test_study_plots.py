import keras_tuner
import numpy as np
import pandas as pd
import pytest

from fmlayers.tuning import study_plots

TRIALS = pd.DataFrame(
    {
        "trial": [0, 1, 2, 3, 5],
        "val_rmse": [0.95, 0.97, np.nan, 0.91, 9.0],
        "l2": [0.1, 0.01, 0.3, 1.0, 0.03],
        "units": [np.nan, "8", "8", "16", "8"],
    }
)


def parameters():
    hp = keras_tuner.HyperParameters()
    hp.Float("l2", 0.01, 1.0, sampling="log")
    hp.Int("dim", 8, 32, step=2, sampling="log")
    hp.Choice("units", ["8", "16"])
    return {p.name: p for p in hp.space}


def lines_of(figure):
    (axes,) = figure.axes
    return axes, {line.get_label(): line for line in axes.get_lines()}


def test_the_best_so_far_steps_down():
    axes, lines = lines_of(study_plots.best_so_far(TRIALS, "val_rmse", "min"))
    np.testing.assert_allclose(lines["best so far"].get_xdata(), [0, 1, 2, 3, 5])
    np.testing.assert_allclose(
        lines["best so far"].get_ydata(), [0.95, 0.95, 0.95, 0.91, 0.91]
    )
    np.testing.assert_allclose(lines["trial"].get_xdata(), [0, 1, 3])
    # An outlier does not compress the others.
    assert axes.get_ylim()[1] < 2.0
    np.testing.assert_allclose(lines["outlier"].get_xdata(), [5])
    np.testing.assert_allclose(lines["failed trial"].get_xdata(), [2])
    assert "0.9100 in trial 3" in lines


def test_the_best_so_far_steps_up():
    trials = TRIALS.assign(val_ndcg=[0.2, 0.1, 0.3, np.nan, 0.25])
    _, lines = lines_of(study_plots.best_so_far(trials, "val_ndcg", "max"))
    np.testing.assert_allclose(
        lines["best so far"].get_ydata(), [0.2, 0.2, 0.3, 0.3, 0.3]
    )


def test_nothing_but_failures_can_be_drawn(tmp_path):
    trials = TRIALS.assign(val_rmse=np.nan)
    study_plots.best_so_far(trials, "val_rmse", "min", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_axes_are_those_of_the_space():
    l2, dim, units = (study_plots.axis_of(p, TRIALS) for p in parameters().values())
    assert l2.labels == ["0.01", "0.1", "1"]
    np.testing.assert_allclose(l2.ticks, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(l2.positions, np.log10(TRIALS["l2"]) / 2 + 1, atol=1e-9)
    assert dim.labels == ["8", "16", "32"]
    assert np.isnan(dim.positions).all()  # no trial has this hyperparameter
    assert units.labels == ["8", "16"]
    assert not units.ordered
    np.testing.assert_allclose(units.positions, [np.nan, 0.25, 0.25, 0.75, 0.25])


def test_lines_go_through_all_axes():
    known = TRIALS.dropna(subset="val_rmse").reset_index(drop=True)
    axes = [study_plots.axis_of(p, known) for p in parameters().values()]
    figure = study_plots.parallel_coordinates(
        axes, known["val_rmse"], "val_rmse", "min"
    )
    drawn, lines = lines_of(figure)
    best = lines["best trial"].get_ydata()
    np.testing.assert_allclose(best, [1.0, study_plots.NONE, 0.75, 1.0])
    trials = [line for line in drawn.get_lines() if line.get_marker() == "o"]
    assert len(trials) == 4
    assert trials[-1] is lines["best trial"]
    texts = [text.get_text() for text in drawn.texts]
    assert texts.count("none") == 2
    assert any(text.endswith(" or more") for text in texts)
    assert texts[-1] == "0.9100"


def test_bars_are_ranked():
    figure = study_plots.importance_bars({"l2": 0.1, "dim": 0.7}, "val_rmse")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["l2", "dim"]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.7]


@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize("scores", [[], [2.0], [1.0, 1.0], [1.0, 2.0, 50.0]])
def test_limits_hold_the_best(scores, direction):
    low, high = study_plots._limits(np.array(scores), direction)
    assert low < high
    if scores:
        assert low <= (min if direction == "min" else max)(scores) <= high
