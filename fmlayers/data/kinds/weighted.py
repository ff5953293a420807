from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fmlayers.data.errors import CellError
from fmlayers.data.kinds.column import MISSING, Array
from fmlayers.data.kinds.distinct_cells import DistinctCells, is_mixed
from fmlayers.data.kinds.multi_categorical import MultiCategoricalColumn
from fmlayers.data.weighted import Pairs, join_pairs, parse_pairs
from fmlayers.features import Feature, MultiCategorical


class WeightedColumn(MultiCategoricalColumn):
    """Several values per row with weights, in the same column or in one of their own.

    If the weights are in a column of their own, `transform` also takes the values
    alone, and returns their ids.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        weights = self.options.weights.get(self.name)
        return (self.name,) if weights is None else (self.name, weights)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.name, self.weights

    @property
    def weights(self) -> str:
        """The name of the input of the weights."""
        return self.options.weights.get(self.name, f"{self.name}_weights")

    @property
    def feature(self) -> Feature:
        size = self.vocabulary.size + 1
        return MultiCategorical(self.name, size, weights=self.weights)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "weights": self.weights}

    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        distinct = self.cells(*cells)
        ids = self.vocabulary.ids(distinct.values)
        inputs = {self.name: distinct.padded(ids, MISSING)}
        if distinct.weights is not None:
            weights = np.array(distinct.weights, np.float32)
            inputs[self.weights] = distinct.padded(weights, 0)
        return inputs

    def cells(self, *cells: "pd.Series[Any]") -> DistinctCells:
        if len(cells) < len(self.columns):
            return super().cells(*cells)
        parse: Callable[..., Pairs] = parse_pairs if len(cells) == 1 else join_pairs
        rows = zip(*(x.to_numpy(dtype=object) for x in cells), strict=True)
        distinct = np.fromiter(rows, object, count=len(cells[0]))
        codes = np.arange(len(distinct))
        if not any(map(is_mixed, cells)):
            codes, distinct = pd.factorize(distinct)
        pairs = []
        for code, parts in enumerate(distinct):
            try:
                pairs.append(parse(*parts, self.options.separator))
            except ValueError as error:
                row = int(np.flatnonzero(codes == code)[0])
                raise CellError(self.name, row, str(error)) from None
        texts = [[text for text, _ in cell] for cell in pairs]
        weights = [weight for cell in pairs for _, weight in cell]
        return DistinctCells.of(codes, texts)._replace(weights=weights)
