"""The folder that file paths are relative to: it gives images their keys, and finds their files.

It is a boundary: what is written leads to nothing outside of it. Symbolic links below it are the user's own, and lead
where they lead.
"""

import os
import posixpath
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cbmir.errors import ImageError, RecordError
from cbmir.paths import PathPrefixes, decoded, foreign, is_plain, is_uri, normal_path, printable


class OutsideError(RecordError):
    """A path leads out of the root.

    Attributes:
        path: Absolute, in normal form.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class LinkError(RecordError):
    """A path leads over a symbolic link, where those are passed over."""


@dataclass(frozen=True, slots=True)
class Place:
    """An image of a source.

    Attributes:
        key: Its path relative to the root, in normal form, or a URI.
        path: Its file.
        former: Keys that an earlier version made of the same text; the present one may be among them.
    """

    key: str
    path: Path
    former: tuple[str, ...] = ()


class Root:
    """The folder that file paths are relative to.

    Attributes:
        folder: As it was given.
        name: Its absolute path, for messages.

    Args:
        folder: It needn't be there, unless files are opened.
        prefixes: Replaced first.
        links: Whether symbolic links below the folder are followed.
        uris: Whether URIs that are no files are names of images, as where no file is opened.
    """

    def __init__(
        self, folder: Path, prefixes: PathPrefixes | None = None, *, links: bool = True, uris: bool = False
    ) -> None:
        self.folder = folder
        self._prefixes = prefixes or PathPrefixes()
        self._links = links
        self._uris = uris
        self._absolute = str(folder.absolute())
        self.name = posixpath.normpath(self._absolute)
        self._real = os.path.realpath(folder)
        self._starts = list(dict.fromkeys(normal_path(name).rstrip("/") for name in (self._absolute, self._real)))
        self._parents: dict[str, str | None] = {}
        self._listed: dict[Path, dict[str, str]] = {}
        self._linked: dict[Path, bool] = {}

    def place(self, written: str) -> Place:
        """Key and file of an image, from its path as a table or an HDF5 file has it.

        Raises:
            OutsideError: the path leads out of the folder.
            LinkError: it leads over a symbolic link, and they aren't followed.
            RecordError: it is one of Windows, or a URI, that no prefix replaces; or it leads to the folder itself.
        """
        text = self._prefixes.replaced(written)
        if is_plain(text):
            key, path = text, self.folder / text
        else:
            key = self._key(decoded(text))
            path = self.folder / key if is_uri(key) else self._file(key, text)
        if not self._links and self._over_link(path):
            raise LinkError("leads over a symbolic link")
        former = () if key == written else tuple(dict.fromkeys(self._formerly(written)))
        return Place(printable(key), path, former)

    def file(self, filepath: str) -> Path:
        """The file of a stored image, which may be spelt otherwise on the disk; where there is none, where it would be.

        Raises:
            ImageError: the path leads out of the folder, or is no path.
        """
        try:
            return self._file(self._key(filepath), filepath)
        except RecordError as error:
            raise ImageError(str(error)) from error

    def absolute(self, written: str) -> str | None:
        """The normal form of an absolute path; None for any other."""
        path = normal_path(self._prefixes.replaced(written))
        return path if path.startswith("/") else None

    def _key(self, text: str) -> str:
        """The key of a path that is no file URI any more."""
        if "\0" in text:
            raise RecordError("holds a NUL byte, which no file name can")
        if remedy := foreign(text):
            if is_uri(text) and self._uris:
                return text
            raise RecordError(remedy)
        path = normal_path(text)
        key = self._relative(path)
        if "%" in key and not _exists(self.folder / key):
            other = normal_path(unquote(key))
            inside = not other.startswith(("/", "..")) and other != "."
            key = other if inside and _exists(self.folder / other) else key
        return key

    def _relative(self, path: str) -> str:
        """A normal path relative to the folder.

        Raises:
            OutsideError: it leads out of the folder.
            RecordError: it is the folder.
        """
        key: str | None = path
        if path.startswith("/"):
            key = self._below(path)
            if key is None and "%" in path:
                key = self._below(normal_path(unquote(path)))
            if key is None:
                raise OutsideError(f"lies outside of the root {self.name}", path)
        if key in ("", "."):
            raise RecordError(f"is no file: it leads to the root {self.name}")
        assert key is not None
        if key == ".." or key.startswith("../"):
            ups = "../" * key.split("/").count("..")
            top = posixpath.normpath(posixpath.join(self._absolute, ups))
            raise OutsideError(
                f"leads out of the root {self.name} by ..: give --root {top} --path-prefix {ups}=",
                posixpath.normpath(posixpath.join(self._absolute, key)),
            )
        return key

    def _below(self, path: str) -> str | None:
        """An absolute path relative to the folder, by whatever links it goes there; None where it lies elsewhere."""
        for start in self._starts:
            if path == start or path.startswith(f"{start}/"):
                return path[len(start) + 1 :]
        parent, _, name = path.rpartition("/")
        if "\0" in parent:
            return None
        if parent not in self._parents:
            self._parents[parent] = self._by_links(parent)
        below = self._parents[parent]
        return None if below is None else f"{below}/{name}".lstrip("/")

    def _by_links(self, parent: str) -> str | None:
        parts = parent.split("/")
        for count in range(1, len(parts) + 1):
            start = "/".join(parts[:count])
            if os.path.realpath(_found(Path("/"), start.lstrip("/"))) == self._real:
                self._starts.append(start)
                return "/".join(parts[count:])
        real = os.path.realpath(_found(Path("/"), parent.lstrip("/")))
        return normal_path(real[len(self._real) + 1 :]) if real.startswith(self._real.rstrip("/") + "/") else None

    def _file(self, key: str, written: str) -> Path:
        """Where the file of a key lies: as it is spelt there, or else by the key."""
        for text in dict.fromkeys((key, unicodedata.normalize("NFD", key), written)):
            if not text.startswith("/") and ".." not in text.split("/") and _exists(self.folder / text):
                return self.folder / text
        return self._spelt(self.folder, key.split("/")) or self.folder / key

    def _spelt(self, folder: Path, parts: list[str]) -> Path | None:
        """A file below a folder by names in NFC; several parts may be one name that holds backslashes."""
        names = self._names(folder)
        for count in range(1, len(parts) + 1):
            name = names.get("\\".join(parts[:count]))
            if name is None:
                continue
            if count == len(parts):
                return folder / name
            if found := self._spelt(folder / name, parts[count:]):
                return found
        return None

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                names = os.listdir(folder)  # noqa: PTH208  names are wanted, and there may be a million
            except (OSError, ValueError):  # no folder, or no name of one: that the file can't be read is counted
                names = []
            self._listed[folder] = {unicodedata.normalize("NFC", printable(name)): name for name in sorted(names)}
        return self._listed[folder]

    def _over_link(self, path: Path) -> bool:
        parts = path.relative_to(self.folder).parts
        folder = self.folder
        for part in parts[:-1]:
            folder /= part
            if folder not in self._linked:
                self._linked[folder] = _is_link(folder)
            if self._linked[folder]:
                return True
        return _is_link(path)

    def _formerly(self, written: str) -> Iterable[str]:
        """The keys that were made of a text when paths kept their spelling."""
        keys = [written]
        path = Path(written)
        if path.is_absolute() and path.is_relative_to(self._absolute):
            keys.append(path.relative_to(self._absolute).as_posix())
        return (printable(key) for text in keys for key in (text, text.replace("\\", "/")))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or no text: that it can't be read is counted
        return False


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):  # as above
        return False


def _found(folder: Path, key: str) -> Path:
    """A folder by its name in either Unicode form."""
    forms = (folder / unicodedata.normalize(form, key) for form in ("NFC", "NFD"))
    return next((path for path in forms if _exists(path)), folder / key)
