"""The published data sets: each module here that decorates a function with `dataset` is one."""

import importlib
import pkgutil

from ingest.datasets.base import DATASETS
from ingest.datasets.merge import Merged, merge
from ingest.datasets.preparation import Preparation, PrepareOptions, prepare
from ingest.datasets.report import PrepareReport
from ingest.tables.writing import check_suffix

__all__ = ["DATASETS", "Merged", "Preparation", "PrepareOptions", "PrepareReport", "check_suffix", "merge", "prepare"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
