from typing import Any

import keras

from fmlayers import _named_weights
from fmlayers.layers._history_lists import HistoryLists


class SavedByName(keras.layers.Layer):
    """A layer whose weights and histories are saved by name.

    Attributes:
        histories: Dict from feature name to `HistoryLists`. Layers may share them.
    """

    built: bool
    histories: dict[str, HistoryLists]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._fault = _named_weights.LastMessage()

    def named_weights(self) -> dict[tuple[str, str], Any]:
        """Returns the layer's weights by role and name, in the order of `build`."""
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        if not self.built:
            return
        _named_weights.save(store, self._weights_by_key())
        for name, history in self.histories.items():
            if history.is_first_in(store):
                _named_weights.save(
                    store, {_named_weights.key_of("history", name): history.parts()}
                )

    def load_own_variables(self, store: Any) -> None:
        if not self.built:
            super().load_own_variables(store)
            return
        # After an error, Keras tries other paths, where the file is empty, and reports
        # the last error: raise the first one again.
        message = None if store.keys() else self._fault.of(store)
        if message is None:
            message = self._load(store)
            self._fault.set(store, message)
        if message:
            raise ValueError(message)

    def _load(self, store: Any) -> str:
        """Loads the weights; returns a message about those that fail, or `""`."""
        weights = self._weights_by_key()
        histories = {}
        for name, each in self.histories.items():
            key = _named_weights.key_of("history", name)
            if _named_weights.has(store, key):
                histories[key] = each.parts()
                each.is_loaded = True
        faults = _named_weights.load(store, {**weights, **histories}, weights)
        if not faults:
            return ""
        return (
            f"Layer {self.name!r} cannot load all of its weights: {'; '.join(faults)}. "
            "To start a model with another vocabulary or other features from this "
            "file, use `fmlayers.models.warm_start`."
        )

    def _weights_by_key(self) -> dict[str, dict[str, Any]]:
        weights = self.named_weights()
        return {
            _named_weights.key_of(*key): {"": weight} for key, weight in weights.items()
        }
