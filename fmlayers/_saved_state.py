"""The state of layers in configs: objects, frozen parts and quantized parts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras
from keras.saving import serialize_keras_object as serialize
from keras.src.models.functional import Functional

T = TypeVar("T", bound=keras.layers.Layer)


def is_serialized(value: Mapping[str, Any]) -> bool:
    """Returns whether a dict is a serialized object.

    A dict from the name of a feature may have the key `"class_name"`, too.
    """
    return isinstance(value.get("class_name"), str) and "config" in value


def deserialize_objects(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config in which all serialized objects, also in lists, are restored.

    Keras passes plain dicts to `from_config`.
    """

    def deserialize(value: Any) -> Any:
        if isinstance(value, list):
            return [deserialize(entry) for entry in value]
        if isinstance(value, dict) and is_serialized(value):
            return keras.saving.deserialize_keras_object(value)
        return value

    return {name: deserialize(value) for name, value in config.items()}


def state_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the entries of a config that record frozen and quantized parts.

    Keras does not save which weights are frozen, nor which layers of a subclassed
    model are frozen or quantized. Empty entries are omitted. An empty list of frozen
    parts is only there if the config freezes some by name, which were unfrozen later.
    """
    frozen: list[str] | None
    frozen = [path for path, part in _parts(layer).items() if not part.trainable]
    if not layer.built:
        frozen = getattr(layer, "_frozen", None)
    if not frozen and not getattr(layer, "_trainable_by_name", None):
        frozen = None
    quantized = {
        path: {
            "mode": part.quantization_mode,
            "config": serialize(getattr(part, "quantization_config", None)),
        }
        for path, part in sublayers(layer).items()
        if part.quantization_mode is not None
    }
    state = {} if frozen is None else {"frozen": frozen}
    return state | ({"quantized": quantized} if quantized else {})


def restore(cls: type[T], config: Mapping[str, Any]) -> T:
    """Returns the layer of a config, which may have the entries of `state_config`."""
    config = dict(config)
    frozen, quantized = config.pop("frozen", None), config.pop("quantized", {})
    layer: T = cls(**deserialize_objects(config))
    parts = sublayers(layer)
    for path, quantization in quantized.items():
        if parts[path].quantization_mode is None:
            settings = keras.saving.deserialize_keras_object(quantization["config"])
            parts[path].quantize(quantization["mode"], config=settings)
    if not layer.trainable and not frozen:  # saved by version 0.1.0
        for part in parts.values():
            part.trainable = False
    if layer.built:
        freeze(layer, frozen)
    elif frozen is not None:
        layer._frozen = list(frozen)  # until `build`
    return layer


def freeze(layer: keras.layers.Layer, frozen: Sequence[str] | None) -> None:
    """Freezes the parts of a layer with these paths and unfreezes all others.

    With `None`, nothing changes.
    """
    if frozen is None:
        return
    # Outer layers first: each sets the flag of all its parts, too.
    parts = sorted(
        _parts(layer).items(), key=lambda x: not isinstance(x[1], keras.layers.Layer)
    )
    for path, part in parts:
        part.trainable = path not in frozen


def sublayers(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """Returns all layers inside a layer, by their paths of attributes.

    These are the paths of Keras' files. The names of layers would not do: they differ
    between two models of a class. A layer with two paths is returned once.
    """
    layers: dict[str, keras.layers.Layer] = {}
    seen = {id(layer)}

    def visit(layer: keras.layers.Layer, prefix: str) -> None:
        for name, child in _attributes(layer):
            if id(child) not in seen:
                seen.add(id(child))
                layers[prefix + name] = child
                visit(child, f"{prefix}{name}/")

    visit(layer, "")
    return layers


def _attributes(
    layer: keras.layers.Layer,
) -> Iterator[tuple[str, keras.layers.Layer]]:
    if isinstance(layer, Functional):
        yield from ((f"layers/{name}", x) for name, x in _numbered(layer.layers))
        return
    for name in sorted(set(dir(layer)) - set(dir(keras.Model))):
        value = None if name.startswith("_") else _attribute(layer, name)
        if isinstance(value, keras.layers.Layer):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}/{key}", x) for key, x in _numbered(value))
        elif isinstance(value, dict):
            for key, x in value.items():
                if isinstance(x, keras.layers.Layer):
                    yield f"{name}/{key}", x


def _attribute(layer: keras.layers.Layer, name: str) -> Any:
    try:
        return getattr(layer, name)
    except Exception:  # a property of a user's layer; Keras skips it, too
        return None


def _numbered(values: Sequence[Any]) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields the layers in a list, with names numbered by class."""
    counts: Counter[str] = Counter()
    for x in values:
        if isinstance(x, keras.layers.Layer):
            name = type(x).__name__
            yield f"{name}_{counts[name]}", x
            counts[name] += 1


def _parts(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the inner layers that have weights, and trainable weights, by path."""
    parts: dict[str, Any] = {}
    for path, part in {"": layer, **sublayers(layer)}.items():
        if path and part.weights:
            parts[path] = part
        start = f"{path}/" if path else ""
        parts |= {f"{start}{weight.name}": weight for weight in _weights(part)}
    return parts


def _weights(layer: keras.layers.Layer) -> Iterable[Any]:
    """Returns the weights that a layer created as trainable.

    These are the tables of a `FeatureEmbedding`, even if several are in a variable.
    """
    weights: Iterable[Any] = layer._trainable_variables
    if layer.built and hasattr(layer, "named_weights"):
        weights = layer.named_weights().values()
    return weights
