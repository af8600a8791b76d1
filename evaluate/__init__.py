"""From a collection to figures.

In a notebook::

    from cbmir.store import open_store
    from evaluate import RetrievalProtocol, evaluate_retrieval

    with open_store("data/store") as store, store.open("demo") as collection:
        report = evaluate_retrieval(collection, RetrievalProtocol(label="modality"))
    print(report.table())
"""

from evaluate.knn import KnnTerms, evaluate_classification
from evaluate.metrics import METRICS, Gains, metric
from evaluate.probing import ProbeTerms, evaluate_probe
from evaluate.protocol import RetrievalProtocol, conditions
from evaluate.recall import RecallTerms, measure_recall
from evaluate.report import RetrievalReport, Row
from evaluate.retrieval import evaluate_retrieval

__all__ = [
    "METRICS",
    "Gains",
    "KnnTerms",
    "ProbeTerms",
    "RecallTerms",
    "RetrievalProtocol",
    "RetrievalReport",
    "Row",
    "conditions",
    "evaluate_classification",
    "evaluate_probe",
    "evaluate_retrieval",
    "measure_recall",
    "metric",
]
