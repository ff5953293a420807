"""What a layer's or a model's config holds besides numbers and strings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras
from keras.saving import serialize_keras_object as serialize
from keras.src.models.functional import Functional

T = TypeVar("T", bound=keras.layers.Layer)


def deserialize_objects(config: dict[str, Any]) -> dict[str, Any]:
    """Returns `config` with every serialized object in it, lists too, restored.

    Keras hands `from_config` the plain dicts; its own `get_config` fills in
    strings and numbers alone.
    """

    def restore(value: Any) -> Any:
        if isinstance(value, list):
            return [restore(entry) for entry in value]
        if isinstance(value, dict) and "class_name" in value:
            return keras.saving.deserialize_keras_object(value)
        return value

    return {name: restore(value) for name, value in config.items()}


def state_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the entries of a config for what was done to parts of a layer.

    Keras saves neither which single weights are frozen nor, of a subclassed model,
    which of its layers are frozen or quantized. Empty entries are left out.
    """
    frozen = [path for path, part in _parts(layer).items() if not part.trainable]
    if not layer.built:
        frozen = list(getattr(layer, "_frozen", ()))
    quantized = {
        path: {
            "mode": part.quantization_mode,
            "config": serialize(getattr(part, "quantization_config", None)),
        }
        for path, part in sublayers(layer).items()
        if part.quantization_mode is not None
    }
    state = {"frozen": frozen, "quantized": quantized}
    return {name: value for name, value in state.items() if value}


def restore(cls: type[T], config: Mapping[str, Any]) -> T:
    """Returns the layer of a config that may have the entries of `state_config`."""
    config = dict(config)
    frozen, quantized = config.pop("frozen", []), config.pop("quantized", {})
    layer: T = cls(**deserialize_objects(config))
    parts = sublayers(layer)
    for path, how in quantized.items():
        if parts[path].quantization_mode is None:
            settings = keras.saving.deserialize_keras_object(how["config"])
            parts[path].quantize(how["mode"], config=settings)
    if not layer.trainable and not frozen:  # of version 0.1.0
        for part in parts.values():
            part.trainable = False
    if layer.built:
        freeze(layer, frozen)
    elif frozen:
        layer._frozen = tuple(frozen)  # until `build`
    return layer


def freeze(layer: keras.layers.Layer, frozen: Sequence[str]) -> None:
    """Makes those parts of a layer untrainable, and all others trainable, if any is."""
    if not frozen:
        return
    parts = _parts(layer)
    # The layers first, from the outermost on: each hands its flag on to its parts.
    for kind in (keras.layers.Layer, keras.Variable):
        for path, part in parts.items():
            if isinstance(part, kind):
                part.trainable = path not in frozen


def sublayers(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """Returns all layers inside a layer by the path of attributes that leads to them.

    As in Keras' files: the layers' names differ from one model to the next. A layer
    with two paths is there once.
    """
    found: dict[str, keras.layers.Layer] = {}
    seen = {id(layer)}

    def visit(layer: keras.layers.Layer, prefix: str) -> None:
        for name, child in _attributes(layer):
            if id(child) not in seen:
                seen.add(id(child))
                found[prefix + name] = child
                visit(child, f"{prefix}{name}/")

    visit(layer, "")
    return found


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
    except Exception:  # a property of a user's layer; Keras passes over it as well
        return None


def _numbered(values: Sequence[Any]) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields the layers of a list, those of each class numbered."""
    counts: Counter[str] = Counter()
    for x in values:
        if isinstance(x, keras.layers.Layer):
            name = type(x).__name__
            yield f"{name}_{counts[name]}", x
            counts[name] += 1


def _parts(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the layers inside that have weights, and trainable weights, by path."""
    found: dict[str, Any] = {}
    for path, part in {"": layer, **sublayers(layer)}.items():
        if path and part.weights:
            found[path] = part
        start = f"{path}/" if path else ""
        found |= {f"{start}{v.name}": v for v in part._trainable_variables}
    return found
