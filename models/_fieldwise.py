"""Layers that save the names of the fields to which their weights belong."""

import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fmlayers._named_weights import LastMessage


class Fieldwise(keras.layers.Layer):
    """Mixin for a Keras layer that saves the names of its fields.

    A model whose features are in another order then loads the right weights for each
    field. Files of version 0.1.0 have no names and load by position.

    List it before the Keras class among the base classes.

    Args:
        fields: Names of the fields, in the order of the layer's weights.

    Attributes:
        fieldwise: Positions of the weights that have a block per field on axis 0.
    """

    fieldwise: tuple[int, ...]

    def __init__(self, *args: Any, fields: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields = list(fields)
        self._fault = LastMessage()

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["fields"] = np.frombuffer(json.dumps(self.fields).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        # As in `FeatureEmbedding`: Keras tries again and reports the last error.
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
            saved = json.loads(bytes(values.pop("fields")))
            if sorted(saved) != sorted(self.fields):
                raise ValueError(
                    f"Layer {self.name!r} has the fields {saved} in the file and "
                    f"{self.fields} in the model. To copy the weights of the fields in "
                    "both, use `fmlayers.models.warm_start`."
                )
            order = [saved.index(name) for name in self.fields]
            for position in map(str, self.fieldwise):
                blocks = np.split(np.asarray(values[position]), len(saved))
                values[position] = np.concatenate([blocks[i] for i in order])
        super().load_own_variables(values)


class Dense(Fieldwise, keras.layers.Dense):
    """`keras.layers.Dense` on the concatenated vectors of all fields.

    It has the class name of the Keras layer, which is part of the paths in files.
    """

    fieldwise = (0,)


class BatchNormalization(Fieldwise, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of one number per field."""

    fieldwise = (0, 1, 2, 3)

    def scales_and_shifts(self) -> tuple[Any, Any]:
        """Returns the scale and the shift of each field at inference."""
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
