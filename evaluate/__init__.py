"""From a collection to figures.

In a notebook:

    import cbmir

    store = cbmir.connect("data/store")
    cbmir.evaluate.retrieval(store["biomedclip"], queries="split=test", k=[1, 5])
"""

import importlib

TYPE_CHECKING = False  # `typing` would be imported before `python -m cbmir.evaluate` has taken care of the module path
if TYPE_CHECKING:
    from cbmir.evaluate.analyses.audit.audit import audit_collection
    from cbmir.evaluate.analyses.audit.terms import AuditTerms
    from cbmir.evaluate.analyses.classification.knn import KnnTerms, evaluate_classification
    from cbmir.evaluate.analyses.classification.probe import ProbeTerms, evaluate_probe
    from cbmir.evaluate.analyses.recall import RecallTerms, measure_recall
    from cbmir.evaluate.analyses.retrieval import evaluate_retrieval
    from cbmir.evaluate.analyses.retrieval_report import RetrievalReport
    from cbmir.evaluate.analyses.sweep import SweepTerms, evaluate_sweep
    from cbmir.evaluate.functions import audit, classify, compare, probe, recall, report, retrieval, sweep
    from cbmir.evaluate.metrics import METRICS, Gains, metric
    from cbmir.evaluate.protocol import RetrievalProtocol, conditions
    from cbmir.evaluate.results import Row

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
    "audit",
    "audit_collection",
    "classify",
    "compare",
    "conditions",
    "evaluate_classification",
    "evaluate_probe",
    "evaluate_retrieval",
    "evaluate_sweep",
    "measure_recall",
    "metric",
    "probe",
    "recall",
    "report",
    "retrieval",
    "sweep",
]

_FROM = {
    "audit": "cbmir.evaluate.functions",
    "classify": "cbmir.evaluate.functions",
    "compare": "cbmir.evaluate.functions",
    "probe": "cbmir.evaluate.functions",
    "recall": "cbmir.evaluate.functions",
    "report": "cbmir.evaluate.functions",
    "retrieval": "cbmir.evaluate.functions",
    "sweep": "cbmir.evaluate.functions",
    "audit_collection": "cbmir.evaluate.analyses.audit.audit",
    "AuditTerms": "cbmir.evaluate.analyses.audit.terms",
    "KnnTerms": "cbmir.evaluate.analyses.classification.knn",
    "evaluate_classification": "cbmir.evaluate.analyses.classification.knn",
    "METRICS": "cbmir.evaluate.metrics",
    "Gains": "cbmir.evaluate.metrics",
    "metric": "cbmir.evaluate.metrics",
    "ProbeTerms": "cbmir.evaluate.analyses.classification.probe",
    "evaluate_probe": "cbmir.evaluate.analyses.classification.probe",
    "RetrievalProtocol": "cbmir.evaluate.protocol",
    "conditions": "cbmir.evaluate.protocol",
    "RecallTerms": "cbmir.evaluate.analyses.recall",
    "measure_recall": "cbmir.evaluate.analyses.recall",
    "evaluate_retrieval": "cbmir.evaluate.analyses.retrieval",
    "RetrievalReport": "cbmir.evaluate.analyses.retrieval_report",
    "Row": "cbmir.evaluate.results",
    "SweepTerms": "cbmir.evaluate.analyses.sweep",
    "evaluate_sweep": "cbmir.evaluate.analyses.sweep",
}


def __getattr__(name: str) -> object:
    """Import a name of this package when it is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FROM[name]), name)
    return value
