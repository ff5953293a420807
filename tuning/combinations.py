"""The combinations of values that a search space has, where they can be counted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_tuner.engine import hyperparameters as kinds


def combinations(
    parameters: Sequence[Any], values: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields all combinations of active values, in the order of the parameters.

    Args:
        parameters: KerasTuner's hyperparameters, each after those that it depends on.
        values: Optional values of parameters before these.
    """
    chosen = dict(values or {})
    if not parameters:
        yield chosen
        return
    first, *rest = parameters
    if all(condition.is_active(chosen) for condition in first.conditions):
        for value in _values(first):
            yield from combinations(rest, {**chosen, first.name: value})
    else:
        yield from combinations(rest, chosen)


def is_countable(parameters: Iterable[Any]) -> bool:
    """Returns whether each parameter has values that can be counted."""
    return not any(
        isinstance(parameter, kinds.Float) and parameter.step is None
        for parameter in parameters
    )


def _values(parameter: Any) -> Iterable[Any]:
    if isinstance(parameter, kinds.Int) and parameter.step is None:
        return range(parameter.min_value, parameter.max_value + 1)
    values: Iterable[Any] = parameter.values
    return values
