"""Makes `import fmlayers` enough to load any model that the package can save.

Keras finds a class only after its module was imported. The classes below live in
modules that `import fmlayers` leaves alone, because of what they import in turn;
each is registered by a stand-in that fetches it when a file asks for it.
"""

import importlib
from typing import Any

import keras

MODULES = {
    "Adagrad": "fmlayers.optimizers",
    "BPR": "fmlayers.losses",
    "DeepFM": "fmlayers.models",
    "Encoder": "fmlayers.data",
    "Ensemble": "fmlayers.models",
    "FactorizationMachine": "fmlayers.models",
    "LazyAdam": "fmlayers.optimizers",
    "LibFM": "fmlayers.models",
    "MatrixFactorization": "fmlayers.models",
    "NeuralMatrixFactorization": "fmlayers.models",
    "TopN": "fmlayers.retrieval",
}


def register() -> None:
    """Registers a stand-in for each class; importing its module replaces it."""
    for name, module in MODULES.items():
        stand_in = type(name, (_StandIn,), {"module": module})
        keras.saving.get_custom_objects().setdefault(f"fmlayers>{name}", stand_in)


class _StandIn:
    module: str

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(cls.module), cls.__name__).from_config(
            config
        )
