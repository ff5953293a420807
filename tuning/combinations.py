"""The combinations of values in a search space."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_tuner.engine.hyperparameters import Float, Int


def combinations(
    parameters: Sequence[Any], values: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields all combinations of active values, in the order of the hyperparameters.

    Args:
        parameters: KerasTuner's hyperparameters, each after those that it depends on.
        values: Optional values of preceding hyperparameters.
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
    """Returns whether each hyperparameter has a finite number of values."""
    return not any(
        isinstance(parameter, Float) and parameter.step is None
        for parameter in parameters
    )


def _values(parameter: Any) -> Iterable[Any]:
    if isinstance(parameter, Int) and parameter.step is None:
        return range(parameter.min_value, parameter.max_value + 1)
    values: Iterable[Any] = parameter.values
    return values
