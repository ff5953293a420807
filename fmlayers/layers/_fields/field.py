from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fmlayers._backend import accumulation_dtype
from fmlayers._types import Tensor
from fmlayers.features import Feature
from fmlayers.layers._pretrained import Pretrained

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding

F = TypeVar("F", bound=Feature)


class Field(ABC, Generic[F]):
    """The weights of a feature in a `FeatureEmbedding`, and the vectors they compute.

    The weights are in the `tables`, `vectors`, `biases` and `histories` of the layer:
    features may share tables, and layers may share histories.

    Args:
        feature: The feature.
        layer: The `FeatureEmbedding`, constructed but not built.
        l2: Non-negative float, the coefficient of the L2 of the field.
    """

    def __init__(self, feature: F, layer: "FeatureEmbedding", l2: float) -> None:
        self.feature = feature
        self.layer = layer
        self.l2 = l2
        self.dtype = accumulation_dtype(layer.compute_dtype)

    @abstractmethod
    def build(self) -> None:
        """Adds the weights to the layer, except those that it already has."""

    @abstractmethod
    def weights(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """Yields each weight with its role and name, by which it is saved.

        The order is that of `build`: files of version 0.1.0 have weights by position.
        """

    @abstractmethod
    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the vectors of a batch, and the squared norms for the L2.

        Args:
            inputs: The input dict, already checked.

        Returns:
            The vectors `(batch, dim)` and the squared norms `(batch,)` or `(batch, 1)`,
            both in `dtype`.
        """

    def fresh_initializer(self, rows: int | slice | None = None) -> Any:
        """Returns the initializer for a new weight.

        Without a copy, two weights of the same shape would start with equal values.

        Args:
            rows: Optional index of the rows of an array of vectors that belong to the
                weight. Defaults to `None` (all rows).
        """
        initializer = self.layer.initializer_of(self.feature)
        if rows is not None and isinstance(initializer, Pretrained):
            return initializer.part(rows)
        return initializer.clone() if hasattr(initializer, "clone") else initializer
