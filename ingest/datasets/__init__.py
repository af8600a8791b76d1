"""The published data sets: each module here that decorates a function with `dataset` is one."""

import importlib
import pkgutil

from cbmir.ingest.datasets.base import DATASETS
from cbmir.ingest.datasets.merge import Merged, merge
from cbmir.ingest.datasets.preparation import Preparation, PrepareOptions, prepare
from cbmir.ingest.datasets.report import PrepareReport
from cbmir.ingest.tables.writing import check_suffix

__all__ = ["DATASETS", "Merged", "Preparation", "PrepareOptions", "PrepareReport", "check_suffix", "merge", "prepare"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
