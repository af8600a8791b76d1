"""Backup of a collection in a directory: its closed folder as one tar.gz file."""

import io
import json
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from cbmir.collections.manifests import BackupManifest, now
from cbmir.collections.seals import seal_of
from cbmir.errors import SourceError, one_line
from cbmir.store.edge import EdgeStore
from cbmir.store.edge_points import EdgeCollection
from cbmir.store.roots import ROOTS
from cbmir.store.shard import ENGINE, check_shard
from cbmir.wholefile import replacing

TAR = "collection.tar.gz"
_CARD, _SHARD = "collection.json", "shard"
_SINGLE = (_CARD, "files.json")
_MAX_FILES = 100_000


def pack(collection: EdgeCollection, folder: Path) -> BackupManifest:
    """Write an open collection to ``collection.tar.gz``, closed and held against others meanwhile.

    It is packed because of the holes: the engine makes files of 32 MiB for a handful of images. The folders of the
    images on this machine are left out, for a backup may leave it.

    Raises:
        OSError: the file can't be written.
        StoreError: the engine refused, or the collection is damaged.
    """
    points = collection.info().points
    collection.require_sound()
    with replacing(folder / TAR) as partial:
        with collection.at_rest(), tarfile.open(partial, "x:gz", compresslevel=1) as tar:
            for path in sorted(collection.folder.rglob("*")):
                name = path.relative_to(collection.folder).as_posix()
                if name == _CARD:
                    _add_metadata(tar, path)
                elif path.is_file() and _belongs(name):  # not the lock, nor what a killed process has left
                    tar.add(path, name)
        seal = seal_of(partial)
    return BackupManifest("directory", ENGINE, collection.name, (), collection.card, points, {TAR: seal}, now())


def unpack(folder: Path, manifest: BackupManifest, store: EdgeStore, name: str) -> EdgeCollection:
    """Make a collection of a checked backup.

    Raises:
        SourceError: the tar file holds something else than plain files within the collection.
        CollectionError: the collection exists already, or another version of the engine wrote the backup.
        StoreError: the engine can't open what the backup holds; no collection is left then.
    """

    def fill(made: Path) -> None:
        try:
            with tarfile.open(folder / TAR) as tar:
                tar.extractall(made, filter=_Filter(made))  # noqa: S202  it lets plain files below it through only
        except (tarfile.TarError, EOFError, zlib.error, ValueError, MemoryError) as error:
            raise SourceError(f"{folder / TAR} can't be unpacked: {one_line(error)}") from error
        check_shard(made)  # else a collection would be left that can't be opened

    if TAR not in manifest.files:
        raise SourceError(f"{folder} is damaged: its list of files doesn't tell of {TAR}")
    return store.adopt(name, fill)


def _add_metadata(tar: tarfile.TarFile, path: Path) -> None:
    """Add the metadata of a collection without its folders."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data.pop(ROOTS, None)
    content = (json.dumps(data, indent=2) + "\n").encode()
    member = tar.gettarinfo(path, _CARD)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _belongs(name: str) -> bool:
    """Whether a file, by its path in the folder, is part of a collection."""
    return name in _SINGLE or PurePosixPath(name).parts[:1] == (_SHARD,)


class _Filter:
    """Lets plain files of a collection through, as long as the disk has room for them.

    Args:
        folder: Where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._room = shutil.disk_usage(folder).free
        self._files = self._bytes = 0

    def __call__(self, member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        parts = PurePosixPath(member.name).parts
        if not member.isfile():
            raise tarfile.SpecialFileError(member)
        if ".." in parts or not _belongs(member.name):
            raise tarfile.OutsideDestinationError(member, path)
        self._files += 1
        self._bytes += member.size
        if self._files > _MAX_FILES:
            raise tarfile.TarError(f"it holds over {_MAX_FILES:,} files")
        if self._bytes > self._room:
            raise tarfile.TarError(f"it needs {self._bytes:,} bytes of disk or more, {self._room:,} are free")
        return tarfile.data_filter(member, path)
