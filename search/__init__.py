"""From a query to hits.

For example:

    from cbmir.search import Options, Searcher

    with Searcher("data/demo/store", "efficientnet-lite0") as searcher:
        hits = searcher.image("query.png", Options(k=5, where=["modality=CT"]))
"""

import importlib

TYPE_CHECKING = False  # `typing` would be imported before `python -m cbmir.search` has taken care of the module path
if TYPE_CHECKING:
    from cbmir.search.answer import Answer
    from cbmir.search.query import ImageQuery, Options, StoredQuery, TextQuery, VectorQuery, WeightedQuery
    from cbmir.search.result import Result
    from cbmir.search.searcher import Searcher

__all__ = [
    "Answer",
    "ImageQuery",
    "Options",
    "Result",
    "Searcher",
    "StoredQuery",
    "TextQuery",
    "VectorQuery",
    "WeightedQuery",
]

_FROM = {
    "Answer": "cbmir.search.answer",
    "ImageQuery": "cbmir.search.query",
    "Options": "cbmir.search.query",
    "Result": "cbmir.search.result",
    "Searcher": "cbmir.search.searcher",
    "StoredQuery": "cbmir.search.query",
    "TextQuery": "cbmir.search.query",
    "VectorQuery": "cbmir.search.query",
    "WeightedQuery": "cbmir.search.query",
}


def __getattr__(name: str) -> object:
    """Import a name of this package when it is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FROM[name]), name)
    return value
