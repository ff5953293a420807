from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fmlayers.data.cells import as_text
from fmlayers.explain import Measure
from fmlayers.export.exporter import Weights
from fmlayers.runs.catalog import Catalog
from fmlayers.runs.evaluation import Evaluation, evaluate
from fmlayers.runs.explanation import (
    FieldReport,
    PairReport,
    explain_fields,
    explain_pair,
)
from fmlayers.runs.exploration import ExploringSearch
from fmlayers.runs.model_export import export_run
from fmlayers.runs.pictures import write_pictures
from fmlayers.runs.posterior_samples import PosteriorSamples
from fmlayers.runs.recommender import Recommender
from fmlayers.runs.run_data import Data
from fmlayers.runs.saved_run import SavedRun


class Run(SavedRun):
    """A finished run: a trained model with its configuration, metrics and tables.

    The folder contains `model.keras` (with the encoder), `metrics.json`, `config.json`,
    `history.csv`, `history.png` and `summary.txt`, `users.csv` and `items.csv` if the
    data have these tables, and `samples.npz` with the method `"gibbs"`. It appears when
    the run is finished. Until then, the files are in a folder with the suffix
    `.partial`.

    Loading a run executes no code from the folder: the model consists of classes of
    Keras and fmlayers, and a model with a `Lambda` layer is rejected.

    Args:
        path: The folder.

    Raises:
        RunError: If there is no finished run, or one of its files is invalid.
    """

    def evaluate(
        self,
        data: Data | None = None,
        *,
        k: int = 25,
        quantile: float = 0.85,
        threshold: float | None = None,
        candidates: int | None = None,
    ) -> Evaluation:
        """Evaluates the ratings and the top-N recommendations on the test rows.

        Args:
            data: See `dataset`.
            k: Positive integer, the number of recommendations per user. Defaults to 25.
            quantile: An item of a user's test rows is relevant if its rating is at
                least this quantile of the user's test ratings. Defaults to 0.85.
            threshold: Optional. An item is relevant if its rating is at least this
                value, instead of `quantile`.
            candidates: See `fmlayers.retrieval.retrieve`.

        Raises:
            DataError: If the data are missing or have changed, or no test row is
                relevant.
            ValueError: If an argument violates its constraint.
        """
        return evaluate(
            self,
            self.dataset(data),
            k=k,
            quantile=quantile,
            threshold=threshold,
            candidates=candidates,
        )

    def predict_with_std(
        self, table: pd.DataFrame
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns the predicted target of each row and its standard deviation.

        The standard deviations include the error of a single target. For labels, they
        are those of the probability. They need a run with the method `"gibbs"`.

        Args:
            table: See `predict`.

        Raises:
            DataError: See `predict`.
            ValueError: If the run has another method.
        """
        stddev = PosteriorSamples(self).stddev(self.inputs(table))
        return self.predict(table), stddev

    def catalog(self) -> Catalog:
        """Returns the items that the model can score, with their columns.

        Raises:
            ValueError: If the run has no items.
        """
        catalog = Catalog.of(self.encoder, self.side_table("items"))
        if not len(catalog):
            raise ValueError(
                "The run must have items: train with `--item COLUMN`. "
                f"Received: the columns {list(self.encoder.columns)}."
            )
        return catalog

    def recommender(
        self,
        data: Data | None = None,
        *,
        candidates: int | None = None,
        explore: str | None = None,
        seed: int = 0,
    ) -> Recommender:
        """Returns a `Recommender` that knows which items each user has rated.

        Args:
            data: See `dataset`.
            candidates: See `fmlayers.retrieval.retrieve`.
            explore: Optional. To recommend items whose ratings are uncertain, too:
                `"ucb"` ranks the items by the mean of the samples plus one standard
                deviation, and `"thompson"` by a sample that is drawn for each user.
            seed: Nonnegative integer, the seed of the draws. Defaults to 0.

        Raises:
            ValueError: If the run has no samples to explore with, or an argument is
                invalid.
        """
        samples = None if explore is None else PosteriorSamples(self)
        recommender = Recommender(self, self.dataset(data), candidates=candidates)
        if samples is not None:
            catalog = recommender.search.catalog
            search = ExploringSearch(samples, catalog, str(explore), seed=seed)
            recommender.search = search
        return recommender

    def recommend(
        self,
        users: Sequence[object],
        k: int = 10,
        *,
        data: Data | None = None,
        include_seen: bool = False,
        known: Mapping[str, Any] | None = None,
        candidates: int | None = None,
    ) -> pd.DataFrame:
        """Returns the top-N recommendations of some users.

        For new users, filters and repeated calls, use `recommender`.

        Args:
            users: Users as in the data.
            k: Positive integer, the number of recommendations per user. Defaults to 10.
            data: See `dataset`.
            include_seen: Whether items that the user rated in the training rows may be
                recommended. Defaults to `False`.
            known: Optional values of columns, such as `{"day": 3}`. They replace the
                values of the run's table of users.
            candidates: See `fmlayers.retrieval.retrieve`.

        Returns:
            A row per recommendation: `user`, `rank` (from 1), `item`, the columns of
            the run's table of items, the `rating` if the model has a scaler, and the
            raw `score`.

        Raises:
            ValueError: If a user is not in the data.
        """
        recommender = self.recommender(data, candidates=candidates)
        keys = [as_text(user) for user in users]
        for key in keys:
            recommender.queries.check_user(key)
        scores, positions = recommender.top_n(
            keys, k, include_seen=include_seen, known=known
        )
        tables = []
        for user, *row in zip(users, scores, positions, strict=True):
            table = recommender.table(*row)
            table.insert(0, "user", [user] * len(table))
            tables.append(table)
        if not tables:
            return pd.DataFrame({"user": [], "rank": [], "item": [], "score": []})
        return pd.concat(tables, ignore_index=True)

    def similar(self, item: object, k: int = 10) -> pd.DataFrame:
        """Returns the items whose vectors are most similar to that of an item.

        Args:
            item: An item, by id or title.
            k: Positive integer, the number of items. Defaults to 10.

        Returns:
            A row per item: `rank` (from 1), `item`, the columns of the run's table of
            items, and `cosine`, the cosine similarity.

        Raises:
            ValueError: If there is no such item, or the model has no item vectors.
        """
        recommender = Recommender(self)
        position = recommender.catalog.find(as_text(item))
        cosines, positions = recommender.similar(position, k)
        table = recommender.item_table(positions[0])
        return table.assign(cosine=cosines[0][positions[0] >= 0])

    def explain(self, user: object, item: object) -> PairReport:
        """Explains the rating of a user and an item by fields and pairs of fields.

        Args:
            user: The user, as in the data.
            item: The item, by id or title.

        Raises:
            ValueError: If there is no such item, or the model defines no `terms`.
        """
        catalog = self.catalog()
        key = catalog.keys[catalog.find(as_text(item))]
        return explain_pair(self, as_text(user), key)

    def explain_fields(
        self, data: Data | None = None, *, measure: Measure = "std"
    ) -> FieldReport:
        """Measures how much each field and each pair matters on the test rows.

        Args:
            data: See `dataset`.
            measure: `"std"` or `"abs"`; see `fmlayers.explain.term_sizes`.

        Raises:
            ValueError: If the model defines no `terms`.
        """
        return explain_fields(self, data, measure=measure)

    def export(
        self,
        path: str | Path,
        format: str = "saved_model",
        *,
        overwrite: bool = False,
        weights: Weights = "float32",
    ) -> Path:
        """Exports the model with its encoder, the catalog of items and the metrics.

        Args:
            path: See `fmlayers.export.export`, and for item vectors
                `fmlayers.export.write_item_vectors`.
            format: `"saved_model"`, `"litert"`, `"onnx"` or `"item_vectors"`.
            overwrite: Whether to replace an existing export. Defaults to `False`.
            weights: See `fmlayers.export.export`.

        Returns:
            The path.

        Raises:
            ValueError: If an argument violates its constraint, or the model has no item
                vectors.
            FileExistsError: If `path` exists and must not be replaced.
        """
        return export_run(self, path, format, overwrite=overwrite, weights=weights)

    def plot(
        self, folder: str | Path, data: Data | None = None
    ) -> tuple[list[Path], list[str]]:
        """Draws the pictures of the run.

        Args:
            folder: The folder to write to, created if it does not exist.
            data: See `dataset`.

        Returns:
            The files, and a sentence for each picture that cannot be drawn.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return write_pictures(self, folder, data)
