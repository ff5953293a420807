"""The weights of fields, several of which are rows of one variable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras import ops

from fmlayers._spread.rows import SpreadRows, spread_rows
from fmlayers._spread.table_in_files import table_in_files
from fmlayers.layers._fields.initial_rows import InitialRows
from fmlayers.layers._rows_view import RowsView

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding


@dataclass(frozen=True)
class Weight:
    """A weight that a field needs.

    Attributes:
        name: String, the name of its variable or view.
        shape: `(rows, dim)`, or `(dim,)` for a single row.
        initializer: Function of a shape and a dtype that returns the initial values. An
            `InitialRows` for tables that a batch looks up.
        group: Weights of an equal group are rows of one variable.
    """

    name: str
    shape: tuple[int, ...]
    initializer: Callable[..., Any] | InitialRows
    group: tuple[str, ...]


@dataclass(frozen=True)
class _Joined:
    """The initial values of weights that are rows of one variable.

    It is an object because Keras cannot compile a function for a spread variable.
    """

    weights: tuple[Weight, ...]

    def __call__(self, shape: tuple[int, int], dtype: Any) -> Any:
        values = [each.initializer(each.shape, dtype=dtype) for each in self.weights]
        return ops.concatenate([ops.reshape(rows, (-1, shape[1])) for rows in values])


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
    counts = [weight.shape[0] if len(weight.shape) == 2 else 1 for weight in weights]
    name = "_".join(weights[0].group) if len(weights) > 1 else weights[0].name
    variable = _external_variable(layer, weights, sum(counts), name)
    if variable is None and len(weights) == 1:
        (weight,) = weights
        variable = layer.add_weight(
            shape=weight.shape,
            initializer=weight.initializer,
            autocast=False,
            name=weight.name,
        )
        return [variable]
    if variable is None:
        variable = layer.add_weight(
            shape=(sum(counts), layer.dim),
            initializer=_Joined(tuple(weights)),
            autocast=False,
            name=name,
        )
    variable.views = []
    start = 0
    for weight in weights:
        view = RowsView(variable, weight.name, weight.shape, start)
        variable.views.append(view)
        start += view.num_rows
    return list(variable.views)


def _external_variable(
    layer: "FeatureEmbedding", weights: list[Weight], num_rows: int, name: str
) -> Any:
    """Returns a variable whose rows are in files or spread over hosts, or `None`."""
    kind = weights[0].group[0]
    if kind == "embeddings":
        dtype, path = layer.variable_dtype, f"{layer.name}/{name}"
        in_files = table_in_files(num_rows, layer.dim, dtype, path)
        if in_files is not None:
            return in_files
    elif kind != "history":
        return None
    spread = spread_rows(num_rows, layer.dim)
    return spread and _spread_variable(layer, weights, spread, name)


def _spread_variable(
    layer: "FeatureEmbedding", weights: list[Weight], spread: SpreadRows, name: str
) -> Any:
    dtype = layer.variable_dtype

    def pieces_of(host: int, hosts: int) -> Iterator[Any]:
        start = 0
        for weight in weights:
            initial, first = weight.initializer, (host - start) % hosts
            assert isinstance(initial, InitialRows)
            yield from initial.every(hosts, first, weight.shape, dtype)
            start += weight.shape[0]

    variable = spread.variable(dtype, pieces_of, autocast=False, name=name)
    setattr(layer, f"_{name}", variable)  # so that Keras tracks it
    return variable
