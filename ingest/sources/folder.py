"""A folder of images or volumes; folders below it may say split and label, as in ``train/XR/chest/pneumonia/1.png``."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cbmir.errors import RecordError, SourceError
from cbmir.ingest.report import Failure
from cbmir.ingest.sources.base import SourceImage, SourceOptions, make_record
from cbmir.ingest.sources.counting import Counting
from cbmir.ingest.sources.listing import Listing
from cbmir.ingest.tables.reading import Reading
from cbmir.ingest.tables.tally import tally_warnings
from cbmir.media import (
    Asset,
    passed_over,
    passed_over_as,
    suffixes,
)
from cbmir.media.filekind import named
from cbmir.paths import normal_path, printable

FORM = "a folder of images"
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


def accepts(path: Path, _options: SourceOptions | None = None) -> bool:
    """Whether the path is a folder."""
    return path.is_dir()


def read(path: Path, options: SourceOptions) -> "FolderSource":
    """List the images below a folder.

    Raises:
        SourceError: the folder can't be listed, or holds no image.
    """
    return FolderSource(path, options)


class FolderSource:
    """The images and volumes below a folder, by path.

    Attributes:
        root: The folder.
        total: How many there are.
        ignored: Files without an image suffix, counted by suffix or as DICOM; hidden files and folders; links.
    """

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        self.root = folder
        self._place = printable(str(folder))
        self._options = options
        listing = Listing(folder, _passed, links=options.links)
        self._paths, self._followed = listing.paths, listing.followed
        self.ignored: Mapping[str, int] = listing.ignored
        self._unreadable = [self._failure(error) for error in listing.errors]
        self.total: int | None = len(self._paths) + len(self._unreadable)
        if not self.total:
            known = "".join(f"; {text}" for text in passed_over(self.ignored))
            raise SourceError(f"no image below {folder}; images and volumes end in {' '.join(suffixes())}{known}")

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """The folders that can't be listed, then the images."""
        yield from self._unreadable
        for relative in self._paths:
            yield self._item(relative)

    def reading(self) -> Reading:
        """How the folder is read, with counts of all its images."""
        tally = Counting(self._options.table.values.get("modality", {}).values()).of(self)
        rule = "from the folders, as in train/XR/chest/pneumonia" if self._options.folder_labels else "none are taken"
        notes = tuple(passed_over(self.ignored))
        if followed := [f"{name} {count:,}" for name, count in self._followed.items() if count]:
            notes = (f"followed, symbolic links: {', '.join(followed)}", *notes)
        warnings = tuple(tally_warnings(tally))
        return Reading(self._place, "a folder", tally, label_rule=rule, notes=notes, warnings=warnings)

    def _failure(self, error: OSError) -> Failure:
        folder = Path(error.filename).relative_to(self.root).as_posix()
        return Failure(printable(folder), self._place, f"can't be listed: {error.strerror}")

    def _item(self, relative: str) -> SourceImage | Failure:
        name = printable(relative)
        given = dict(self._options.constants)
        labels: list[str] = []
        if self._options.folder_labels:
            folders = name.split("/")[:-1]
            split = [part for part in folders if part.lower() in _SPLIT_FOLDERS]
            given.update({"split": split[0]} if split else {})
            labels = ["/".join(parts)] if (parts := [part for part in folders if part not in split]) else []
        try:
            dataset = self._options.dataset or printable(self.root.resolve().name)
            spellings = self._options.table.values.get("modality")
            record = make_record(printable(normal_path(relative)), dataset, labels, given, {}, spellings)
        except RecordError as error:
            return Failure(name, self._place, str(error))
        return SourceImage(record, Asset(self.root / relative), () if name == record.filepath else (name,))


def _passed(path: Path) -> str | None:
    kind = named(path.name)
    if kind is not None and not kind.has_source:
        return None
    return kind.name if kind is not None else printable(passed_over_as(path))
