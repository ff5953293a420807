"""The weights of fields, several of which are rows of one variable."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras import ops

from fmlayers.layers._rows_view import RowsView

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding


@dataclass(frozen=True)
class Weight:
    """A weight that a field needs.

    Attributes:
        name: String, the name of its variable or view.
        shape: `(rows, dim)`, or `(dim,)` for a single row.
        initializer: Function of a shape and a dtype that returns the initial values.
        group: Weights of an equal group are rows of one variable.
    """

    name: str
    shape: tuple[int, ...]
    initializer: Callable[..., Any]
    group: tuple[str, ...]


def add_weights(layer: "FeatureEmbedding", weights: Sequence[Weight]) -> list[Any]:
    """Adds weights to a layer, with one variable per group.

    A variable takes the place of its first weight among those of the layer: files of
    version 0.1.0 have the variables of an optimizer by position.

    Returns:
        For each weight a `keras.Variable`, or a `RowsView` if its group has others.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, weight in enumerate(weights):
        groups.setdefault(weight.group, []).append(place)
    added: dict[int, Any] = {}
    for places in groups.values():
        group = _add_group(layer, [weights[place] for place in places])
        added |= zip(places, group, strict=True)
        variable = getattr(group[0], "variable", group[0])
        # By which optimizers read older files.
        variable.layer, variable.places = layer, places
    return [added[place] for place in range(len(weights))]


def _add_group(layer: "FeatureEmbedding", weights: list[Weight]) -> list[Any]:
    if len(weights) == 1:
        (weight,) = weights
        variable = layer.add_weight(
            shape=weight.shape,
            initializer=weight.initializer,
            autocast=False,
            name=weight.name,
        )
        return [variable]
    counts = [weight.shape[0] if len(weight.shape) == 2 else 1 for weight in weights]

    def initialize(shape: tuple[int, int], dtype: Any) -> Any:
        values = [weight.initializer(weight.shape, dtype=dtype) for weight in weights]
        return ops.concatenate([ops.reshape(rows, (-1, shape[1])) for rows in values])

    variable = layer.add_weight(
        shape=(sum(counts), layer.dim),
        initializer=initialize,
        autocast=False,
        name="_".join(weights[0].group),
    )
    variable.views = []
    start = 0
    for weight in weights:
        view = RowsView(variable, weight.name, weight.shape, start)
        variable.views.append(view)
        start += view.num_rows
    return list(variable.views)
