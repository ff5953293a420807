from dataclasses import dataclass
from pathlib import Path

from fmlayers._checks import integer


@dataclass(frozen=True)
class Share:
    """The part of the rows or users that one of several processes scores.

    The parts consist of whole batches. Each process therefore forms the same batches as
    a single process, and its scores are the same to the last bit. The parts are
    consecutive, in the order of the workers.

    Args:
        worker: Index of the process, from 0 to `workers - 1`. Defaults to 0.
        workers: Positive integer, the number of processes. Defaults to 1.

    Raises:
        ValueError: If an argument violates its constraint.
    """

    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        workers = integer("workers", self.workers, "at least 1")
        rule = f"one of 0 ... {workers - 1}"
        integer("worker", self.worker, rule, least=0, most=workers - 1)

    def rows(self, count: int, batch_size: int) -> slice:
        """Returns the rows of the process.

        Args:
            count: Integer, the total number of rows.
            batch_size: Positive integer, rows per batch.
        """
        batches = -(-count // batch_size)
        start, end = (
            min(count, batches * worker // self.workers * batch_size)
            for worker in (self.worker, self.worker + 1)
        )
        return slice(start, end)

    def path(self, path: str | Path) -> Path:
        """Returns the path of the file of the process, such as `out-0-of-4.csv`.

        Sorted by name, the files are in the order of the workers.

        Args:
            path: Path of the file of a single process. If there is only one process,
                this path is returned.
        """
        path = Path(path)
        if self.workers == 1:
            return path
        number = f"{self.worker:0{len(str(self.workers - 1))}}"
        return path.with_name(f"{path.stem}-{number}-of-{self.workers}{path.suffix}")
