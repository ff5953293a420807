import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fmlayers._checks import choice
from fmlayers._files import whole_file
from fmlayers.data import DataError
from fmlayers.data.tables import escaped
from fmlayers.runs.recommender import BATCH_SIZE, Recommender
from fmlayers.runs.share import Share

Layout = Literal["wide", "long"]
_COLUMNS = {"wide": ["user_id", "item_ids"], "long": ["user", "item", "rank", "score"]}


def write_recommendations(
    recommender: Recommender,
    users: Sequence[str],
    path: str | Path,
    k: int = 10,
    *,
    layout: Layout = "wide",
    escape_formulas: bool = False,
    include_seen: bool = False,
    allowed: npt.NDArray[np.bool_] | None = None,
    known: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
    share: Share | None = None,
) -> int:
    """Writes the top-N recommendations of users to a CSV file.

    In the wide layout, the file has the columns `user_id` and `item_ids` and one row
    per user. `item_ids` contains the ids of the items, best first, separated by spaces.
    In the long layout, it has the columns `user`, `item`, `rank` (from 1) and `score`
    (the raw score) and one row per recommendation. The file appears only when it is
    complete.

    Args:
        recommender: The recommender.
        users: Users as text.
        path: Path of the file. An existing file is replaced.
        k: See `Recommender.top_n`.
        layout: `"wide"` or `"long"`. Defaults to `"wide"`.
        escape_formulas: See `fmlayers.data.write_csv`. Defaults to `False`.
        include_seen: See `Recommender.top_n`.
        allowed: See `Recommender.top_n`.
        known: See `Recommender.top_n`.
        on_batch: Called after each batch with its number of users.
        share: Optional `Share`, the part of the users to write. Defaults to `None` (all
            users).

    Returns:
        The number of users in the file.

    Raises:
        DataError: If the folder does not exist, or the id of an item contains a space
            in the wide layout.
        ValueError: If `layout` is unknown.
    """
    choice("layout", layout, get_args(Layout))
    path = Path(path)
    keys = recommender.catalog.keys
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}.")
    spaced = [key for key in keys if len(key.split()) != 1]
    if spaced and layout == "wide":
        raise DataError(
            f"The ids of the items must not contain spaces, which separate the ids in "
            f"{path}. Received: {spaced[0]!r}. Use the long layout."
        )
    part = (share or Share()).rows(len(users), BATCH_SIZE)
    remaining = iter(users[part])
    cell = escaped if escape_formulas else str
    with whole_file(path) as written, written.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS[layout])
        for scores, batch in recommender.batches(
            users,
            k,
            include_seen=include_seen,
            allowed=allowed,
            known=known,
            share=share,
        ):
            for of_user, positions in zip(scores, batch, strict=True):
                user, items = next(remaining), keys[positions[positions >= 0]]
                if layout == "wide":
                    writer.writerow([cell(user), cell(" ".join(items))])
                    continue
                for rank, (item, score) in enumerate(
                    zip(items, of_user, strict=False), start=1
                ):
                    writer.writerow([cell(user), cell(item), rank, f"{score:.7g}"])
            on_batch(len(batch))
    return len(range(part.start, part.stop))
