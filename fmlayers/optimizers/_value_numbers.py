from collections.abc import Callable
from typing import Any


class ValueNumbers:
    """Numbers of the tensors of a TensorFlow graph, equal if the values must be equal.

    Two layers compute the rows of the same ids by different tensors. Those of the same
    operations on the same inputs have the same number.
    """

    def __init__(self) -> None:
        self._of_tensors: dict[Any, int] = {}
        self._of_values: dict[Any, int] = {}
        self._results: dict[Any, Any] = {}

    def once(self, compute: Callable[[], Any], key: Any, tensor: Any) -> Any:
        """Returns `compute()`, or the result for the same key and an equal tensor."""
        key = key, self.number(tensor)
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]

    def number(self, tensor: Any) -> int:
        """Returns the number of a tensor. Eager tensors have numbers of their own."""
        key = tensor.ref()
        if key not in self._of_tensors:
            value = self._value(tensor)
            self._of_tensors[key] = self._of_values.setdefault(
                value, len(self._of_values)
            )
        return self._of_tensors[key]

    def _value(self, tensor: Any) -> Any:
        import tensorflow as tf

        if not tf.is_symbolic_tensor(tensor):
            return tensor.ref()
        op = tensor.op
        if op.op_def.is_stateful or not (op.inputs or op.type == "Const"):
            return tensor.ref()
        attributes = tuple(
            sorted((k, v.SerializeToString()) for k, v in op.node_def.attr.items())
        )
        inputs = tuple(map(self.number, op.inputs))
        return op.type, attributes, tensor.value_index, inputs
