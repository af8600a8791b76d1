"""From images or stored embeddings to a collection: ``from ingest import ingest_images, open_source``."""

from ingest.pipeline import ingest_images
from ingest.report import IngestReport
from ingest.sources import SourceOptions, open_source

__all__ = ["IngestReport", "SourceOptions", "ingest_images", "open_source"]
