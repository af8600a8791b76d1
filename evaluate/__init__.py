"""From a collection to figures.

In a notebook::

    from cbmir.store import open_store
    from evaluate import RetrievalProtocol, evaluate_retrieval

    with open_store("data/store") as store, store.open("demo") as collection:
        report = evaluate_retrieval(collection, RetrievalProtocol(label="modality"))
    print(report.table())
"""

import importlib

TYPE_CHECKING = False  # `typing` would be imported before `python -m evaluate` has taken care of the module path
if TYPE_CHECKING:
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

_FROM = {
    "audit_collection": "evaluate.audit.measurement",
    "AuditTerms": "evaluate.audit.terms",
    "KnnTerms": "evaluate.classification.knn",
    "evaluate_classification": "evaluate.classification.knn",
    "METRICS": "evaluate.metrics",
    "Gains": "evaluate.metrics",
    "metric": "evaluate.metrics",
    "ProbeTerms": "evaluate.probe.measurement",
    "evaluate_probe": "evaluate.probe.measurement",
    "RetrievalProtocol": "evaluate.protocol",
    "conditions": "evaluate.protocol",
    "RecallTerms": "evaluate.recall.measurement",
    "measure_recall": "evaluate.recall.measurement",
    "evaluate_retrieval": "evaluate.retrieval.measurement",
    "RetrievalReport": "evaluate.retrieval.report",
    "Row": "evaluate.retrieval.report",
    "SweepTerms": "evaluate.sweep.measurement",
    "evaluate_sweep": "evaluate.sweep.measurement",
}


def __getattr__(name: str) -> object:
    """Import a name of this package when it is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FROM[name]), name)
    return value
