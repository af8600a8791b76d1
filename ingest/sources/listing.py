"""What is in a folder and all folders below it: hidden things left out, symbolic links followed at most once."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from cbmir.media import LINKS_TO_FILES, LINKS_TO_FOLDERS, without_hidden

Passed = str | None
"""What a file that isn't wanted is counted as; None for one that is."""


class Listing:
    """The files of a folder that are wanted, by path.

    Attributes:
        paths: Relative to the folder, sorted.
        ignored: The others, counted; hidden files and folders, and links that are not followed, too.
        followed: Links that were.
        errors: Folders that can't be listed.

    Args:
        root: The folder.
        passed: What a file is counted as instead of being taken.
        links: Whether symbolic links are followed.
    """

    def __init__(self, root: Path, passed: Callable[[Path], Passed], *, links: bool = True) -> None:
        self.paths: list[str] = []
        self.followed: Counter[str] = Counter()
        self.errors: list[OSError] = []
        self._root = root
        self._passed = passed
        self._links = links
        self.ignored: Mapping[str, int] = self._list()

    def _list(self) -> Mapping[str, int]:
        others: Counter[str] = Counter()
        targets, waiting, linked = [os.path.realpath(self._root)], [str(self._root)], list[str]()
        while waiting or linked:
            if waiting:
                self._look(waiting.pop(), waiting, linked, others)
            else:  # the higher folders first: what is below them is read with them
                ordered = sorted(linked, key=lambda path: (os.path.realpath(path), path))
                waiting += [path for path in ordered if self._enters(path, targets, others)]
                linked.clear()
        self.paths.sort()
        return {key: count for key, count in sorted(others.items()) if count}

    def _look(self, folder: str, waiting: list[str], linked: list[str], others: Counter[str]) -> None:
        """Take the files of a folder; the folders in it go to `waiting`, links to folders to `linked`."""
        folders, files, links = self._entries(folder)
        for name in without_hidden(folders, files, others):
            path = Path(folder, name)
            passed = self._passed(path)
            if passed is not None:
                others[passed] += 1
            elif name not in links or self._takes(others):
                self.paths.append(path.relative_to(self._root).as_posix())
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
            self.errors.append(error)
        return folders, files, linked

    def _takes(self, others: Counter[str]) -> bool:
        """Whether a link to a file is followed; if so, wherever it leads."""
        (self.followed if self._links else others)[LINKS_TO_FILES] += 1
        return self._links

    def _enters(self, path: str, targets: list[str], others: Counter[str]) -> bool:
        """Whether a link to a folder is followed: only out of what is read anyhow, so that no image comes twice."""
        target = os.path.realpath(path)
        again = any(_is_below(target, other) for other in targets) or _is_below(targets[0], target)
        if again or not self._links:
            others[LINKS_TO_FOLDERS] += 1
            return False
        targets.append(target)
        self.followed[LINKS_TO_FOLDERS] += 1
        return True


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: that it can't be read is counted
        return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
