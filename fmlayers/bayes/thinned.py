from collections.abc import Iterator, Mapping
from typing import Any

from fmlayers.bayes.chain import Sample


class Thinned:
    """Keeps a bounded number of samples, evenly spaced among all that are added.

    Args:
        size: Positive integer, the maximum number of samples.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._step = 1
        self._added = 0
        self._kept: list[Sample] = []

    def add(self, sample: Sample) -> None:
        if self._added % self._step == 0:
            self._kept.append(sample)
        self._added += 1
        if len(self._kept) > self._size:
            self._kept = self._kept[::2]
            self._step *= 2

    def state(self) -> dict[str, Any]:
        """Returns the samples, and the counts that are needed to add more."""
        kept = [dict(vars(sample)) for sample in self._kept]
        return {"step": self._step, "added": self._added, "kept": kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state."""
        self._step, self._added = state["step"], state["added"]
        self._kept = [Sample(**sample) for sample in state["kept"]]

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._kept)
