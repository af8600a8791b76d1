"""Thumbnails for a collection that exists, without embedding again."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cbmir.device import cores
from cbmir.dicomcard import settings_of
from cbmir.errors import ImageError
from cbmir.filters import Where, resolve
from cbmir.ingest.interrupt import Interrupt
from cbmir.ingest.loader import CHUNK, Loader
from cbmir.ingest.loading import Drawing, Loaded, Wanted
from cbmir.ingest.report import Failure
from cbmir.ingest.thumbnails.place import Place, is_former, is_ours
from cbmir.media import stored_asset
from cbmir.paths import is_uri
from cbmir.root import Root
from cbmir.schema import Payload, StoredPoint
from cbmir.store import Collection

BATCH = 256
"""Payloads set together."""

_FIELDS = ("filepath", "dataset", "sha256", "kind", "thumbnail_url")


@dataclass(slots=True)
class ThumbnailReport:
    """Counts of one run; read = set + same + elsewhere + failed.

    Attributes:
        collection: Its name.
        read: Images that satisfy the filter.
        set: Images that got their thumbnail, its URL, or both.
        same: Images that had both.
        elsewhere: Images left alone because they have a URL that was not made here, as from a table.
        failures: Images without a thumbnail, each with its reason.
        interrupted: Whether the run was stopped before its end.
    """

    collection: str
    read: int = 0
    set: int = 0
    same: int = 0
    elsewhere: int = 0
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "collection": self.collection,
            "read": self.read,
            "set": self.set,
            "same": self.same,
            "elsewhere": self.elsewhere,
            "failed": len(self.failures),
            "interrupted": self.interrupted,
            "failures": [{"filepath": f.filepath, "place": f.place, "reason": f.reason} for f in self.failures],
        }

    def __str__(self) -> str:
        """A line for people."""
        elsewhere = f" + with a URL from elsewhere {self.elsewhere:,}" if self.elsewhere else ""
        return (
            f"{self.collection}: read {self.read:,} = set {self.set:,} + same already {self.same:,}{elsewhere} "
            f"+ failed {len(self.failures):,}"
        )


def set_thumbnails(
    collection: Collection, root: Path, place: Place, where: Where = (), workers: int | None = None
) -> ThumbnailReport:
    """Draw the thumbnails that a collection lacks, and set their URLs.

    Images whose thumbnail and URL are there already are not read; URLs that were not made here stay. Ctrl-C finishes
    the images in hand.

    Args:
        collection: Of images, of volumes, or of both.
        root: Folder that the stored file paths are relative to.
        place: Where the thumbnails go.
        where: Which images get one.
        workers: Decoding processes; one a core unless given.

    Raises:
        FilterError: the filter names a value that doesn't exist.
        StoreError: the store refused; what was set before stays.
        ThumbnailError: a thumbnail can't be written; what was set before stays.
    """
    run = _Run(collection, root, place, resolve(where, collection))
    run.go(workers or cores())
    return run.report


class _Run:
    def __init__(self, collection: Collection, root: Path, place: Place, where: Where) -> None:
        self.report = ThumbnailReport(collection.name)
        self._collection = collection
        self._root = Root(root)
        self._dicom = settings_of(collection)
        self._place = place
        self._where = where
        self._loading = 0
        self._changes: dict[str, Payload] = {}

    def go(self, workers: int) -> None:
        how = Drawing(self._collection.card.window_hu)
        with (
            tqdm(total=self._collection.count(self._where), unit="image", disable=None) as bar,
            Interrupt() as interrupt,
            Loader(how, workers) as loader,
        ):
            for loaded in loader.load(self._wanted(interrupt)):
                for point, item in loaded:
                    self._take(point, item)
                self._loading -= len(loaded)
                self._save(BATCH)
                bar.update(self.report.read - self._loading - bar.n)
            self.report.interrupted = interrupt.asked
        self._save(1)
        self._collection.flush()

    def _wanted(self, interrupt: Interrupt) -> Iterator[list[tuple[StoredPoint, Wanted]]]:
        """Chunks for the loader."""
        for points in self._collection.scroll(self._where, fields=_FIELDS):
            for kind, group in groupby(points, lambda point: str(point.payload.get("kind"))):
                alike, size = list(group), CHUNK.get(kind, 1)
                for start in range(0, len(alike), size):
                    if interrupt.asked:
                        return
                    if chunk := self._check(alike[start : start + size]):
                        self._loading += len(chunk)
                        yield chunk

    def _check(self, points: list[StoredPoint]) -> list[tuple[StoredPoint, Wanted]]:
        """Those that can have a thumbnail of ours, and what the loader needs to know of them."""
        self.report.read += len(points)
        good = []
        for point in points:
            shown = point.payload.get("thumbnail_url") or self._place.url(point.id)
            if not is_ours(shown, point.id) and not is_former(shown, self._place):
                self.report.elsewhere += 1
            elif is_uri(_filepath(point)):
                self._fail(point, "is a URI: thumbnails are made of files")
            else:
                try:
                    good.append((point, self._task(point)))
                except ImageError as error:
                    self._fail(point, str(error))
        return good

    def _task(self, point: StoredPoint) -> Wanted:
        asset, shown = stored_asset(self._root, _filepath(point), self._dicom), point.payload.get("thumbnail_url")
        path, there = self._place.path(point.id), shown == self._place.url(point.id)
        return Wanted(asset, point.payload.get("sha256"), path, there, thumbnail_mode=self._place.mode)

    def _take(self, point: StoredPoint, loaded: Loaded) -> None:
        if loaded.reason is not None:
            self._fail(point, loaded.reason)
        elif loaded.drawn:
            self.report.set += 1
            self._changes[point.id] = {"thumbnail_url": self._place.url(point.id)}
        else:
            self.report.same += 1

    def _save(self, least: int) -> None:
        if len(self._changes) >= least:
            self._collection.set_payloads(self._changes)
            self._changes = {}

    def _fail(self, point: StoredPoint, reason: str) -> None:
        self.report.failures.append(Failure(_filepath(point), str(point.payload.get("dataset", "")), reason))


def _filepath(point: StoredPoint) -> str:
    return str(point.payload.get("filepath", ""))
