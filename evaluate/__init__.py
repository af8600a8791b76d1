"""From a collection to figures.

In a notebook::

    from cbmir.store import open_store
    from evaluate import RetrievalProtocol, evaluate_retrieval

    with open_store("data/store") as store, store.open("demo") as collection:
        report = evaluate_retrieval(collection, RetrievalProtocol(label="modality"))
    print(report.table())
"""

from evaluate.audit.measurement import audit_collection
from evaluate.audit.terms import AuditTerms
from evaluate.classification.knn import KnnTerms, evaluate_classification
from evaluate.metrics import METRICS, Gains, metric
from evaluate.probe.measurement import ProbeTerms, evaluate_probe
from evaluate.protocol import RetrievalProtocol, conditions
from evaluate.recall.measurement import RecallTerms, measure_recall
from evaluate.retrieval.measurement import evaluate_retrieval
from evaluate.retrieval.report import RetrievalReport, Row
from evaluate.sweep.measurement import SweepTerms, evaluate_sweep

__all__ = [
    "METRICS",
    "AuditTerms",
    "Gains",
    "KnnTerms",
    "ProbeTerms",
    "RecallTerms",
    "RetrievalProtocol",
    "RetrievalReport",
    "Row",
    "SweepTerms",
    "audit_collection",
    "conditions",
    "evaluate_classification",
    "evaluate_probe",
    "evaluate_retrieval",
    "evaluate_sweep",
    "measure_recall",
    "metric",
]
