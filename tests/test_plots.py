import os
import re
import shutil
import stat
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from checks import check_error

import fmlayers
from fmlayers import (
    Categorical,
    History,
    MultiCategorical,
    Numeric,
    RatingScaler,
    plots,
)
from fmlayers.models import (
    DeepFM,
    Ensemble,
    FactorizationMachine,
    LibFM,
    MatrixFactorization,
    NeuralMatrixFactorization,
)

matplotlib = pytest.importorskip("matplotlib")

HISTORY = pd.DataFrame(
    {
        "phase": ["search"] * 3 + ["refit"] * 2,
        "epoch": [1, 2, 3, 1, 2],
        "rmse": [1.0, 0.9, 0.8, 0.95, 0.85],
        "val_rmse": [0.98, 0.91, 0.93, None, None],
    }
)
TRACE = pd.DataFrame(
    {
        "sweep": [1, 2, 3],
        "rmse": [1.0, 0.9, 0.85],
        "val_rmse": [None, 0.95, 0.9],
        "alpha": [0.8, 1.0, 1.1],
    }
)
RATINGS = np.array([1.0, 1.0, 1.0, 3.0, 5.0, 5.0])
PREDICTIONS = np.array([1.0, 2.0, 4.5, 3.5, 4.0, 5.0])
MATRIX = np.array([[0.5, -1.25, 0.0001], [0.0, 2.0, 0.25], [0.0, 0.0, -0.125]])
NAMES = ["user", "item", "age"]
VECTORS = np.array([[0.0, 4.0], [1.0, 0.0], [0.0, -4.0], [-1.0, 0.0], [0.0, 0.0]])
LABELS = ["Drama", "War", "Drama", None, "War"]

DRAW = {
    "learning_curves": lambda path=None: plots.learning_curves(HISTORY, path),
    "predicted_against_true": lambda path=None: plots.predicted_against_true(
        RATINGS, PREDICTIONS, path
    ),
    "predicted_labels": lambda path=None: plots.predicted_labels(
        [0, 1, 0, 1], [0.1, 0.6, 0.7, 0.8], path
    ),
    "field_heat_map": lambda path=None: plots.field_heat_map(MATRIX, NAMES, path),
    "item_map": lambda path=None: plots.item_map(VECTORS, LABELS, path),
    "sampling_trace": lambda path=None: plots.sampling_trace(TRACE, path),
    "interval_coverage": lambda path=None: plots.interval_coverage(
        [0.5, 0.9], [0.52, 0.88], path
    ),
}


def legend_of(legend):
    return [text.get_text() for text in legend.get_texts()]


def offsets_by_label(axes):
    return {
        points.get_label(): np.asarray(points.get_offsets())
        for points in axes.collections
    }


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG\r\n\x1a\n"), (".pdf", b"%PDF"), ("", b"\x89PNG")],
)
def test_files_are_whole_pictures(name, suffix, start, tmp_path):
    path = tmp_path / f"picture{suffix}"
    path.write_text("an older one")
    DRAW[name](path)
    assert path.read_bytes().startswith(start)
    assert path.stat().st_size > 5000
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


@pytest.mark.parametrize("name", DRAW)
def test_what_cannot_be_written_leaves_all_as_it_was(name, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_text("an older one")
    figure = type(DRAW[name]())

    def fails(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", fails)
    with pytest.raises(OSError, match="no space left"):
        DRAW[name](path)
    assert path.read_text() == "an older one"
    assert [each.name for each in tmp_path.iterdir()] == ["picture.png"]
    check_error(
        "there is no folder .*nowhere", lambda: DRAW[name](tmp_path / "nowhere" / "x")
    )


@pytest.mark.parametrize("name", DRAW)
def test_nothing_global_is_touched(name, tmp_path):
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    matplotlib.get_backend()  # is chosen when somebody first asks for it
    before = matplotlib.rcParams.copy()
    figure = DRAW[name](tmp_path / "picture.png")
    assert type(figure) is Figure
    assert matplotlib.rcParams == before
    assert pyplot.get_fignums() == []
    assert figure.axes[0].get_xlabel()


@pytest.mark.parametrize("name", DRAW)
def test_a_missing_matplotlib_is_named(name, tmp_path, monkeypatch):
    for module in [each for each in sys.modules if each.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"`pip install fmlayers\[plot\]`"):
        DRAW[name](tmp_path / "picture.png")
    assert not [*tmp_path.iterdir()]


def test_learning_curves_show_the_history():
    (axes,) = plots.learning_curves(HISTORY).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "RMSE (rating points)")
    curves = {
        line.get_label(): line.get_xydata().T.tolist()
        for line in axes.lines
        if not line.get_label().startswith("_")
    }
    assert curves == {
        "training rows": [[1, 2, 3], [1.0, 0.9, 0.8]],
        "validation rows": [[1, 2, 3], [0.98, 0.91, 0.93]],
        "refit on all training rows": [[1, 2], [0.95, 0.85]],
        "lowest: 0.9100 in epoch 2": [[2.0], [0.91]],
    }
    assert legend_of(axes.get_legend()) == list(curves)


def test_the_trace_shows_each_sweep():
    errors, precision = plots.sampling_trace(TRACE).axes
    single, mean = errors.lines
    np.testing.assert_array_equal(single.get_xydata(), TRACE[["sweep", "rmse"]])
    np.testing.assert_array_equal(mean.get_ydata(), [np.nan, 0.95, 0.9])
    np.testing.assert_array_equal(precision.lines[0].get_ydata(), TRACE["alpha"])
    assert errors.get_ylabel() == "RMSE (rating points)"
    (only,) = plots.sampling_trace(TRACE.drop(columns="val_rmse")).axes[0].lines
    np.testing.assert_array_equal(only.get_ydata(), TRACE["rmse"])


def test_the_coverage_is_compared_with_the_nominal_one():
    (axes,) = plots.interval_coverage([0.5, 0.9], [0.52, 0.88]).axes
    np.testing.assert_array_equal(
        axes.lines[0].get_xydata(), [[0.5, 0.52], [0.9, 0.88]]
    )
    check_error(
        "`nominal` and `observed` must have the same length, at least 1. "
        "Received: 1 and 2.",
        lambda: plots.interval_coverage([0.5], [0.5, 0.6]),
    )


def test_learning_curves_without_validation_rows():
    history = HISTORY[HISTORY["phase"] == "refit"].drop(columns="val_rmse")
    (axes,) = plots.learning_curves(history).axes
    assert legend_of(axes.get_legend()) == ["refit on all training rows"]


@pytest.mark.parametrize(
    ("metric", "label"), [("bpr", "BPR (nats)"), ("bce", "binary cross-entropy (nats)")]
)
def test_learning_curves_of_clicks(metric, label):
    history = HISTORY.rename(columns={"rmse": metric, "val_rmse": f"val_{metric}"})
    (axes,) = plots.learning_curves(history.assign(loss=2.0, val_loss=2.0)).axes
    assert axes.get_ylabel() == label
    curves = [line.get_ydata().tolist() for line in axes.lines]
    assert curves == [[1.0, 0.9, 0.8], [0.98, 0.91, 0.93], [0.95, 0.85], [0.91]]


def test_boxes_and_means_are_of_each_true_rating():
    (axes,) = plots.predicted_against_true(RATINGS, PREDICTIONS).axes
    assert axes.get_ylabel() == "predicted rating (rating points)"
    assert "true rating (rating points)" in axes.get_xlabel()
    assert axes.get_xticks().tolist() == [1.0, 3.0, 5.0]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["1\n3", "3\n1", "5\n2"]
    assert len(axes.patches) == 3
    for patch, low, high in zip(
        axes.patches, (1.5, 3.5, 4.25), (3.25, 3.5, 4.75), strict=True
    ):
        heights = patch.get_path().vertices[:, 1]
        assert (heights.min(), heights.max()) == (low, high)
    means, diagonal = axes.lines[-2:]
    np.testing.assert_allclose(means.get_xydata(), [[1, 2.5], [3, 3.5], [5, 4.5]])
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert len(legend_of(axes.get_legend())) == 3


def test_whiskers_hold_90_percent():
    (axes,) = plots.predicted_against_true(np.ones(101), np.arange(101)).axes
    lower, upper, *_ = axes.lines
    assert sorted(lower.get_ydata()) == [5.0, 25.0]
    assert sorted(upper.get_ydata()) == [75.0, 95.0]


def test_many_ratings_are_put_into_bins(rng):
    ratings = rng.uniform(0.0, 50.0, 500)
    ratings[:2] = 0.0, 50.0
    predictions = 2.0 * ratings
    (axes,) = plots.predicted_against_true(ratings, predictions).axes
    np.testing.assert_allclose(axes.get_xticks(), np.arange(2.5, 50.0, 5.0))
    counts = [int(label.get_text().split("\n")[1]) for label in axes.get_xticklabels()]
    assert counts == np.histogram(ratings, 10, (0.0, 50.0))[0].tolist()
    means = axes.lines[-2].get_ydata()
    group = np.minimum(ratings // 5.0, 9.0)
    np.testing.assert_allclose(
        means, [predictions[group == k].mean() for k in range(10)]
    )


def test_bins_without_a_rating_are_left_out():
    ratings = np.r_[np.linspace(0.0, 1.0, 30), 10.0]
    (axes,) = plots.predicted_against_true(ratings, ratings).axes
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 1.5, 9.5])


def test_heat_map_shows_each_term_once():
    axes, bar = plots.field_heat_map(MATRIX, NAMES, label="stars").axes
    assert bar.get_ylabel() == "stars"
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {
        (0, 0): "+0.500",
        (1, 0): "-1.250",
        (2, 0): "0.000",
        (1, 1): "+2.000",
        (2, 1): "+0.250",
        (2, 2): "-0.125",
    }
    (image,) = axes.images
    np.testing.assert_array_equal(
        image.get_array().filled(np.nan), np.where(np.tri(3, k=-1), np.nan, MATRIX)
    )
    # Zero is in the middle of the two colours.
    assert image.get_clim() == (-2.0, 2.0)
    dark = [text for text in axes.texts if text.get_color() == "white"]
    assert [text.get_text() for text in dark] == ["-1.250", "+2.000"]


def test_heat_map_of_sizes_begins_at_zero():
    axes, _ = plots.field_heat_map(np.abs(MATRIX), NAMES).axes
    assert axes.images[0].get_clim() == (0.0, 2.0)
    assert "1.250" in [text.get_text() for text in axes.texts]


def test_heat_map_of_a_symmetric_matrix_is_whole():
    axes, _ = plots.field_heat_map(MATRIX + MATRIX.T, NAMES).axes
    assert len(axes.texts) == 9


def test_heat_map_of_zeros(tmp_path):
    axes, _ = plots.field_heat_map(np.zeros((2, 2)), NAMES[:2], tmp_path / "x.png").axes
    assert [text.get_text() for text in axes.texts] == ["0.000"] * 3


def test_item_map_shows_the_plane_of_most_variance():
    figure = plots.item_map(VECTORS, LABELS)
    (axes,) = figure.axes
    points = offsets_by_label(axes)
    # The second coordinate varies most, and its sign is kept.
    np.testing.assert_allclose(points["Drama (2)"], [[4, 0], [-4, 0]], atol=1e-12)
    np.testing.assert_allclose(points["War (2)"], [[0, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(points["others (1)"], [[0, -1]], atol=1e-12)
    assert legend_of(figure.legends[0]) == ["Drama (2)", "War (2)", "others (1)"]
    assert axes.get_xlabel() == "first principal component (94% of the variance)"
    assert axes.get_ylabel() == "second principal component (6%)"
    assert axes.get_aspect() == 1.0  # a distance is the same both ways


def test_item_map_keeps_distances(rng):
    plane = rng.normal(size=(20, 2))
    basis, _ = np.linalg.qr(rng.normal(size=(7, 2)))
    (axes,) = plots.item_map(plane @ basis.T + 3.0, ["a"] * 20).axes
    found = offsets_by_label(axes)["a (20)"]

    def distances(x):
        return np.linalg.norm(x[:, None] - x, axis=-1)

    np.testing.assert_allclose(distances(found), distances(plane), atol=1e-9)


def test_item_map_colours_the_most_frequent(rng):
    names = [f"genre {k}" for k in range(8)]
    labels = [name for k, name in enumerate(names) for _ in range(9 - k)] + [None] * 3
    figure = plots.item_map(rng.normal(size=(len(labels), 4)), labels)
    (axes,) = figure.axes
    points = offsets_by_label(axes)
    assert list(points)[:6] == [f"genre {k} ({9 - k})" for k in range(6)]
    assert len(points["others (8)"]) == 3 + 2 + 3
    colors = [tuple(each.get_facecolor()[0][:3]) for each in axes.collections]
    assert len(set(colors)) == 7
    assert colors[-1][0] == colors[-1][1] == colors[-1][2]  # grey
    (axes,) = plots.item_map(rng.normal(size=(len(labels), 4)), labels, shown=2).axes
    assert len(axes.collections) == 3


def test_item_map_of_one_dimension(tmp_path):
    (axes,) = plots.item_map([[1.0], [3.0]], ["a", "a"], tmp_path / "x.png").axes
    np.testing.assert_allclose(offsets_by_label(axes)["a (2)"], [[-1, 0], [1, 0]])
    (axes,) = plots.item_map(np.ones((3, 4)), [None] * 3, tmp_path / "x.png").axes
    assert "(0% of the variance)" in axes.get_xlabel()


def test_errors():
    check_error(
        "`ratings` and `predictions` must have the same length.*3 and 2",
        lambda: plots.predicted_against_true([1, 2, 3], [1, 2]),
    )
    check_error("at least 1", lambda: plots.predicted_against_true([], []))
    check_error(
        r"`matrix` must have one row.*\(2, 3\) and 3 fields",
        lambda: plots.field_heat_map(np.zeros((2, 3)), NAMES),
    )
    check_error(
        "`labels` one entry per item.*and 2 labels",
        lambda: plots.item_map(VECTORS, ["a", "b"]),
    )
    check_error("at least two items", lambda: plots.item_map([[1.0]], ["a"]))
    check_error("`shown` must be", lambda: plots.item_map(VECTORS, LABELS, shown=7))


USER, ITEM = Categorical("user", 400), Categorical("item", 600)
FEATURES = [
    USER,
    ITEM,
    Numeric("age"),
    MultiCategorical("genres", 5),
    History("seen", 600, of="user", num_keys=400, values="item", num_pairs=1000),
]
SCALER = RatingScaler(1, 5)
BOXES = {
    FactorizationMachine: {"factors", "linear", "interaction", "rating_scaler"},
    LibFM: {"factors", "linear", "rating_scaler"},
    DeepFM: {"factors", "linear", "interaction", "tower", "output", "rating_scaler"},
    MatrixFactorization: {"factors", "linear", "rating_scaler"},
    NeuralMatrixFactorization: {
        *("gmf_factors", "mlp_factors", "tower", "gmf_output", "mlp_output"),
        "rating_scaler",
    },
}


def make(kind):
    if kind in (MatrixFactorization, NeuralMatrixFactorization):
        return kind(USER, ITEM, 8, scaler=SCALER)
    return kind(FEATURES, 8, SCALER)


@pytest.mark.parametrize("kind", BOXES, ids=lambda kind: kind.__name__)
def test_diagrams_have_the_layers_of_the_model(kind):
    model = make(kind)
    graph = plots._functional(model)
    names = {re.sub(r"_\d+$", "", layer.name) for layer in graph.layers}
    fields = {feature.name for feature in model.features} - {"seen"}
    assert BOXES[kind] | fields <= names
    embeddings = [x for x in graph.layers if isinstance(x, fmlayers.FeatureEmbedding)]
    for layer in embeddings:
        assert tuple(layer.output.shape)[1] == len(model.features)
    # The model itself is not in the graph, and its tables are not there twice.
    assert not {id(layer) for layer in graph.layers} & {id(x) for x in model.layers}
    assert sum(np.prod(w.shape) for w in graph.weights) < 20_000
    assert not any(layer._inbound_nodes for layer in model.layers)


def test_one_member_of_an_ensemble_is_drawn():
    model = Ensemble.of(2, lambda: make(MatrixFactorization))
    graphs = [plots._functional(each) for each in (model, model.members[0])]
    names = [[type(layer) for layer in graph.layers] for graph in graphs]
    assert names[0] == names[1]


def test_diagram_of_what_has_no_graph():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    pytest.importorskip("pydot")
    check_error(
        "`model` must be a functional.*Received: a Own",
        lambda: plots.model_diagram(Own()),
    )


def test_a_functional_model_is_drawn_as_it_is():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    assert plots._functional(model) is model


def test_a_missing_pydot_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(ImportError, match="`pip install pydot`"):
        plots.model_diagram(make(MatrixFactorization), tmp_path / "model.png")
    assert not [*tmp_path.iterdir()]


def test_a_missing_graphviz_is_named(monkeypatch, tmp_path):
    pytest.importorskip("pydot")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="command `dot` of Graphviz: install"):
        plots.model_diagram(make(MatrixFactorization), tmp_path / "model.png")
    assert not [*tmp_path.iterdir()]


def test_diagrams_do_not_count_what_was_drawn_before():
    pytest.importorskip("pydot")
    texts = []
    for _ in range(2):
        graph = plots.model_diagram(make(MatrixFactorization))
        texts.append(sorted(node.get_label() or "" for node in graph.get_nodes()))
    assert texts[0] == texts[1]
    text = "".join(texts[0])
    assert "<b>multiply</b> (Multiply)" in text
    assert "<b>factors</b> (FeatureEmbedding)" in text
    assert "(None, 2, 8)" in text


def test_a_number_that_belongs_to_a_name_stays():
    pytest.importorskip("pydot")
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(1, name="hidden_1")(inputs))
    labels = [node.get_label() or "" for node in plots.model_diagram(model).get_nodes()]
    assert "<b>hidden_1</b> (Dense)" in "".join(labels)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_diagrams_are_written(tmp_path):
    pytest.importorskip("pydot")
    plots.model_diagram(make(DeepFM), os.fspath(tmp_path / "model.png"))
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    assert len([*tmp_path.iterdir()]) == 1
    check_error(
        "there is no folder",
        lambda: plots.model_diagram(make(DeepFM), tmp_path / "nowhere" / "model.png"),
    )
