"""From images or stored embeddings to a collection: ``from ingest import ingest_images, open_source``."""

import importlib

TYPE_CHECKING = False  # `typing` would be imported before `python -m ingest` has taken care of the module path
if TYPE_CHECKING:
    from ingest.pipeline import ingest_images
    from ingest.report import IngestReport
    from ingest.sources import SourceOptions, open_source

__all__ = ["IngestReport", "SourceOptions", "ingest_images", "open_source"]

_FROM = {
    "ingest_images": "ingest.pipeline",
    "IngestReport": "ingest.report",
    "SourceOptions": "ingest.sources",
    "open_source": "ingest.sources",
}


def __getattr__(name: str) -> object:
    """Import a name of this package when it is asked for."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FROM[name]), name)
    return value
