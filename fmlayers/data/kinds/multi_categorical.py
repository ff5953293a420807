from typing import Any

import pandas as pd

from fmlayers.data.kinds.categorical import CategoricalColumn
from fmlayers.data.kinds.column import MISSING, Array
from fmlayers.data.kinds.distinct_cells import DistinctCells, several_values
from fmlayers.features import Feature, MultiCategorical


class MultiCategoricalColumn(CategoricalColumn):
    """Several values per row, encoded as padded ids."""

    is_multiple = True

    @property
    def feature(self) -> Feature:
        return MultiCategorical(self.name, self.vocabulary.size + 1)

    def transform(self, *cells: "pd.Series[Any]") -> dict[str, Array]:
        distinct = self.cells(*cells)
        ids = self.vocabulary.ids(distinct.values)
        return {self.name: distinct.padded(ids, MISSING)}

    def cells(self, *cells: "pd.Series[Any]") -> DistinctCells:
        return several_values(self.name, cells[0], self.options.separator)
