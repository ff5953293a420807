from typing import Any

import keras


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
