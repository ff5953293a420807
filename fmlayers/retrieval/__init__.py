"""Top-N recommendations from a trained model."""

from fmlayers.retrieval.fold_in import fold_in
from fmlayers.retrieval.item_search import ItemSearch, rerank, retrieve, score_all
from fmlayers.retrieval.merge_top_n import merge_top_n
from fmlayers.retrieval.seen_items import SeenItems
from fmlayers.retrieval.top_n import TopN

__all__ = [
    "ItemSearch",
    "SeenItems",
    "TopN",
    "fold_in",
    "merge_top_n",
    "rerank",
    "retrieve",
    "score_all",
]
