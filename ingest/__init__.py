"""From images or stored embeddings to a collection: ``from cbmir.ingest import ingest_images, open_source``."""

import importlib

TYPE_CHECKING = False  # `typing` would be imported before `python -m cbmir.ingest` has taken care of the module path
if TYPE_CHECKING:
    from cbmir.ingest.pipeline import ingest_images
    from cbmir.ingest.report import IngestReport
    from cbmir.ingest.sources import SourceOptions, open_source

__all__ = ["IngestReport", "SourceOptions", "ingest_images", "open_source"]

_FROM = {
    "ingest_images": "cbmir.ingest.pipeline",
    "IngestReport": "cbmir.ingest.report",
    "SourceOptions": "cbmir.ingest.sources",
    "open_source": "cbmir.ingest.sources",
}


def __getattr__(name: str) -> object:
    """Import a name of this package when it is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FROM[name]), name)
    return value
