"""Lazy registration of the package's classes with Keras.

After `import fmlayers`, Keras can load every model that the package can save. Keras
finds a class only if its module was imported, but importing all modules, and Keras
itself, takes seconds. Instead, a stand-in is registered for each class, which imports
the class when a saved model needs it.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "Adagrad": "fmlayers.optimizers",
    "BPR": "fmlayers.losses",
    "BalancedCrossentropy": "fmlayers.losses",
    "Categorical": "fmlayers.features",
    "Encoder": "fmlayers.data",
    "FMInteraction": "fmlayers.layers",
    "FeatureEmbedding": "fmlayers.layers",
    "History": "fmlayers.features",
    "LazyAdam": "fmlayers.optimizers",
    "MaskedMeanPooling": "fmlayers.layers",
    "MeanLoss": "fmlayers.losses",
    "MultiCategorical": "fmlayers.features",
    "Numeric": "fmlayers.features",
    "Pretrained": "fmlayers.layers._pretrained",
    "RatingScaler": "fmlayers.layers",
    "SquaredLogError": "fmlayers.losses",
    "TopN": "fmlayers.retrieval",
    "Vector": "fmlayers.features",
}
# Modules of the floors above that name their classes, in `CLASSES`, and import none.
TABLES = ("fmlayers.models.specs",)


def modules() -> dict[str, str]:
    """Returns where each class that can be saved is defined."""
    found = dict(MODULES)
    for table in TABLES:
        found |= importlib.import_module(table).CLASSES
    return found


def load(name: str) -> Any:
    """Returns a class that can be saved, and imports its module."""
    return getattr(importlib.import_module(modules()[name]), name)


def register() -> None:
    """Registers a stand-in for each class, now or as soon as Keras is imported.

    When the module of a class is imported, the class replaces its stand-in.
    """
    if "keras" not in sys.modules:
        # Importing Keras here would make `fmlayers --help` take seconds. Keras has no
        # plugins, so its import is watched instead.
        sys.meta_path.insert(0, _KerasWatch())
        return
    import keras

    for name, module in modules().items():
        stand_in = type(name, (_StandIn,), {"module": module})
        keras.saving.get_custom_objects().setdefault(f"fmlayers>{name}", stand_in)


class _StandIn:
    module: str

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(cls.module), cls.__name__).from_config(
            config
        )


class _KerasWatch:
    """A meta path finder that calls `register` once Keras is imported."""

    def find_spec(self, name: str, *where: Any) -> ModuleSpec | None:
        if name != "keras":
            return None
        others = (x.find_spec(name, *where) for x in sys.meta_path if x is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
