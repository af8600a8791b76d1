"""A folder of images or volumes; folders below it may say split and label, as in ``train/XR/chest/pneumonia/1.png``."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from cbmir.errors import RecordError, SourceError
from cbmir.ingest.report import Failure
from cbmir.ingest.sources.base import SourceImage, SourceOptions, make_record
from cbmir.ingest.sources.counting import Counting
from cbmir.ingest.tables.reading import Reading
from cbmir.ingest.tables.tally import tally_warnings
from cbmir.media import (
    LINKS_TO_FILES,
    LINKS_TO_FOLDERS,
    Asset,
    is_readable,
    passed_over,
    passed_over_as,
    suffixes,
    without_hidden,
)
from cbmir.paths import normal_path, printable

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
        ignored: Files without an image suffix, counted by suffix or as DICOM; hidden files and folders; links.
    """

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        self.root = folder
        self._place = printable(str(folder))
        self._options = options
        self._paths: list[str] = []
        self._unreadable: list[Failure] = []
        self._followed: Counter[str] = Counter()
        self.ignored: Mapping[str, int] = self._list()
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

    def _list(self) -> Mapping[str, int]:
        others: Counter[str] = Counter()
        targets, waiting, linked = [os.path.realpath(self.root)], [str(self.root)], list[str]()
        while waiting or linked:
            if waiting:
                self._look(waiting.pop(), waiting, linked, others)
            else:  # the higher folders first: what is below them is read with them
                ordered = sorted(linked, key=lambda path: (os.path.realpath(path), path))
                waiting += [path for path in ordered if self._enters(path, targets, others)]
                linked.clear()
        self._paths.sort()
        return {key: count for key, count in sorted(others.items()) if count}

    def _look(self, folder: str, waiting: list[str], linked: list[str], others: Counter[str]) -> None:
        """Take the images of a folder; the folders in it go to `waiting`, links to folders to `linked`."""
        folders, files, links = self._entries(folder)
        for name in without_hidden(folders, files, others):
            path = Path(folder, name)
            if not is_readable(name):
                others[printable(passed_over_as(path))] += 1
            elif name not in links or self._takes(others):
                self._paths.append(path.relative_to(self.root).as_posix())
        for name in folders:
            (linked if name in links else waiting).append(os.path.join(folder, name))  # noqa: PTH118

    def _entries(self, folder: str) -> tuple[list[str], list[str], set[str]]:
        """Names of the folders and of the files in a folder, and those of both that are symbolic links."""
        folders: list[str] = []
        files: list[str] = []
        linked: set[str] = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
                    if entry.is_symlink():
                        linked.add(entry.name)
        except OSError as error:
            self._fail(error)
        return folders, files, linked

    def _takes(self, others: Counter[str]) -> bool:
        """Whether a link to an image is followed; if so, wherever it leads."""
        (self._followed if self._options.links else others)[LINKS_TO_FILES] += 1
        return self._options.links

    def _enters(self, path: str, targets: list[str], others: Counter[str]) -> bool:
        """Whether a link to a folder is followed: only out of what is read anyhow, so that no image comes twice."""
        target = os.path.realpath(path)
        again = any(_is_below(target, other) for other in targets) or _is_below(targets[0], target)
        if again or not self._options.links:
            others[LINKS_TO_FOLDERS] += 1
            return False
        targets.append(target)
        self._followed[LINKS_TO_FOLDERS] += 1
        return True

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
            spellings = self._options.table.values.get("modality")
            record = make_record(printable(normal_path(relative)), dataset, labels, given, {}, spellings)
        except RecordError as error:
            return Failure(name, self._place, str(error))
        return SourceImage(record, Asset(self.root / relative), () if name == record.filepath else (name,))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: that it can't be read is counted
        return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
