"""From a collection to figures.

In a notebook::

    from cbmir.store import open_store
    from evaluate import RetrievalProtocol, evaluate_retrieval

    with open_store("data/store") as store, store.open("demo") as collection:
        report = evaluate_retrieval(collection, RetrievalProtocol(label="modality"))
    print(report.table())
"""

from evaluate.metrics import METRICS, Gains, metric
from evaluate.protocol import RetrievalProtocol, conditions
from evaluate.report import RetrievalReport, Row
from evaluate.retrieval import evaluate_retrieval

__all__ = [
    "METRICS",
    "Gains",
    "RetrievalProtocol",
    "RetrievalReport",
    "Row",
    "conditions",
    "evaluate_retrieval",
    "metric",
]
