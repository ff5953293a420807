import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmlayers._files import whole_file
from fmlayers.data import DataError
from fmlayers.runs.recommender import Recommender


def write_recommendations(
    recommender: Recommender,
    users: Sequence[str],
    path: str | Path,
    k: int = 10,
    *,
    include_seen: bool = False,
    allowed: npt.NDArray[np.bool_] | None = None,
    known: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes the top-N recommendations of users to a CSV file.

    The file has the columns `user_id` and `item_ids` and one row per user. `item_ids`
    contains the ids of the items, best first, separated by spaces. The file appears
    only when it is complete.

    Args:
        recommender: The recommender.
        users: Users as text.
        path: Path of the file. An existing file is replaced.
        k: See `Recommender.top_n`.
        include_seen: See `Recommender.top_n`.
        allowed: See `Recommender.top_n`.
        known: See `Recommender.top_n`.
        on_batch: Called after each batch with its number of users.

    Raises:
        DataError: If the folder does not exist, or the id of an item contains a space.
    """
    path = Path(path)
    keys = recommender.catalog.keys
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}.")
    spaced = [key for key in keys if len(key.split()) != 1]
    if spaced:
        raise DataError(
            f"The ids of the items must not contain spaces, which separate the ids in "
            f"{path}. Received: {spaced[0]!r}."
        )
    remaining = iter(users)
    with whole_file(path) as written, written.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["user_id", "item_ids"])
        for _, batch in recommender.batches(
            users, k, include_seen=include_seen, allowed=allowed, known=known
        ):
            for positions in batch:
                items = " ".join(keys[positions[positions >= 0]])
                writer.writerow([next(remaining), items])
            on_batch(len(batch))
