"""All analyses by name, in the order of the help: importing this module defines them."""

from cbmir.evaluate.analyses.retrieval import analysis as retrieval  # isort: skip  # the order is that of the help
from cbmir.evaluate.analyses.classification import analysis as classify  # isort: skip
from cbmir.evaluate.analyses.probe import analysis as probe  # isort: skip
from cbmir.evaluate.analyses.comparison import analysis as compare  # isort: skip
from cbmir.evaluate.analyses.recall import analysis as recall  # isort: skip
from cbmir.evaluate.analyses.audit import analysis as audit  # isort: skip
from cbmir.evaluate.analyses.sweep import analysis as sweep  # isort: skip
from cbmir.evaluate.analyses.report import analysis as report  # isort: skip
from cbmir.evaluate.analysis import ANALYSES

__all__ = ["ANALYSES", "audit", "classify", "compare", "probe", "recall", "report", "retrieval", "sweep"]
