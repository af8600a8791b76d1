"""A whole ingest in one call, as notebooks want it: read the source, embed, index, remember."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from cbmir.dicomcard import claim
from cbmir.encoders import Encoder
from cbmir.errors import SourceError
from cbmir.ingest.deferred import open_or_defer
from cbmir.ingest.pipeline import ingest_images
from cbmir.ingest.remembering import remember_readings
from cbmir.ingest.report import SHOWN, IngestReport
from cbmir.ingest.sources import SourceOptions, open_source
from cbmir.ingest.sources.dicom import DicomSource
from cbmir.ingest.sources.dicom_options import DicomOptions
from cbmir.options import say
from cbmir.store import Collection, Layout, Store
from cbmir.store.identity import default_name
from cbmir.units import counted

if TYPE_CHECKING:
    import pandas as pd


def ingest(  # noqa: PLR0913  its terms are its arguments
    store: Store,
    source: "str | Path | pd.DataFrame",
    encoder: Encoder,
    name: str | None = None,
    *,
    root: str | Path | None = None,
    dataset: str | None = None,
    window: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> IngestReport:
    """Embed the images of a source into a collection, and index it; see `cbmir.api.Store.ingest`.

    Returns:
        Counts, seconds, failures with their reasons, and how the source was read.

    Raises:
        SourceError: the source can't be read, or none of its images could be stored.
    """
    with _on_disk(source, dataset) as path:
        base = Path(root) if root is not None else None if isinstance(source, str | Path) else Path.cwd()
        whole = open_source(path, SourceOptions(base, dataset, dicom=DicomOptions(window=window)))
        reading = whole.reading()
        if progress:
            say("\n".join(reading.lines()))
        name = name or default_name(encoder.card.name)
        layout = Layout().expecting(whole.total)

        def opening() -> Collection:
            opened = store.open_or_create(name, encoder.card, layout)
            if isinstance(whole, DicomSource):
                claim(opened, whole.settings)
            return opened

        with open_or_defer(store, name, encoder.card, opening) as collection:
            with tqdm(total=whole.total, unit="image", disable=None if progress else True) as bar:
                report = ingest_images(whole, encoder, collection, workers, lambda count, _: bar.update(count))
            report.readings = (reading,)
            if report.stored or report.skipped:
                remember_readings(collection, report.readings, None)
            if not report.interrupted:
                report.timed("index", collection.finish)
    if report.failures and not (report.stored or report.skipped):
        first = "; ".join(f"{item.filepath or item.place}: {item.reason}" for item in report.failures[:SHOWN])
        raise SourceError(f"nothing was stored, {counted(report.failed, 'image')} failed: {first}")
    return report


@contextmanager
def _on_disk(source: "str | Path | pd.DataFrame", dataset: str | None) -> Iterator[Path]:
    """The path of a source; a frame is written as a table first."""
    if isinstance(source, str | Path):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{default_name(dataset or 'table')}.parquet"
        source.to_parquet(path, index=False)
        yield path
