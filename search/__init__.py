"""From a query to hits.

from search import Query, Searcher

with Searcher("data/demo/store", "efficientnet-lite0") as searcher:
    hits = searcher.image("query.png", Query(k=5, where=["modality=CT"]))
"""

from search.searcher import Answer, Query, Searcher

__all__ = ["Answer", "Query", "Searcher"]
