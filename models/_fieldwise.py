"""Layers whose weights belong to fields, by the fields' places."""

import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fmlayers._named_weights import LastMessage


class Fieldwise(keras.layers.Layer):
    """Mixin, in front of a Keras layer, that files the names of its fields.

    A model with another order of the same features then loads each field's weights.
    Files of version 0.1.0 have no names: they load by place.

    Args:
        fields: Names of the fields, in the order of the layer's weights.
    """

    by_field: tuple[int, ...]  # places of the weights that are of fields, on axis 0

    def __init__(self, *args: Any, fields: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields = list(fields)
        self._fault = LastMessage()

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["fields"] = np.frombuffer(json.dumps(self.fields).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        # As in `FeatureEmbedding`: Keras tries again, and reports the last error.
        message = None if store.keys() else self._fault.of(store)
        if message is not None:
            raise ValueError(message)
        try:
            self._load(store)
        except ValueError as error:
            self._fault.set(store, str(error))
            raise

    def _load(self, store: Any) -> None:
        values = {name: store[name] for name in list(store.keys())}
        if "fields" in values:
            filed = json.loads(bytes(values.pop("fields")))
            if sorted(filed) != sorted(self.fields):
                raise ValueError(
                    f"Layer {self.name!r} has the fields {filed} in the file and "
                    f"{self.fields} in the model. `fmlayers.models.warm_start` carries "
                    "over the weights of the fields that both have."
                )
            order = [filed.index(name) for name in self.fields]
            for place in map(str, self.by_field):
                blocks = np.split(np.asarray(values[place]), len(filed))
                values[place] = np.concatenate([blocks[i] for i in order])
        super().load_own_variables(values)


class Dense(Fieldwise, keras.layers.Dense):
    """`keras.layers.Dense` on the vectors of all fields, side by side.

    It has the same name as Keras' own, by which Keras files a layer of a list.
    """

    by_field = (0,)


class BatchNormalization(Fieldwise, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of one number a field."""

    by_field = (0, 1, 2, 3)

    def scales_and_shifts(self) -> tuple[Any, Any]:
        """Returns what the trained layer multiplies each field by and adds to it."""
        gamma, beta, mean, variance = (
            ops.convert_to_numpy(ops.cast(weight, "float32"))
            for weight in (
                self.gamma,
                self.beta,
                self.moving_mean,
                self.moving_variance,
            )
        )
        scales = gamma / np.sqrt(variance + self.epsilon)
        return scales, beta - scales * mean
