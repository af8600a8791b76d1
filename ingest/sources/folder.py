"""A folder of images or volumes; folders below it may say split and label, as in ``train/XR/chest/pneumonia/1.png``."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from cbmir.errors import RecordError, SourceError
from cbmir.media import (
    IMAGE_SUFFIXES,
    VOLUME_SUFFIXES,
    is_image,
    is_volume,
    passed_over,
    passed_over_as,
    without_hidden,
)
from ingest.sources.base import Failure, SourceImage, SourceOptions, make_record, printable, tally_of
from ingest.tables.reading import Reading, tally_warnings

FORM = "a folder of images"
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


def accepts(path: Path) -> bool:
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
        ignored: Files without an image suffix, counted by suffix or as DICOM; hidden files and folders.
    """

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        self.root = folder
        self._place = printable(str(folder))
        self._options = options
        self._paths: list[str] = []
        self._unreadable: list[Failure] = []
        self.ignored: Mapping[str, int] = self._list()
        self.total: int | None = len(self._paths) + len(self._unreadable)
        if not self.total:
            suffixes = " ".join((*IMAGE_SUFFIXES, *VOLUME_SUFFIXES))
            known = "".join(f"; {text}" for text in passed_over(self.ignored))
            raise SourceError(f"no image below {folder}; images and volumes end in {suffixes}{known}")

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """The folders that can't be listed, then the images."""
        yield from self._unreadable
        for relative in self._paths:
            yield self._item(relative)

    def reading(self) -> Reading:
        """How the folder is read, with counts of all its images."""
        tally = tally_of(self)
        rule = "from the folders, as in train/XR/chest/pneumonia" if self._options.folder_labels else "none are taken"
        notes = tuple(passed_over(self.ignored))
        warnings = tuple(tally_warnings(tally))
        return Reading(self._place, "a folder", tally, label_rule=rule, notes=notes, warnings=warnings)

    def _list(self) -> Mapping[str, int]:
        others: Counter[str] = Counter()
        for folder, folders, files in os.walk(self.root, onerror=self._fail):
            shown = without_hidden(folders, files, others)
            folders.sort()
            if links := sum(_is_link(Path(folder, name)) for name in folders):
                others["links to folders"] += links  # not followed: they may lead in circles
            for name in shown:
                path = Path(folder, name)
                if is_image(name) or is_volume(name):
                    self._paths.append(path.relative_to(self.root).as_posix())
                else:
                    others[printable(passed_over_as(path))] += 1
        self._paths.sort()
        return {key: count for key, count in sorted(others.items()) if count}

    def _fail(self, error: OSError) -> None:
        folder = Path(error.filename).relative_to(self.root).as_posix()
        self._unreadable.append(Failure(printable(folder), self._place, f"can't be listed: {error.strerror}"))

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
            record = make_record(name, dataset, labels, given, {}, self._options.table.values.get("modality"))
        except RecordError as error:
            return Failure(name, self._place, str(error))
        return SourceImage(record, self.root / relative)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # the path is too long; that it can't be listed is counted
        return False
