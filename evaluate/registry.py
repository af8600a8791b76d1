"""All analyses by name, in the order of the help: importing this module defines them."""

from cbmir.evaluate.analyses import comparison, recall, retrieval, sweep
from cbmir.evaluate.analyses.audit import audit
from cbmir.evaluate.analyses.classification import analyses
from cbmir.evaluate.analyses.report import report
from cbmir.evaluate.analysis import ANALYSES

__all__ = ["ANALYSES", "analyses", "audit", "comparison", "recall", "report", "retrieval", "sweep"]

for _name in ("retrieval", "classify", "probe", "compare", "recall", "audit", "sweep", "report"):
    ANALYSES[_name] = ANALYSES.pop(_name)  # whoever imported one of the modules before doesn't decide the order
