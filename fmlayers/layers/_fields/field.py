from abc import ABC, abstractmethod
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from keras import ops

from fmlayers._backend import accumulation_dtype
from fmlayers._types import Tensor
from fmlayers.features import Feature
from fmlayers.layers._fields.weights import Weight
from fmlayers.layers._pretrained import Pretrained

if TYPE_CHECKING:
    from fmlayers.layers.feature_embedding import FeatureEmbedding

F = TypeVar("F", bound=Feature)
Key = tuple[str, str]  # the role and the name of a weight


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

    @property
    def is_trainable(self) -> bool:
        """Whether the layer's constructor leaves the weights trainable."""
        return self.layer.is_trainable(self.feature)

    @property
    def source(self) -> Hashable:
        """The key of the fields with which `embed_all` embeds this one."""
        return None

    def declare(self, declared: Container[Key]) -> Iterator[tuple[Key, Weight]]:
        """Yields the weights that the layer is to add, with their roles and names.

        The role is `"table"`, `"vector"` or `"bias"`: the dict of the layer that gets
        the weight.

        Args:
            declared: The roles and names that the preceding fields declared.
        """
        yield from ()

    def build(self) -> None:
        """Adds other weights to the layer, after those that fields declare."""

    @abstractmethod
    def weights(self) -> Iterator[tuple[Key, Any]]:
        """Yields each weight with its role and name, by which it is saved.

        The order is that of `build`: files of version 0.1.0 have weights by position.
        """

    def embed(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the vectors of a batch, and the squared norms for the L2.

        A class must define this method or `embed_all`.

        Args:
            inputs: The input dict, already checked.

        Returns:
            The vectors `(batch, dim)` and the squared norms `(batch,)` or `(batch, 1)`,
            both in `dtype`.
        """
        raise NotImplementedError

    @classmethod
    def embed_all(
        cls, fields: Sequence[Self], inputs: Mapping[str, Tensor], with_norms: bool
    ) -> tuple[Tensor, list[Any]]:
        """Embeds fields of this class that have the same `source`.

        Args:
            fields: The fields.
            inputs: The input dict, already checked.
            with_norms: Whether to compute the norms.

        Returns:
            The vectors `(batch, fields, dim)`, and for each field the mean over the
            batch of the squared norms. It may be `None` for fields without L2, and is
            `None` for all without `with_norms`.
        """
        vectors, norms = zip(*(field.embed(inputs) for field in fields), strict=True)
        means = [
            over_batch(ops.sum(norm), norm) if with_norms and field.l2 else None
            for field, norm in zip(fields, norms, strict=True)
        ]
        return ops.stack(vectors, axis=1), means

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


def over_batch(total: Tensor, norms: Tensor) -> Tensor:
    """Returns a sum divided by the size of the batch of `norms`."""
    # A product, because the gradient of a quotient takes three times the operations.
    return total * (1.0 / ops.maximum(ops.cast(ops.shape(norms)[0], total.dtype), 1.0))
