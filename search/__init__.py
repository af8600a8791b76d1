"""From a query to hits.

from cbmir.search import Query, Searcher

with Searcher("data/demo/store", "efficientnet-lite0") as searcher:
    hits = searcher.image("query.png", Query(k=5, where=["modality=CT"]))
"""

import importlib

TYPE_CHECKING = False  # `typing` would be imported before `python -m cbmir.search` has taken care of the module path
if TYPE_CHECKING:
    from cbmir.search.searcher import Answer, Query, Searcher

__all__ = ["Answer", "Query", "Searcher"]

_FROM = {
    "Answer": "cbmir.search.searcher",
    "Query": "cbmir.search.searcher",
    "Searcher": "cbmir.search.searcher",
}


def __getattr__(name: str) -> object:
    """Import a name of this package when it is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FROM[name]), name)
    return value
