from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fmlayers._backend import accumulation_dtype
from fmlayers._types import Tensor
from fmlayers.features import Feature

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding

F = TypeVar("F", bound=Feature)


class Field(ABC, Generic[F]):
    """What a layer makes of a feature: its weights, and a vector an example.

    The weights are the layer's, in its `tables`, `vectors`, `biases` and `histories`:
    features may share them, and layers too.

    Args:
        feature: The feature.
        layer: The `FeatureEmbedding`, constructed but not built.
        l2: Non-negative float, the coefficient of the field's L2.
    """

    def __init__(self, feature: F, layer: "FeatureEmbedding", l2: float) -> None:
        self.feature = feature
        self.layer = layer
        self.l2 = l2
        self.dtype = accumulation_dtype(layer.compute_dtype)

    @abstractmethod
    def build(self) -> None:
        """Adds to the layer the weights that it does not have yet."""

    @abstractmethod
    def weights(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """Yields role and name, under which a file has a weight, and the weight.

        They come in the order of `build`, by which files of version 0.1.0 have them.
        """

    @abstractmethod
    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the vectors of a batch and the squared norms that its L2 counts.

        Args:
            inputs: The input dict, checked.

        Returns:
            `(batch, dim)`, and `(batch,)` or `(batch, 1)`, both in `dtype`.
        """

    def fresh_initializer(self) -> Any:
        # An unseeded initializer gives two tables of one shape the same numbers.
        initializer = self.layer.embeddings_initializer
        return initializer.clone() if hasattr(initializer, "clone") else initializer
