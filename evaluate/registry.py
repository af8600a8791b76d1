"""All analyses by name, in the order of the help: importing this module defines them."""

from cbmir.evaluate.analyses import retrieval  # isort: skip  # the order is that of the help
from cbmir.evaluate.analyses.classification import analyses  # isort: skip
from cbmir.evaluate.analyses import comparison, recall  # isort: skip
from cbmir.evaluate.analyses.audit import audit  # isort: skip
from cbmir.evaluate.analyses import sweep  # isort: skip
from cbmir.evaluate.analyses.report import report  # isort: skip
from cbmir.evaluate.analysis import ANALYSES

__all__ = ["ANALYSES", "analyses", "audit", "comparison", "recall", "report", "retrieval", "sweep"]
